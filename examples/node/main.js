// Publishes COUNT spans, and prints how many Kafka has acknowledged.
"use strict";

const crypto = require("crypto");
const { Publisher } = require("./publisher");

async function main() {
  const publisher = new Publisher({
    brokers: (process.env.KAFKA ?? "127.0.0.1:9092").split(","),
    topic: process.env.TOPIC ?? "llm-spans",
    framing: process.env.FRAMING ?? "avro",
    schema: process.env.SCHEMA ?? "../../schemas/span.avsc",
  });
  await publisher.connect();
  const count = Number(process.env.COUNT ?? "1");
  for (let number = 0; number < count; number++) {
    const started = Date.now();
    // ... the call of the model ...
    const ended = Date.now();
    publisher.publish({
      trace_id: crypto.randomBytes(16).toString("hex"),
      span_id: crypto.randomBytes(8).toString("hex"),
      name: "chat",
      caller: "node",
      model: "gpt-4o",
      provider: "openai",
      prompt_tokens: 1000 + (number % 100),
      completion_tokens: 50,
      cached_prompt_tokens: 512,
      prompt_tokens_include_cache: true,
      latency_ms: ended - started,
      status: "ok",
      started_at: started * 1000,
      ended_at: ended * 1000,
    });
    // An application awaits its calls; this loop lets the publisher work in between.
    if (number % 1000 === 999) await new Promise((resolve) => setTimeout(resolve, 20));
  }
  await publisher.close();
  console.log(`delivered ${publisher.delivered}, lost ${publisher.lost}`);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
