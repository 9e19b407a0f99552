"""Inputs: where the counting of each input partition began, and its rejects by reason, in a header.

The replica's own record has the numbers of a partition (`model.snapshot.PartitionAudit`), as every release reads and
writes it. The header of that record is only there where there is something to say. A record of release 0.1.0 has none:
what that has rejected has no reason by partition, and its number is kept by itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from tokentrace.aggregate.delta import Delta
from tokentrace.model.snapshot import PartitionAudit
from tokentrace.state.headers import Header, Headers, read_header
from tokentrace.state.log_generations import LogPosition

#: Header of a replica's own record: JSON, the input topic; `first`: partition -> [generation, offset] where that is not
#: the log's beginning; `rejects`: reason -> partition -> spans; `unexplained`: partition -> [spans, offset].
INPUTS_HEADER: Final = "tokentrace.inputs"
_BEGINNING: Final = LogPosition(0, 0)


class Input(NamedTuple):
    """An input partition, as one replica has counted it.

    first: where the replica began to read it. rejects: reason -> spans, or records that are one.
    unexplained: rejected ones without a reason, all of them before the offset `explained_from`.
    """

    first: LogPosition = _BEGINNING
    rejects: Mapping[str, int] = MappingProxyType({})
    unexplained: int = 0
    explained_from: int = 0


NOTHING_KNOWN: Final = Input()


def inputs_plus(inputs: Mapping[int, Input], delta: Delta) -> dict[int, Input]:
    """Return the inputs with what the delta adds."""
    found = dict(inputs)
    for partition in delta.positions:
        if partition not in found:
            found[partition] = Input(LogPosition(*delta.begins.get(partition, _BEGINNING)))
    for (partition, reason), count in delta.rejects.items():
        known = found[partition]
        rejects = {**known.rejects, reason: known.rejects.get(reason, 0) + count}
        found[partition] = known._replace(rejects=rejects)
    return found


def input_headers(topic: str, inputs: Mapping[int, Input]) -> list[Header]:
    """Return the headers for a replica's own record; none where all begin at their log's beginning without rejects."""
    first: dict[str, LogPosition] = {}
    rejects: dict[str, dict[str, int]] = {}
    unexplained: dict[str, tuple[int, int]] = {}
    for number, one in sorted(inputs.items()):
        partition = str(number)
        if one.first != _BEGINNING:
            first[partition] = one.first
        for reason, count in one.rejects.items():
            rejects.setdefault(reason, {})[partition] = count
        if one.unexplained:
            unexplained[partition] = one.unexplained, one.explained_from
    parts = {"first": first, "rejects": rejects, "unexplained": unexplained}
    found = {name: part for name, part in parts.items() if part}
    if not found:
        return []
    return [(INPUTS_HEADER, json.dumps({"topic": topic, **found}, separators=(",", ":")).encode())]


def decode_inputs(
    headers: Headers, topic: str, audits: Mapping[int, PartitionAudit], positions: Mapping[int, int]
) -> dict[int, Input]:
    """Return the inputs of a replica's own record, of each partition that it has an audit of.

    positions: partition -> offset up to which it is counted.
    Raises UnreadableRecord for a header that does not hold inputs.
    """
    inputs = read_header(headers, INPUTS_HEADER, lambda value: _decode(value, topic))
    if inputs is None:
        return {
            partition: Input(unexplained=audit.rejected, explained_from=positions[partition] if audit.rejected else 0)
            for partition, audit in audits.items()
        }
    return {partition: inputs.get(partition, NOTHING_KNOWN) for partition in {**audits, **inputs}}


def _decode(value: bytes, topic: str) -> dict[int, Input]:
    found = json.loads(value)
    if found["topic"] != topic:
        return {}
    first: Mapping[str, Any] = found.get("first", {})
    unexplained: Mapping[str, Any] = found.get("unexplained", {})
    rejects: dict[str, dict[str, int]] = {}
    for reason, counts in found.get("rejects", {}).items():
        for partition, count in counts.items():
            rejects.setdefault(partition, {})[reason] = int(count)
    inputs = {}
    for partition in {**first, **unexplained, **rejects}:
        generation, offset = first.get(partition, _BEGINNING)
        spans, explained_from = unexplained.get(partition, (0, 0))
        inputs[int(partition)] = Input(
            LogPosition(int(generation), int(offset)), rejects.get(partition, {}), int(spans), int(explained_from)
        )
    return inputs
