"""History: past spans as batches of messages, from an Avro file or from a topic."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import fastavro
import numpy as np
from numpy.typing import NDArray

from tokentrace.decode.framing import SINGLE_OBJECT_MARKER
from tokentrace.decode.schemas.files import fingerprint_of
from tokentrace.decode.schemas.store import WriterSchemas
from tokentrace.errors import UsageError
from tokentrace.kafka.batch import extents_of, message_partitions, raw_batch
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.reader import Message, TopicReader
from tokentrace.model.messages import Envelope, RawBatch

BATCH: Final = 10_000


def from_file(path: Path) -> tuple[Iterator[RawBatch], WriterSchemas]:
    """Read an Avro object container file of spans. Raises UsageError for any other file."""
    try:
        with path.open("rb") as stream:
            schema = fastavro.reader(stream).writer_schema
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise UsageError(f"{path} is not an Avro object container file of spans ({error}).") from error
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
    """Make a batch whose publishing time is unknown: a span with an impossible time gets 0, and is left out."""

    def envelope(row: int) -> Envelope:
        return Envelope("", 0, row, None, values[row], (), None)

    def unknown(rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.zeros(len(rows), np.int64)

    latest_ms = 1 << 50
    return RawBatch(values, np.zeros(len(values), np.int32), {0: 0}, envelope, {0: (latest_ms, latest_ms)}, unknown)


def from_topic(clients: KafkaClients, topic: str, group_id: str, last: int | None = None) -> Iterator[RawBatch]:
    """Read the spans of a topic, from its beginning to the end that it has now. Raises FatalError if that fails.

    last: about how many messages to read, the last ones of each partition; None for all.
    """
    reader = TopicReader(clients, topic, group_id)
    partitions = list(range(reader.partition_count()))
    starts = dict.fromkeys(partitions, 0)
    if last is not None:
        share = -(-last // len(partitions))
        starts = {partition: max(end - share, 0) for partition, end in reader.end_offsets(partitions).items()}
    messages: list[Message] = []
    for message in reader.read_to_end(starts):
        messages.append(message)
        if len(messages) == BATCH:
            yield _batch_of_topic(messages, group_id)
            messages = []
    if messages:
        yield _batch_of_topic(messages, group_id)


def _batch_of_topic(messages: Sequence[Message], group_id: str) -> RawBatch:
    partitions = message_partitions(messages)
    return raw_batch(messages, partitions, extents_of(partitions), time.time, group_id)
