// Run by test_browser_code.py, in Node.

import assert from "node:assert/strict";
import test from "node:test";

const folder = new URL("../../../worker/tokentrace/exposition/ui/browser/", import.meta.url);
const { aboutDollars, ago, dollars, labelText, milliseconds, percent, short, whole } = await import(new URL("format.js", folder));
const { drillDown, parseView, viewQuery, without } = await import(new URL("view.js", folder));
const { nextSteps } = await import(new URL("next.js", folder));

test("a cost has every digit that there is, however large", () => {
  assert.equal(dollars("0"), "$0.00");
  assert.equal(dollars("1"), "$0.000000001");
  assert.equal(dollars("1500000000"), "$1.50");
  assert.equal(dollars("9007199254740993000000001"), "$9,007,199,254,740,993.000000001");
});

test("an approximate cost keeps three digits, and cents from a dollar on", () => {
  assert.deepEqual([0, 0.0001234, 0.5, 1234.5, 2.5e6, null].map(aboutDollars), ["$0", "$0.000123", "$0.5", "$1,234.50", "$2.5M", "–"]);
});

test("numbers, durations, shares and ages are short", () => {
  assert.deepEqual([0, 999, 9999, 12_345, 1_234_567, 0.12345, null].map(short), ["0", "999", "9,999", "12.3k", "1.23M", "0.123", "–"]);
  assert.equal(whole(1234567), "1,234,567");
  assert.deepEqual([12.4, 1234, 65_000, null].map(milliseconds), ["12 ms", "1.23 s", "65.0 s", "–"]);
  assert.deepEqual([percent(1, 0), percent(0, 5), percent(1, 100_000), percent(1, 3)], ["–", "0 %", "<0.01 %", "33.3 %"]);
  assert.deepEqual([0.4, 75, 7300, 200_000].map(ago), ["0 s ago", "1 min ago", "2 h ago", "2 d ago"]);
  assert.equal(labelText(""), "(empty)");
});

test("a view survives the address, whatever its labels hold", () => {
  const view = { window: "360", by: "team", where: [["model", "a&b=c#d%"], ["caller", ""]] };
  assert.deepEqual(parseView(`#${viewQuery(view)}`), view);
  assert.deepEqual(parseView(""), { window: "60", by: "model", where: [] });
});

test("a drill-down filters by the value and goes on by the next label", () => {
  const labels = ["model", "provider", "caller"];
  const first = drillDown(parseView(""), labels, "gpt");
  assert.deepEqual([first.by, first.where], ["provider", [["model", "gpt"]]]);
  const second = drillDown(first, labels, "openai");
  assert.deepEqual([second.by, second.where.length], ["caller", 2]);
  assert.deepEqual(without(second, "model").where, [["provider", "openai"]]);
  assert.equal(without(second, "model").by, "model");
});

test("the next step fits the state", () => {
  const state = { own: { rejected: {}, counted: 0, waiting_for: "" }, topic: "spans", has_alerts: false, may_silence: false, prometheus_path: "/metrics" };
  assert.match(nextSteps(state)[0].command, /produce/);
  const counting = { ...state, own: { rejected: { malformed: 3 }, counted: 9, waiting_for: "a broker" }, has_alerts: true };
  assert.deepEqual(nextSteps(counting).map(({ command }) => command?.split(" ")[1]), ["doctor", undefined, "assets", "dlq", undefined]);
});
