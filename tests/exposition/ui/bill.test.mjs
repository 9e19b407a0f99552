// Run by test_browser_code.py, in Node: the bill as elements, with the few parts of a document that they need.

import assert from "node:assert/strict";
import test from "node:test";

class FakeElement {
  constructor(name) {
    Object.assign(this, { name, attributes: {}, children: [] });
  }
  setAttribute(key, value) {
    this.attributes[key] = value;
  }
  append(...children) {
    this.children.push(...children);
  }
  get textContent() {
    return this.children.map((child) => child.textContent ?? String(child)).join("");
  }
  /** All elements with a name, in the order of the document. */
  all(name) {
    return this.children.flatMap((child) => (child instanceof FakeElement ? [...(child.name === name ? [child] : []), ...child.all(name)] : []));
  }
}

globalThis.document = { createElement: (name) => new FakeElement(name) };
const { bill } = await import(new URL("../../../worker/tokentrace/exposition/ui/browser/bill.js", import.meta.url));

const HOSTILE = "<img src=x onerror=alert(1)>";
const VIEW = { by: "model", where: {} };
const MONTH = {
  month: "2026-11",
  spans: 3,
  cost_nano_usd: "9007199254740993000000001",
  rows: [{ value: HOSTILE, spans: 2, cost_nano_usd: "1500000000" }, { value: null, others: 2, spans: 1, cost_nano_usd: "1" }],
  changes: ["Corrections have added 1.000000000 USD."],
  gaps: ["Incomplete: the hours up to then lack rollups (expired)."],
  more_gaps: 3,
};
const EMPTY = { month: "2026-10", spans: 0, cost_nano_usd: "0", rows: [], changes: [], gaps: [], more_gaps: 0 };

function shown(...parameters) {
  const place = new FakeElement("div");
  place.append(...[bill(...parameters)].flat());
  return place;
}

test("a bill has every digit, its gaps, and labels as text", () => {
  const place = shown({ problem: "", answer: { until_s: 1_795_000_000.5, months: [MONTH, EMPTY] } }, VIEW, true);
  assert.deepEqual(place.all("h3").map((title) => title.textContent), ["This month, 2026-11 (UTC)", "Last month, 2026-10 (UTC)"]);
  const paragraphs = place.all("p").map((line) => [line.attributes.class ?? "", line.textContent]);
  assert.deepEqual(paragraphs, [
    ["", "Complete until 2026-11-18 11:06:40 UTC, the last commit that the ledger has."],
    ["", "$9,007,199,254,740,993.000000001, exactly 9,007,199,254,740,993,000,000,001 nano-USD, of 3 spans."],
    ["problem", MONTH.gaps[0]],
    ["problem", "3 earlier gaps; `tokentrace ledger status` shows all."],
    ["hint", MONTH.changes[0]],
    ["", "$0.00, exactly 0 nano-USD, of 0 spans."],
    ["hint", "No spans in this month."],
  ]);
  const cells = place.all("tr").map((row) => row.children.map((cell) => cell.textContent));
  assert.deepEqual(cells, [["model", "USD", "Nano-USD", "Spans"], [HOSTILE, "$1.50", "1,500,000,000", "2"], ["2 others", "$0.000000001", "1", "1"]]);
  assert.equal(place.all("img").length, 0);
  const region = place.all("div")[0].attributes;
  assert.deepEqual([region.role, region.tabindex, region["aria-label"]], ["region", "0", "Bill of 2026-11 by model"]);
  assert.deepEqual(place.all("th").map((cell) => cell.attributes.scope), ["col", "col", "col", "col", "row", "row"]);
});

test("what is missing is a line", () => {
  const line = (...parameters) => shown(...parameters).textContent;
  assert.match(line(undefined, VIEW, true), /^No ledger is set: ledger\.url names/);
  assert.match(line(undefined, VIEW, false), /exactly_once/);
  assert.equal(line({ answer: null, problem: "" }, VIEW, true), "Reading …");
  assert.equal(line({ answer: null, problem: "It does not answer." }, VIEW, true), "It does not answer.");
  const old = shown({ answer: { until_s: null, months: [EMPTY] }, problem: "It does not answer." }, { by: "model", where: { caller: "a" } }, true);
  assert.deepEqual(old.all("p").slice(0, 3).map((found) => found.textContent), ["It does not answer.", "The ledger has no commit of any worker yet.", "Bills are of all spans: the filters above do not apply."]);
});
