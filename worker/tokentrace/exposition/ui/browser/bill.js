// The bill: this month and the last one, from the ledger.

import { element, table } from "./dom.js";
import { dollars, labelText, moment, whole } from "./format.js";
import { problem } from "./sections.js";

function hint(text) {
  return element("p", { class: "hint" }, text);
}

/** found: the answer of the ledger, undefined where none is set. fleet: whether there are rollups to keep one from. */
export function bill(found, view, fleet) {
  if (!fleet) return hint("A ledger needs worker.guarantee: exactly_once; docs/billing.md says how to keep one.");
  if (!found) return hint("No ledger is set: ledger.url names its database; docs/billing.md says how to keep one.");
  const answer = found.answer;
  if (!answer) return problem(found.problem) ?? hint("Reading …");
  const until = answer.until_s === null ? "The ledger has no commit of any worker yet." : `Complete until ${moment(answer.until_s)} UTC, the last commit that the ledger has.`;
  const filtered = Object.keys(view.where).length > 0;
  return [
    problem(found.problem),
    element("p", {}, until),
    filtered ? hint("Bills are of all spans: the filters above do not apply.") : null,
    ...answer.months.map((month, place) => monthOf(month, place === 0 ? "This month" : "Last month", view.by)),
  ]
    .flat()
    .filter(Boolean);
}

function monthOf(month, title, by) {
  const name = ({ value, others }) => (value === null ? `${whole(others)} others` : labelText(value));
  const columns = [
    { title: by, cell: name },
    { title: "USD", number: true, cell: (row) => dollars(row.cost_nano_usd) },
    { title: "Nano-USD", number: true, cell: (row) => whole(row.cost_nano_usd) },
    { title: "Spans", number: true, cell: (row) => whole(row.spans) },
  ];
  return [
    element("h3", {}, `${title}, ${month.month} (UTC)`),
    element("p", {}, element("b", { "data-figure": `bill-${month.month}` }, dollars(month.cost_nano_usd)), `, exactly ${whole(month.cost_nano_usd)} nano-USD, of ${whole(month.spans)} spans.`),
    ...month.gaps.map(problem),
    month.more_gaps ? problem(`${whole(month.more_gaps)} earlier gaps; \`tokentrace ledger status\` shows all.`) : null,
    ...month.changes.map(hint),
    month.rows.length ? table(`Bill of ${month.month} by ${by}`, columns, month.rows) : hint("No spans in this month."),
  ];
}
