"""Backtest: the alerts that the rules would have fired over past spans, from a file or a topic.

The spans go through the pipeline and the `Ownership` that workers use. All of them are applied before the first minute
is complete, so none is late.
"""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import fastavro
import numpy as np
from numpy.typing import NDArray

from tokentrace.aggregate.delta import Delta
from tokentrace.aggregate.groups import GroupIndex
from tokentrace.aggregate.pipeline import Pipeline, StageTimer
from tokentrace.alerts.evaluation import MINUTE_S, AlertTransition
from tokentrace.alerts.ownership import Ownership, RollupLog
from tokentrace.alerts.rollup_reader import Rollup
from tokentrace.alerts.rules import Rule
from tokentrace.alerts.store import AlertStore
from tokentrace.alerts.watermark import GRACE_US, MINUTE_US
from tokentrace.config import Config
from tokentrace.decode import SpanDecoder
from tokentrace.decode.framing import SINGLE_OBJECT_MARKER
from tokentrace.decode.schemas.store import WriterSchemas, fingerprint_of
from tokentrace.errors import UsageError
from tokentrace.kafka.batch import extents_of, message_partitions, raw_batch
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.reader import Message, TopicReader
from tokentrace.model.arrays import Ints
from tokentrace.model.measures import Layout
from tokentrace.model.messages import Envelope, RawBatch
from tokentrace.pricing import Pricer

BATCH: Final = 10_000


class Backtest:
    """Collects spans, then evaluates. spans, rejected: how many; left_out: of them without a time that can be true."""

    def __init__(self, config: Config, pricer: Pricer) -> None:
        metrics = config.metrics
        self._config = config
        self._layout = Layout.build(
            {name: getattr(metrics.buckets, name) for name in type(metrics.buckets).model_fields}
        )
        self._pricer = pricer
        self._groups = GroupIndex(metrics.max_groups)
        self._delta = Delta(self._layout)
        self._rules = [Rule.of(rule) for rule in config.alerts]
        self._owner = Ownership.acquire(
            rules=self._rules,
            layout=self._layout,
            store=AlertStore(),
            rollups=RollupLog("", 0, 0, lambda _: None),
            group_id=config.kafka.group_id,
            replica="",
            started_s=0.0,
            now_s=0.0,
        )
        self._last: int | None = None
        self.spans = self.left_out = 0
        self.rejected: Counter[str] = Counter()

    def take(self, batches: Iterator[RawBatch], schemas: WriterSchemas) -> None:
        """Count these messages."""
        engine = Pipeline(
            SpanDecoder(schemas, self._config.kafka.framing),
            self._groups,
            self._pricer,
            self._layout,
            StageTimer(Counter()),  # type: ignore[arg-type]
        )
        for batch in batches:
            engine.count(batch, self._delta)
            self._flush()

    def _flush(self) -> None:
        delta, groups = self._delta, self._groups
        rows = delta.by_minute()
        timely = rows.minutes > 0
        self.left_out += int(rows.values[~timely, 0].sum())
        minutes, cells = rows.minutes[timely], rows.cells[timely]
        self.spans += sum(delta.counted.values())
        self.rejected.update(delta.reasons)
        if len(minutes):
            evaluation, known = self._owner.evaluation, groups.groups
            numbers = [evaluation.number(known[group]) for group in groups.cell_group[cells].tolist()]
            statuses = groups.cell_status[cells].astype(np.int64)
            values = rows.values[timely][:, evaluation.windows.columns.needed]
            self._apply(minutes, np.array(numbers, np.int64), statuses, values)
            self._last = max(self._last or 0, int(minutes.max()))
        delta.clear()

    def _apply(
        self, minutes: Ints, groups: Ints, statuses: Ints, values: Ints, reached_us: Mapping[int, int] | None = None
    ) -> None:
        """Apply a rollup. reached_us: event time of the one partition, only once everything has been applied."""
        rollup = Rollup(0, minutes, groups, statuses, values, len(reached_us or {}), reached_us or {}, 0)
        self._owner.apply(rollup, self._owner.position)

    def events(self) -> list[AlertTransition]:
        """Return what fires and resolves, up to each rule's first evaluation after the last span. Call it once."""
        if self._last is None or not self._rules:
            return []
        last_minutes = {rule.name: -(-(self._last + 1) // rule.interval) * rule.interval for rule in self._rules}
        nothing = np.zeros(0, np.int64)
        width = len(self._owner.evaluation.windows.columns.needed)
        end_us = max(last_minutes.values()) * MINUTE_US + GRACE_US
        self._apply(nothing, nothing, nothing, nothing.reshape(0, width), {0: end_us})
        transition = self._owner.pending(0.0, draining=True)
        events = transition.events if transition is not None else ()
        return [event for event in events if event.at_s <= last_minutes[event.rule.name] * MINUTE_S]


def from_file(path: Path) -> tuple[Iterator[RawBatch], WriterSchemas]:
    """The spans of an Avro object container file. Raises UsageError where it is none."""
    try:
        with path.open("rb") as stream:
            schema = fastavro.reader(stream).writer_schema
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise UsageError(f"{path} is no Avro object container file of spans ({error}).") from error
    header = SINGLE_OBJECT_MARKER + fingerprint_of(schema)
    parsed = fastavro.parse_schema(schema)

    def messages() -> Iterator[bytes]:
        with path.open("rb") as stream:
            records = fastavro.reader(stream)
            try:
                for record in records:
                    out = io.BytesIO(header)
                    out.seek(len(header))
                    fastavro.schemaless_writer(out, parsed, record)
                    yield out.getvalue()
            except (ValueError, EOFError, IndexError) as error:
                raise UsageError(f"{path} is damaged ({error}).") from error

    def batches() -> Iterator[RawBatch]:
        values: list[bytes] = []
        for value in messages():
            values.append(value)
            if len(values) == BATCH:
                yield _batch_of_file(values)
                values = []
        if values:
            yield _batch_of_file(values)

    return batches(), WriterSchemas({fingerprint_of(schema): schema})


def _batch_of_file(values: Sequence[bytes]) -> RawBatch:
    """Nothing is known of when they were published, so a time that cannot be true becomes 0, and is left out."""

    def envelope(row: int) -> Envelope:
        return Envelope("", 0, row, None, values[row], (), None)

    def unknown(rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.zeros(len(rows), np.int64)

    latest_ms = 1 << 50
    return RawBatch(values, np.zeros(len(values), np.int32), {0: 0}, envelope, {0: (latest_ms, latest_ms)}, unknown)


def from_topic(clients: KafkaClients, topic: str, group_id: str) -> Iterator[RawBatch]:
    """Read the spans of a topic, from its beginning to the end that it has now. Raises FatalError if that fails."""
    reader = TopicReader(clients, topic, group_id)
    messages: list[Message] = []
    for message in reader.read_to_end(dict.fromkeys(range(reader.partition_count()), 0)):
        messages.append(message)
        if len(messages) == BATCH:
            yield _batch_of_topic(messages)
            messages = []
    if messages:
        yield _batch_of_topic(messages)


def _batch_of_topic(messages: Sequence[Message]) -> RawBatch:
    partitions = message_partitions(messages)
    return raw_batch(messages, partitions, extents_of(partitions), time.time)
