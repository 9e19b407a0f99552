"""Label sets: the labels that each family has been exposed with, in a header of the replica's own record.

Prometheus does not tell a label without a value from one that is missing. So with other labels a series can have the
name of one that counted something else: `{caller=""}` of a family with callers, and the series of all callers without
that label. Its value would jump, and `increase()` would take the jump for traffic. A change of a family's labels
therefore begins new series, which carry the number of the change: a label that no series of the family had before.

The change is committed with the claim of the process that makes it, before that process exposes anything.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Final

from tokentrace.model.snapshot import LabelSet
from tokentrace.state.headers import Header, Headers, read_header

#: Header of a replica's own record: JSON, family -> [labels, revision, microseconds of Unix time of its beginning].
LABELS_HEADER: Final = "tokentrace.labels"


def revised(
    known: Mapping[str, LabelSet], configured: Mapping[str, Iterable[str]], now_s: float
) -> dict[str, LabelSet]:
    """Return the label sets of a process that starts now.

    known: family -> labels that the last process exposed it with; those of a family that is not there are taken to be
    the configured ones. configured: family -> its labels.
    """
    current = dict(known)
    for family, labels in configured.items():
        chosen = tuple(sorted(labels))
        before = known.get(family)
        if before is None:
            current[family] = LabelSet(chosen)
        elif before.labels != chosen:
            current[family] = LabelSet(chosen, before.revision + 1, now_s)
    return current


def label_sets_header(label_sets: Mapping[str, LabelSet]) -> Header:
    """Return the header for a replica's own record."""
    fields = {
        family: [label_set.labels, label_set.revision, round(label_set.since_s * 1e6)]
        for family, label_set in sorted(label_sets.items())
    }
    return LABELS_HEADER, json.dumps(fields, separators=(",", ":")).encode()


def decode_label_sets(headers: Headers) -> dict[str, LabelSet]:
    """Return family -> label set from the headers of a replica's own record, empty where they do not say.

    Raises UnreadableRecord for a header that is not one of these.
    """
    return read_header(headers, LABELS_HEADER, _decode) or {}


def _decode(value: bytes) -> dict[str, LabelSet]:
    return {
        str(family): LabelSet(tuple(map(str, labels)), int(revision), int(since_us) / 1e6)
        for family, (labels, revision, since_us) in json.loads(value).items()
    }
