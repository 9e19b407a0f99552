// The live page: asks for the document of the view every few seconds, and shows what has changed.

import { Unauthorized, fetchData, session, silence } from "./api.js";
import { bill } from "./bill.js";
import { Chart } from "./charts.js";
import { element, update } from "./dom.js";
import { aboutDollars, clock, labelText, milliseconds, short } from "./format.js";
import { askForToken } from "./login.js";
import * as sections from "./sections.js";
import { drillDown, parseView, viewQuery, without } from "./view.js";

const INTERVAL_MS = 4000;
const WINDOWS = [["15", "15 minutes"], ["60", "1 hour"], ["360", "6 hours"], ["1440", "24 hours"]];

const $ = (id) => document.getElementById(id);
const perSecond = (number) => `${short(number)}/s`;

let view = parseView(location.hash);
let data = null;
let tag = null;
let offset = 0;
let paused = false;
let timer = 0;
let asked = 0;
let charts = null;

function now() {
  return Date.now() / 1000 + offset;
}

function go(next) {
  history.pushState(null, "", `#${viewQuery(next)}`);
  changeView(next);
}

function changeView(next) {
  view = next;
  tag = null;
  poll();
}

function say(text, bad = false) {
  const status = $("status");
  if (status.textContent !== text) status.textContent = text;
  status.classList.toggle("bad", bad);
}

async function poll() {
  clearTimeout(timer);
  const mine = ++asked;
  try {
    const found = await fetchData(viewQuery(view), tag);
    if (mine !== asked) return;
    ({ tag, offset } = found);
    data = found.data ?? data;
    $("login").replaceChildren();
    show();
  } catch (error) {
    if (mine !== asked) return;
    if (error instanceof Unauthorized) {
      const reason = session.token ? "The token is wrong." : error.message;
      session.token = "";
      $("main").hidden = true;
      say("Waiting for the token.");
      askForToken($("login"), reason, poll);
      return;
    }
    const since = data ? ` These figures are old.` : "";
    say(`No answer from the replica (${error.message}).${since} Trying again.`, true);
  }
  if (!paused) timer = setTimeout(pollIfSeen, INTERVAL_MS);
}

/** A page that nobody sees asks for nothing. */
function pollIfSeen() {
  if (!document.hidden) poll();
}

function show() {
  $("main").hidden = false;
  $("logout").hidden = !session.token;
  const { own, feed } = data;
  update($("place"), [data.group, data.topic], ([group, topic]) => `Group ${group}, topic ${topic}`);
  showStatus(own, feed);
  showControls();
  showFigures();
  const minute = Math.floor(now() / 5) * 5;
  update($("alerts"), [data.alerts, data.may_silence], ([found, may]) => sections.alerts(found, may, silenceAlert));
  $("budgets-section").hidden = !data.budgets;
  if (data.budgets) update($("budgets"), data.budgets, sections.budgets);
  update($("bill"), [data.bill, data.view, feed.fleet], ([found]) => bill(found, data.view, feed.fleet));
  update($("fleet"), [{ feed, lag: data.lag, own }, minute], ([found, at]) => sections.fleet(found, at));
  update($("rejects"), [{ letters: data.letters, own, total: data.total }, minute], ([found, at]) => sections.rejects(found, at));
  update($("version"), data.version, (version) => `tokentrace ${version}`);
}

function showStatus(own, feed) {
  if (own.waiting_for) say(`This replica is not ready: ${own.waiting_for}`, true);
  else if (!feed.fleet) say("Live, of this replica alone, while you look: it counts at least once, which writes no rollups.");
  else if (feed.problem) say(`The rollups cannot be read: ${feed.problem}`, true);
  else if (paused) say("Paused.");
  else say("Live, from the rollups of all replicas.");
}

function showControls() {
  const select = (id, name, options, chosen) =>
    element(
      "span",
      { class: "pair" },
      element("label", { for: id }, name),
      element("select", { id, "data-key": id, change: (event) => go({ ...view, [id]: event.target.value }) }, options.map(([value, text]) => element("option", { value, selected: value === chosen }, text))),
    );
  update($("controls"), [data.labels, view], ([labels]) => [
    select("window", "Window", WINDOWS, view.window),
    select("by", "By", labels.map((label) => [label, label]), view.by),
    ...view.where.map(([label, value]) =>
      element("button", { type: "button", class: "chip", "data-key": `without ${label}`, "aria-label": `Remove the filter ${label}=${labelText(value)}`, click: () => go(without(view, label)) }, `${label}=${labelText(value)} ×`),
    ),
  ]);
}

function showFigures() {
  const { feed, points, lines, first, step } = data;
  const begin = Math.max(first, 0);
  const history = feed.from_s === null ? "Connecting to the rollups …" : feed.from_s > begin + 60 ? `Complete since ${clock(feed.from_s)}${feed.reading ? "; earlier minutes are being read" : "; earlier minutes are not kept, there are too many groups"}.` : "";
  const unreadable = feed.unreadable ? ` ${feed.unreadable} records of the rollups could not be read and are left out.` : "";
  update($("history"), history + unreadable, (text) => text);
  update($("tiles"), [data.total, points, step], () => sections.tiles(data));
  update($("rows"), [data.rows, data.view, data.total], () => sections.rows(data, (value) => go(drillDown(view, data.labels, value))));
  $("rows-title").textContent = `By ${data.view.by}`;
  if ($("points").parentElement.open) update($("points"), [first, points], () => sections.pointTable(data));
  drawCharts(points, lines, first, step);
}

function drawCharts(points, lines, first, step) {
  charts ??= {
    cost: new Chart($("chart-cost"), "Cost a minute, USD", aboutDollars),
    spans: new Chart($("chart-spans"), "Spans a second", perSecond),
    latency: new Chart($("chart-latency"), "Latency", milliseconds),
    tokens: new Chart($("chart-tokens"), "Units a minute", short),
    quality: new Chart($("chart-quality"), "Quality", (value) => (value === null ? "–" : value.toFixed(2))),
  };
  // The last point is still filling.
  const shown = Math.max(points.spans.length - 1, 1);
  const times = Array.from({ length: shown }, (_, place) => first + place * step * 60);
  const cut = (values, divisor = 1) => values.slice(0, shown).map((value) => (value === null ? null : value / divisor));
  const series = (names, divisor) => Object.entries(names).map(([name, values]) => ({ name, values: cut(values, divisor) }));
  charts.cost.show(times, lines.map(({ value, cost_usd }) => ({ name: labelText(value), values: cut(cost_usd, step) })));
  charts.spans.show(times, series({ spans: points.spans, errors: points.errors, timeouts: points.timeouts }, step * 60));
  charts.latency.show(times, series(points.latency_ms));
  charts.tokens.show(times, series(points.units, step));
  charts.quality.show(times, series({ "mean score": points.quality }));
}

async function silenceAlert(alert, duration) {
  try {
    const { silenced_until: until } = await silence(alert, duration);
    $("silenced").textContent = `${alert} is silenced until ${until}; the table shows it in a few seconds.`;
  } catch (error) {
    $("silenced").textContent = `${alert} is not silenced: ${error.message}.`;
  }
}

function togglePause() {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", String(paused));
  if (data) show();
  poll();
}

$("pause").addEventListener("click", togglePause);
$("logout").addEventListener("click", () => {
  session.token = "";
  data = tag = null;
  location.reload();
});
$("points").parentElement.addEventListener("toggle", () => data && showFigures());
addEventListener("popstate", () => changeView(parseView(location.hash)));
addEventListener("hashchange", () => changeView(parseView(location.hash)));
document.addEventListener("visibilitychange", pollIfSeen);
document.addEventListener("keydown", (event) => {
  const typing = event.target instanceof HTMLElement && event.target.matches("input, select, textarea");
  if (event.key === "p" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) togglePause();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => Object.values(charts ?? {}).forEach((chart) => chart.redraw()));

poll();
