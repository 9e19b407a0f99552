"""A bare consumer: `consume()` in a loop that reads nothing but `value()`. What the Kafka client itself allows.

usage: python -m benchmarks.probes.bare_consumer BOOTSTRAP TOPIC COUNT BATCH
"""

from __future__ import annotations

import json
import sys
import time

from confluent_kafka import Consumer

from tokentrace.kafka.membership import TUNING


def main() -> None:
    bootstrap, topic, count, batch = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    # The settings that make it fastest, which are tokentrace's.
    consumer = Consumer(
        {
            **TUNING,
            "bootstrap.servers": bootstrap,
            "group.id": f"bare-{time.time_ns()}",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([topic])
    seen = size = first = 0
    began = 0.0
    while seen < count:
        messages = consumer.consume(batch, 1.0)
        for message in messages:
            value = message.value()
            if value is not None:
                size += len(value)
        seen += len(messages)
        if not began and seen:
            # What was fetched before the clock ran does not count.
            began, first = time.perf_counter(), seen
    seconds = time.perf_counter() - began
    cpu = time.process_time()
    consumer.close()
    print(json.dumps({"messages_per_s": (seen - first) / seconds, "bytes": size, "cpu_s": cpu}))


if __name__ == "__main__":
    main()
