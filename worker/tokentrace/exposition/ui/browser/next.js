// What to do next, of a replica in this state. A pure function: tests run it in Node.

/** Steps for people who have just started, and for those with a problem: [{ text, command }]. */
export function nextSteps({ own, topic, has_alerts: alerts, may_silence: maySilence, prometheus_path: metrics }) {
  const steps = [];
  const rejected = Object.values(own.rejected).some((count) => count > 0);
  if (own.waiting_for) {
    steps.push({ text: "Find out what this replica waits for.", command: "tokentrace doctor --config tokentrace.yml" });
  }
  if (!own.counted) {
    steps.push({ text: `Publish spans to the topic ${topic}; these are synthetic:`, command: "tokentrace produce --count 1000" });
  } else {
    steps.push({ text: "Open the live page and look at the figures by model, provider, caller or dimension." });
    steps.push({ text: `Let Prometheus scrape ${metrics} of every replica.`, command: "tokentrace assets export deploy" });
  }
  if (rejected) {
    steps.push({ text: "Some messages were rejected; look at them, and replay them when their cause is gone.", command: "tokentrace dlq list" });
  }
  if (!alerts) steps.push({ text: "Add rules to alerts: in the configuration, to be told of a cost spike, slow answers or errors." });
  else if (!maySilence) steps.push({ text: "Set http_server.admin_token to silence alerts from the live page." });
  return steps;
}
