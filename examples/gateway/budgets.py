"""The verdicts on budgets, as a gateway in Python reads them: copy `Verdicts`.

Reads the brokers from KAFKA (default 127.0.0.1:9092) and the topic from TOPIC (default tokentrace.budgets), and prints
every verdict that is not `ok`. With WAIT=0 it ends at the topic's end.
"""

from __future__ import annotations

import json
import os
import time
from datetime import datetime
from typing import Any

from confluent_kafka import Consumer, KafkaError, TopicPartition


class Verdicts:
    """Follows the topic. `current` has the verdict on every budget and group whose period goes on.

    as_of: Unix time up to which all calls are in the verdicts, 0 before it is known. It stays without an evaluator.
    """

    def __init__(self, brokers: str, topic: str) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": brokers,
                # Not joined, since every gateway reads all of the topic. Rights: Read on the topic and on this group.
                "group.id": "tokentrace-gateway",
                # A verdict that a crash takes back is never read.
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
            }
        )
        self._consumer.assign([TopicPartition(topic, 0, 0)])
        self._verdicts: dict[bytes, dict[str, Any]] = {}
        self.as_of = 0.0

    def poll(self, timeout_s: float = 1.0) -> bool:
        """Take what has arrived; return whether the end of the topic was reached."""
        at_end = False
        for message in self._consumer.consume(1000, timeout_s):
            error = message.error()
            if error is None:
                self._take(message.key(), message.value())
            elif error.code() == KafkaError._PARTITION_EOF:
                at_end = True
        return at_end

    def _take(self, key: bytes, value: bytes | None) -> None:
        kind = json.loads(key)[0]
        record = json.loads(value) if value else None
        if kind == "position" and record is not None and record["as_of"] is not None:
            self.as_of = _unix(record["as_of"])
        elif kind == "verdict" and record is None:
            self._verdicts.pop(key, None)
        elif kind == "verdict":
            self._verdicts[key] = record

    def current(self, now_s: float | None = None) -> dict[tuple[str, tuple[tuple[str, str], ...]], dict[str, Any]]:
        """Return (budget, labels of the group) -> verdict. A period that is over says nothing about this moment."""
        now_s = time.time() if now_s is None else now_s
        return {
            (verdict["budget"], tuple(verdict["group"].items())): verdict
            for verdict in self._verdicts.values()
            if _unix(verdict["starts_at"]) <= now_s < _unix(verdict["ends_at"])
        }

    def allows(self, budget: str, now_s: float | None = None, **group: str) -> bool:
        """Return whether a call may be made. Without a verdict nothing was spent."""
        verdict = self.current(now_s).get((budget, tuple(group.items())))
        return verdict is None or verdict["verdict"] != "exceeded"

    def close(self) -> None:
        self._consumer.close()


def _unix(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def main() -> None:
    verdicts = Verdicts(os.environ.get("KAFKA", "127.0.0.1:9092"), os.environ.get("TOPIC", "tokentrace.budgets"))
    seen: dict[Any, dict[str, Any]] = {}
    try:
        while True:
            at_end = verdicts.poll()
            for place, verdict in verdicts.current().items():
                if verdict["verdict"] != "ok" and seen.get(place, {}).get("verdict") != verdict["verdict"]:
                    print(verdict["verdict"], *place, verdict["spent_usd"], "of", verdict["limit_usd"], flush=True)
                seen[place] = verdict
            if at_end and os.environ.get("WAIT") == "0":
                return
    finally:
        verdicts.close()


if __name__ == "__main__":
    main()
