"""Kafka clients that follow a script: for errors that a healthy broker does not give on demand.

That the real ones work is proven on a real Kafka: tests/integration, tests/chaos.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from tokentrace.kafka.clients import KafkaClients
from tokentrace.model.stop import StopSignal


def failure(code: int, fatal: bool = False, retriable: bool = False, abort: bool = False) -> KafkaException:
    return KafkaException(KafkaError(code, "scripted", fatal, retriable, abort))


class Waits(StopSignal):
    """A stop signal on a clock that only waiting for it moves. stop_after: the wait with this number sees the stop."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__(clock=lambda: self.now_s)
        self.now_s = 0.0
        self.waited_s: list[float] = []
        self._stop_after = stop_after

    def wait(self, timeout_s: float) -> bool:
        self.waited_s.append(timeout_s)
        self.now_s += timeout_s
        if len(self.waited_s) == self._stop_after:
            self.set()
        return self.is_set()


class Scripted:
    """A client that records its calls, and raises what is scripted for them, once each."""

    def __init__(self, config: dict[str, Any], logger: Any = None) -> None:
        self.config = config
        self.logger = logger
        self.calls: list[str] = []
        self.errors: dict[str, list[BaseException]] = {}

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.errors.get(name):
            raise self.errors[name].pop(0)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *_, **__: self._call(name)


class ScriptedProducer(Scripted):
    """deliver: index of a record since the last flush -> the error that its delivery ends with, or None."""

    def __init__(self, config: dict[str, Any], logger: Any = None) -> None:
        super().__init__(config, logger)
        self.produced: list[tuple[str, bytes | None]] = []
        self.records: list[dict[str, Any]] = []
        self.offsets: list[Any] = []
        self.deliver: Callable[[int], KafkaError | None] = lambda _: None
        self._callbacks: list[Any] = []

    def produce(self, topic: str, **record: Any) -> None:
        self._call("produce")
        self.produced.append((topic, record["key"]))
        self.records.append({"topic": topic, **record})
        if record.get("on_delivery") is not None:
            self._callbacks.append(record["on_delivery"])

    def send_offsets_to_transaction(self, offsets: list[Any], member: Any, *_: Any) -> None:
        self._call("send_offsets_to_transaction")
        self.offsets.append(([(offset.topic, offset.partition, offset.offset) for offset in offsets], member))

    def flush(self, *_: Any) -> int:
        self._call("flush")
        self._deliver()
        return 0

    def commit_transaction(self, *_: Any) -> None:
        self._deliver()
        self._call("commit_transaction")

    def _deliver(self) -> None:
        callbacks, self._callbacks = self._callbacks, []
        for index, callback in enumerate(callbacks):
            callback(self.deliver(index), None)


class ScriptedClients(KafkaClients):
    """Clients of these types; `made` holds them in the order in which they were made."""

    def __init__(self, stop: StopSignal | None = None, **types: Callable[..., Any]) -> None:
        self.made: list[Any] = []

        def noting(type_: Callable[..., Any]) -> Callable[..., Any]:
            def make(*arguments: Any, **keywords: Any) -> Any:
                self.made.append(type_(*arguments, **keywords))
                return self.made[-1]

            return make

        super().__init__(
            bootstrap_servers="x:1",
            stop=stop or Waits(),
            **{f"{name}_type": noting(type_) for name, type_ in types.items()},
        )
