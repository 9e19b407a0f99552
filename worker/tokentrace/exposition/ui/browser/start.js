// The start page: where everything is, the state of this replica, and what to do next.

import { Unauthorized, fetchState, session } from "./api.js";
import { element, update } from "./dom.js";
import { ago, whole } from "./format.js";
import { askForToken } from "./login.js";
import { nextSteps } from "./next.js";

const INTERVAL_MS = 4000;
const $ = (id) => document.getElementById(id);

function say(text, bad = false) {
  if ($("status").textContent !== text) $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

function show(state) {
  const { own } = state;
  const rejected = Object.values(own.rejected).reduce((sum, count) => sum + count, 0);
  say(own.waiting_for ? `Not ready: ${own.waiting_for}` : "Ready: this replica counts.", Boolean(own.waiting_for));
  update($("links"), [state.prometheus_path, state.health_path, state.has_alerts], ([metrics, health, alerts]) => {
    const links = [
      ["ui", "Live page", "cost, latency, errors and quality of the whole fleet"],
      [metrics.slice(1), metrics, "what Prometheus scrapes; with a token, a browser cannot open it"],
      [`${health.slice(1)}/ready`, `${health}/ready`, "readiness, for probes"],
    ];
    if (alerts) links.push(["alerts", "/alerts", "the state of every alert rule, as JSON"]);
    return links.map(([path, name, text]) => element("li", {}, element("a", { href: path }, name), `: ${text}`));
  });
  update($("next"), nextSteps(state), (steps) => steps.map(({ text, command }) => element("li", {}, text, command ? element("pre", { tabindex: "0" }, element("code", {}, command)) : null)));
  $("next-section").hidden = false;
  const facts = {
    Version: state.version,
    Replica: own.replica,
    Group: state.group,
    Topic: state.topic,
    Guarantee: own.guarantee.replaceAll("_", " "),
    Started: ago(Date.now() / 1000 - own.started_s),
    Partitions: Object.keys(own.partitions).join(", ") || "none",
    "Spans counted": whole(own.counted),
    "Messages rejected": whole(rejected),
  };
  update($("state"), facts, (shown) => Object.entries(shown).map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
  $("state-section").hidden = false;
}

async function poll() {
  try {
    show(await fetchState());
    $("login").replaceChildren();
  } catch (error) {
    if (error instanceof Unauthorized) {
      const reason = session.token ? "The token is wrong." : error.message;
      session.token = "";
      say("Waiting for the token.");
      askForToken($("login"), reason, poll);
      return;
    }
    say(`No answer from the replica (${error.message}). Trying again.`, true);
  }
  setTimeout(poll, INTERVAL_MS);
}

poll();
