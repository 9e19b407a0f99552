// The parts of the page: each makes elements of a part of the document.

import { element, table } from "./dom.js";
import { aboutDollars, ago, clock, dollars, labelText, milliseconds, percent, short, whole } from "./format.js";

const usd = (nano) => Number(nano) / 1e9;

function tile(title, value, detail, key) {
  return element("div", { class: "tile" }, element("dt", {}, title), element("dd", { "data-figure": key }, value), detail && element("dd", { class: "hint" }, detail));
}

function exactCost(total, perMinute) {
  return [`${aboutDollars(perMinute)} a minute now; exactly `, element("span", { "data-figure": "exact-cost" }, dollars(total.cost_nano_usd))];
}

/** The point before the one that is still filling; null for a series of one point. */
export function lastComplete(values) {
  return values.length > 1 ? values[values.length - 2] : null;
}

export function tiles({ total, points, step }) {
  const perMinute = (value) => (value === null ? null : value / step);
  const spans = perMinute(lastComplete(points.spans));
  const failed = total.errors + total.timeouts;
  const latency = total.latency_ms;
  return element(
    "dl",
    { class: "tiles" },
    tile("Cost", aboutDollars(usd(total.cost_nano_usd)), exactCost(total, perMinute(lastComplete(points.cost_usd))), "cost"),
    tile("Spans", whole(total.spans), `${short(spans === null ? null : spans / 60)} a second now`, "spans"),
    tile("Errors", percent(failed, total.spans), `${whole(total.errors)} errors, ${whole(total.timeouts)} timeouts`, "errors"),
    tile("Latency p95", milliseconds(latency.p95), `p50 ${milliseconds(latency.p50)}, p99 ${milliseconds(latency.p99)}`, "latency"),
    tile("First token p95", milliseconds(total.ttft_ms.p95), `p50 ${milliseconds(total.ttft_ms.p50)}`, "ttft"),
    tile("Quality", total.quality === null ? "–" : total.quality.toFixed(3), `${whole(total.scores)} scores`, "quality"),
    tile("Without a price", whole(total.unpriced), total.unpriced ? "spans that cost $0 here" : "every span has a cost", "unpriced"),
  );
}

export function rows({ rows: found, view, total }, drill) {
  if (!found.length) return element("p", { class: "hint" }, "No spans in this window.");
  const name = ({ value, others }) =>
    value === null
      ? `${whole(others)} others`
      : element("button", { type: "button", class: "link", "data-key": `row ${value}`, click: () => drill(value) }, labelText(value));
  return table(
    `Figures by ${view.by}`,
    [
      { title: view.by, cell: name },
      { title: "Cost", number: true, cell: (row) => dollars(row.cost_nano_usd) },
      { title: "Share", number: true, cell: (row) => percent(usd(row.cost_nano_usd), usd(total.cost_nano_usd)) },
      { title: "Spans", number: true, cell: (row) => whole(row.spans) },
      { title: "Errors", number: true, cell: (row) => percent(row.errors + row.timeouts, row.spans) },
      { title: "p50", number: true, cell: (row) => milliseconds(row.latency_ms.p50) },
      { title: "p95", number: true, cell: (row) => milliseconds(row.latency_ms.p95) },
      { title: "p99", number: true, cell: (row) => milliseconds(row.latency_ms.p99) },
      { title: "Prompt tokens", number: true, cell: (row) => short(row.units.prompt ?? 0) },
      { title: "Completion tokens", number: true, cell: (row) => short(row.units.completion ?? 0) },
      { title: "Quality", number: true, cell: (row) => (row.quality === null ? "–" : row.quality.toFixed(3)) },
    ],
    found,
  );
}

/** Every point in text, for those who do not see the charts. */
export function pointTable({ first, step, points }) {
  const places = points.spans.map((_, place) => place).reverse();
  const value = (series, format) => (place) => format(series[place]);
  return table(
    "Figures over time",
    [
      { title: "From", cell: (place) => clock(first + place * step * 60) },
      { title: "Cost", number: true, cell: value(points.cost_usd, aboutDollars) },
      { title: "Spans", number: true, cell: value(points.spans, whole) },
      { title: "Errors", number: true, cell: value(points.errors, whole) },
      { title: "Timeouts", number: true, cell: value(points.timeouts, whole) },
      { title: "p50", number: true, cell: value(points.latency_ms.p50, milliseconds) },
      { title: "p95", number: true, cell: value(points.latency_ms.p95, milliseconds) },
      { title: "p99", number: true, cell: value(points.latency_ms.p99, milliseconds) },
      { title: "Quality", number: true, cell: value(points.quality, (number) => (number === null ? "–" : number.toFixed(3))) },
    ],
    places,
  );
}

/** A line on what is wrong, null where nothing is. */
export function problem(text) {
  return text ? element("p", { class: "problem" }, text) : null;
}

const DURATIONS = [["15m", "15 minutes"], ["1h", "1 hour"], ["8h", "8 hours"], ["7d", "7 days"]];

/** silence: (alert, duration) -> nothing; asks for the rest. */
export function alerts(found, maySilence, silence) {
  if (!found) return element("p", { class: "hint" }, "No rules are configured; docs/alerts.md says how to add some.");
  const answer = found.answer;
  if (!answer) return problem(found.problem) ?? element("p", { class: "hint" }, "Reading …");
  const choice = (alert) => {
    const select = element("select", { "aria-label": `Time to silence ${alert.name}`, "data-key": `time ${alert.name}` }, DURATIONS.map(([value, text]) => element("option", { value, selected: value === "1h" }, text)));
    const click = () => silence(alert.name, select.value);
    return element("span", { class: "pair" }, select, element("button", { type: "button", "data-key": `silence ${alert.name}`, "aria-label": `Silence ${alert.name}`, click }, "Silence"));
  };
  const state = (alert) => {
    const text = alert.state === "firing" ? `firing since ${alert.last_fired_at}` : alert.state;
    return element("span", { class: alert.state === "firing" ? "bad" : "good" }, alert.silenced_until ? `${text}, silenced until ${alert.silenced_until}` : text);
  };
  const groups = (alert) => alert.instances.map(({ group }) => Object.entries(group).map(([label, value]) => `${label}=${labelText(value)}`).join(", ")).filter(Boolean).join("; ");
  const columns = [
    { title: "Rule", cell: (alert) => alert.name },
    { title: "State", cell: (alert) => element("span", {}, state(alert), groups(alert) ? ` (${groups(alert)})` : "") },
    { title: "Condition", cell: (alert) => `${alert.metric} ${alert.op} ${alert.threshold} over ${alert.window}` },
    { title: "Value", number: true, cell: (alert) => short(alert.value) },
    { title: "Firings", number: true, cell: (alert) => whole(alert.firings) },
  ];
  if (maySilence) columns.push({ title: "Silence", cell: choice });
  return [
    problem(found.problem),
    table("Alert rules", columns, answer.alerts),
    element("p", { class: "hint" }, answer.evaluator ? `Evaluated by ${answer.evaluator}, up to ${answer.evaluated_until ?? "no minute yet"}.` : "No replica evaluates the rules."),
    maySilence ? null : element("p", { class: "hint" }, "Silencing requires http_server.admin_token, which is not set."),
  ].filter(Boolean);
}

export function budgets({ answer, problem: reason }) {
  if (!answer) return problem(reason) ?? element("p", { class: "hint" }, "Reading …");
  if (!answer.length) return element("p", { class: "hint" }, "Nothing is spent of any budget yet.");
  const colors = { ok: "good", warning: "bad", exceeded: "bad" };
  const columns = [
    { title: "Budget", cell: ({ budget }) => budget },
    { title: "Period", cell: ({ period }) => period },
    { title: "Group", cell: ({ group }) => Object.entries(group).map(([label, value]) => `${label}=${labelText(value)}`).join(", ") || "all spans" },
    { title: "Spent", number: true, cell: ({ spent_usd: spent }) => `$${spent}` },
    { title: "Amount", number: true, cell: ({ limit_usd: limit }) => `$${limit}` },
    { title: "Share", number: true, cell: ({ spent_usd: spent, limit_usd: limit }) => percent(Number(spent), Number(limit)) },
    { title: "Verdict", cell: ({ verdict, since }) => element("span", { class: colors[verdict] ?? "" }, since ? `${verdict}, counted since ${since}` : verdict) },
  ];
  return [problem(reason), table("Verdicts on budgets", columns, answer)].filter(Boolean);
}

export function fleet({ feed, lag, own }, now) {
  const behind = lag?.answer ?? [];
  const total = behind.reduce((sum, { lag: records }) => sum + records, 0);
  const seconds = Math.max(0, ...Object.values(own.partitions));
  return [
    behind.length ? element("p", {}, element("b", {}, whole(total)), ` records of ${whole(behind.length)} partitions wait to be counted, in the whole group.`) : null,
    problem(lag?.problem),
    behind.length && table(
      "Partitions",
      [
        { title: "Partition", cell: ({ partition }) => String(partition) },
        { title: "Lag", number: true, cell: ({ lag: records }) => whole(records) },
        { title: "Committed", number: true, cell: ({ committed }) => whole(committed) },
        { title: "End", number: true, cell: ({ end }) => whole(end) },
        { title: "Read by this replica", cell: ({ partition }) => (String(partition) in own.partitions ? "yes" : "no") },
      ],
      behind,
    ),
    element("h3", {}, "Replicas that have committed spans"),
    table(
      "Replicas",
      [
        { title: "Replica", cell: ({ replica }) => (replica === own.replica ? `${replica} (this one)` : replica) },
        { title: "Last commit with spans", cell: ({ committed_s: at }) => ago(now - at) },
      ],
      feed.replicas,
    ),
    element("h3", {}, `This replica, ${own.replica}`),
    element(
      "dl",
      { class: "facts" },
      ...Object.entries({
        State: own.waiting_for || "ready",
        "Last commit": own.committed_s ? ago(now - own.committed_s) : "none yet",
        Commits: `${whole(own.commits.ok)} good, ${whole(own.commits.dropped)} dropped, ${whole(own.commits.failed)} failed`,
        Lag: `${seconds.toFixed(1)} s`,
        "Records polled": whole(own.polled),
        "Spans counted": whole(own.counted),
        Groups: `${whole(own.groups.used)} of ${whole(own.groups.limit)}`,
      }).map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))),
    ),
  ].filter(Boolean);
}

const REPAIRS = {
  prompt_excludes_cache: "Prompt tokens were read as those beside the cached ones",
  whole_below_parts: "A count was raised to the sum of its parts",
};

export function rejects({ letters, own, total }, now) {
  const found = letters?.answer;
  const counted = Object.entries(own.rejected);
  return [
    element("h3", {}, "Rejected"),
    problem(letters?.problem),
    counted.length
      ? table(
          "Rejected by this replica",
          [
            { title: "Reason, all time, this replica", cell: ([reason]) => reason },
            { title: "Messages", number: true, cell: ([, count]) => whole(count) },
          ],
          counted,
        )
      : element("p", { class: "hint" }, "This replica has rejected nothing."),
    found?.examples.length
      ? [
          element("h3", {}, `The latest of the whole group: ${Object.entries(found.reasons).map(([reason, count]) => `${reason} ${whole(count)}`).join(", ")}`),
          table(
            "Latest dead letters",
            [
              { title: "Reason", cell: ({ reason }) => reason },
              { title: "What is wrong", cell: ({ error }) => error },
              { title: "Message", cell: ({ topic, partition, offset }) => `${topic} ${partition}:${offset}` },
              { title: "Bytes", number: true, cell: ({ bytes }) => whole(bytes) },
              { title: "When", cell: ({ time_s: at }) => (at === null ? "–" : ago(now - at)) },
            ],
            found.examples,
          ),
        ]
      : null,
    total
      ? [
          element("h3", {}, "Repaired, in this window"),
          table(
            "Repairs",
            [
              { title: "Repair", cell: ([name]) => name },
              { title: "Spans", number: true, cell: ([, count]) => whole(count) },
            ],
            [...Object.entries(total.repaired).map(([name, count]) => [REPAIRS[name] ?? name, count]), ["A time that cannot be true was replaced by that of publishing", total.clamped]],
          ),
        ]
      : null,
  ]
    .flat()
    .filter(Boolean);
}
