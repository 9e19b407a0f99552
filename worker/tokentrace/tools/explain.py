"""Explanation of one message: what a worker makes of its framing, schema, fields, price and repairs.

The worker's own stages count the message, into counts that nothing keeps. What is shown beside them is read from the
same bytes.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.aggregate.delta import Delta
from tokentrace.aggregate.findings import Finding
from tokentrace.config import Config
from tokentrace.decode.datum_check import Malformed
from tokentrace.decode.datum_view import FieldView, branch_of, fields_of
from tokentrace.decode.framing import Framed, Framing, OtlpFraming, frame, single_span_framing
from tokentrace.decode.otlp.recognize import is_otlp
from tokentrace.decode.resolve import field_names, resolve_record
from tokentrace.decode.schema_key import SchemaKey
from tokentrace.decode.schema_tree import read_tree
from tokentrace.decode.schemas.store import WriterSchemas
from tokentrace.errors import SchemaError
from tokentrace.model.advice import ADVICE
from tokentrace.model.measures import UNIT_OF
from tokentrace.model.messages import SCHEMA_HEADERS, Envelope, RawBatch
from tokentrace.model.spans import MODIFIERS, STATUSES
from tokentrace.pricing import Pricer
from tokentrace.pricing.modifiers import Modifiers
from tokentrace.pricing.pricer import SOURCE_SUMS, SOURCES
from tokentrace.runtime.price_rules import pricer
from tokentrace.tools.price import quote
from tokentrace.tools.trial import trial

#: Reason of a message without a call of a model: a worker passes over it, and counts it as ignored.
IGNORED: Final = "ignored"

_FRAMINGS: Final = {
    "id": "Confluent wire format: 00, and the schema's id in 4 bytes",
    "apicurio": "Apicurio's: 00, and an id in 8 bytes",
    "fingerprint": "Avro single-object encoding: C3 01, and the schema's fingerprint",
    "glue": "AWS Glue's: 03, the compression, and the id of a schema version",
    "raw": "none: the value is the datum (kafka.framing: raw)",
}


@dataclass(frozen=True, slots=True)
class ShownField:
    """A field of a message. fills: what it is in a span, empty for nothing. wrong: what the message is rejected for."""

    view: FieldView
    fills: str
    wrong: bool


@dataclass(slots=True)
class CountedGroup:
    """The spans of a message that are counted in one minute, group and status.

    usage: quantity by unit. cost_sources: where their costs are from, each once. price: in words, empty unless the
    message is one span whose cost is computed.
    """

    labels: dict[str, str]
    minute_s: int
    spans: int
    usage: dict[str, float]
    nano_usd: int
    cost_sources: tuple[str, ...]
    price: str = ""


@dataclass(slots=True)
class Explanation:
    """The way of a message through a worker.

    framing, schema: in words, empty if they could not be found. path: how the schema is decoded. missing: fields of
    spans that the schema does not have. reason, error: of a message, or a span in it, that is not counted. groups: what
    is counted. findings: what was corrected.
    """

    framing: str = ""
    schema: str = ""
    path: str = ""
    fields: list[ShownField] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    reason: str = ""
    error: str = ""
    groups: list[CountedGroup] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def counted(self) -> bool:
        """True for a message whose spans a worker counts."""
        return not self.reason

    @property
    def advice(self) -> str:
        """Sentence on what to change in a message that is not counted."""
        return ADVICE.get(self.reason, "")


def _tell_spans(found: Explanation, delta: Delta) -> None:
    """Say how many spans a message of OpenTelemetry holds."""
    counted, rejected, ignored = (sum(counter.values()) for counter in (delta.counted, delta.rejected, delta.ignored))
    found.framing = f"OTLP: {counted} spans counted, {rejected} rejected, {ignored} that are not calls of a model"
    if not counted and not rejected:
        found.reason, found.error = IGNORED, "No span of the message is a call of a model."


class Explainer:
    """Explains messages, one after another."""

    def __init__(self, config: Config, schemas: WriterSchemas, framing: Framing | OtlpFraming | None = None) -> None:
        """schemas: to read messages with. framing: instead of the configured one."""
        self._config = config
        self._schemas = schemas
        self._given = framing or config.kafka.framing
        self._framing: Framing = single_span_framing(self._given)
        self._pricer: Pricer = pricer(config)

    def explain(self, message: Envelope) -> Explanation:
        """Return what a worker makes of a message. Raises SchemaUnavailable if the registry does not answer."""
        found = Explanation()
        batch = _batch(message)
        self._count(batch, found)
        if is_otlp(message.value or b"", self._given):
            return found
        framed = frame(batch.values, self._framing, batch.schema_headers)
        if not framed.rejects:
            self._read(framed, batch, found)
        for group in found.groups:
            if not {"computed", "estimated"}.isdisjoint(group.cost_sources):
                group.price = self._price(found, group)
        return found

    def _price(self, found: Explanation, group: CountedGroup) -> str:
        """Return the price of a call in words."""
        values = {one.fills: str(one.view.value or "") for one in found.fields}
        call = Modifiers.of(*(values.get(name, "") for name in MODIFIERS))
        labels, at_us = group.labels, group.minute_s * 10**6
        price = quote(self._pricer, labels["model"], labels["provider"], at_us, None, call)
        if price is None:
            return ""
        return "; ".join(filter(None, (price.origin, price.reading, price.validity, *price.modifiers, price.discount)))

    def _count(self, batch: RawBatch, found: Explanation) -> None:
        count = trial(self._config, self._schemas, framing=self._given, prices=self._pricer)
        count.pipeline.count(batch, count.delta)
        layout, groups, delta = count.layout, count.groups, count.delta
        found.path = next((path for _, path in count.decoder.paths), "")
        if is_otlp(batch.values[0] or b"", self._given):
            _tell_spans(found, delta)
        found.findings = [finding for finding in count.findings if not finding.rejected]
        for finding in count.findings:
            if finding.rejected:
                found.reason, found.error = finding.kind, finding.why
        for minute, cell, row in zip(*(column.tolist() for column in delta.by_minute()[:3]), strict=True):
            group = groups.groups[int(groups.cell_group[cell])]
            values = {name: row[fields.start] for name, fields in layout.fields.items() if fields.start < len(row)}
            found.groups.append(
                CountedGroup(
                    labels={**group.labels(), "status": STATUSES[int(groups.cell_status[cell])]},
                    minute_s=minute * 60,
                    spans=values["spans"],
                    usage={
                        unit.name: values[name] / unit.scale if unit.scale > 1 else values[name]
                        for name, unit in UNIT_OF.items()
                        if values.get(name)
                    },
                    nano_usd=values["cost_nano_usd"],
                    cost_sources=tuple(
                        source for source, column in zip(SOURCES, SOURCE_SUMS, strict=True) if values.get(column)
                    ),
                )
            )

    def _read(self, framed: Framed, batch: RawBatch, found: Explanation) -> None:
        key = framed.keys[int(framed.key[0])]
        named = next((name for name in SCHEMA_HEADERS if name in batch.schema_headers), "")
        in_header = key.kind == "guid" or (bool(named) and int(framed.start[0]) == 0 and key.kind != "raw")
        found.framing = f"the header {named} names the schema" if in_header else _FRAMINGS[key.kind]
        if self._framing == "json":
            found.framing = "JSON, rewritten as Avro with the bundled schema"
        found.schema = _named(key)
        try:
            schema = self._schemas.get(key)
            root = read_tree(schema).root
        except SchemaError:
            return
        data = framed.buffer[int(framed.start[0]) : int(framed.end[0])].tobytes()
        try:
            record, start = branch_of(root, data)
        except Malformed as error:
            found.fields = [ShownField(FieldView("", "", None, str(error)), "", wrong=True)]
            return
        found.schema += f": {record.name or record.kind}"
        try:
            columns = resolve_record(record)
        except SchemaError:
            columns = {}
        for view in fields_of(record, data, start):
            column = columns.get(view.name, "")
            wrong = bool(view.problem) or (not found.counted and _is_wrong(found, view, column))
            found.fields.append(ShownField(view, column, wrong))
        found.missing = [name for name, column in field_names().items() if column not in columns.values()]


def _is_wrong(found: Explanation, view: FieldView, column: str) -> bool:
    """Return whether the sentence of a reject is about a field."""
    if found.reason == "negative_tokens" and isinstance(view.value, (int, float)) and view.value >= 0:
        # The sentence has all counts, whichever of them is negative.
        return False
    names = filter(None, (view.name, column, column.removesuffix("_us")))
    return any(re.search(rf"\b{re.escape(name)}\b", found.error) for name in names)


def _named(key: SchemaKey) -> str:
    if isinstance(key.value, bytes):
        return f"fingerprint {key.value.hex()}"
    words = {"id": "id", "guid": "GUID", "apicurio": "Apicurio's", "glue": "schema version", "raw": "schemas.raw"}
    return f"{words[key.kind]} {key.value}".rstrip()


def _batch(message: Envelope) -> RawBatch:
    now_ms = int(time.time() * 1000) if message.timestamp_ms is None else message.timestamp_ms
    headers: dict[str, Any] = dict(message.headers)

    def published(rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.full(len(rows), now_ms, np.int64)

    return RawBatch(
        values=[message.value],
        partitions=np.array([max(message.partition, 0)], np.int32),
        positions={max(message.partition, 0): message.offset + 1},
        envelope=lambda _: message,
        times_ms={max(message.partition, 0): (now_ms, now_ms)},
        timestamps_ms=published,
        schema_headers={name: [headers[name]] for name in SCHEMA_HEADERS if name in headers},
    )
