// Publishes the spans of model calls to Kafka, in batches and in the background. Copy it into an application.
"use strict";

const fs = require("fs");
const avro = require("avsc");
const { Kafka, logLevel } = require("kafkajs");

// The first bytes of each message, as `tokentrace schema header` prints them for schemas/span.avsc.
const HEADER = Buffer.from("c301e9cacc9ef41552d2", "hex");

const MAX_QUEUE = 100_000;
const BATCH = 5_000;
const LINGER_MS = 50;

class Publisher {
  // framing: "avro", or "json" for workers with `kafka.framing: json`, which needs neither schema nor header.
  constructor({ brokers, topic, framing = "avro", schema = "schemas/span.avsc" }) {
    const kafka = new Kafka({ clientId: "tokentrace-example", brokers, logLevel: logLevel.ERROR });
    this.producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1, retry: { retries: 20 } });
    this.topic = topic;
    if (framing === "avro") {
      this.type = avro.Type.forSchema(JSON.parse(fs.readFileSync(schema, "utf8")));
    }
    this.queue = [];
    this.delivered = 0;
    this.lost = 0;
    this.sending = null;
  }

  async connect() {
    await this.producer.connect();
  }

  // Never throws and never waits: a span that cannot be published is counted in `lost`.
  publish(span) {
    try {
      if (this.queue.length >= MAX_QUEUE) throw new Error("the queue is full");
      const value = this.type ? Buffer.concat([HEADER, this.type.toBuffer(span)]) : Buffer.from(JSON.stringify(span));
      this.queue.push({ value });
      this.sending ??= this.send();
    } catch (error) {
      this.lost += 1;
    }
  }

  async send() {
    await new Promise((resolve) => setTimeout(resolve, LINGER_MS));
    while (this.queue.length > 0) {
      const messages = this.queue.splice(0, BATCH);
      try {
        await this.producer.send({ topic: this.topic, messages, acks: -1 });
        this.delivered += messages.length;
      } catch (error) {
        this.lost += messages.length;
      }
    }
    this.sending = null;
  }

  // Call it at the end of the process, also on SIGTERM.
  async close() {
    while (this.sending) await this.sending;
    await this.producer.disconnect();
  }
}

module.exports = { Publisher };
