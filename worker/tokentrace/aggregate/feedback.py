"""Feedback: findings in the log, each kind when it is first found and then at most once a minute."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tokentrace.aggregate.findings import Finding
from tokentrace.model.reasons import NOT_KEPT

log = logging.getLogger(__name__)

INTERVAL_S: Final = 60.0


@dataclass(slots=True)
class _Kind:
    due_s: float
    count: int = 0
    last: Finding | None = None


class Feedback:
    """Collects findings and logs them. Used by the consumer thread alone."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, interval_s: float = INTERVAL_S) -> None:
        self._clock = clock
        self._interval_s = interval_s
        self._kinds: dict[str, _Kind] = {}

    def add(self, finding: Finding) -> None:
        """Take a finding; it is logged by the next `report` that is due."""
        kind = self._kinds.setdefault(finding.kind, _Kind(self._clock()))
        kind.count += finding.count
        kind.last = finding

    def report(self) -> None:
        """Log each kind that was found and is due."""
        now_s = self._clock()
        for kind in self._kinds.values():
            if kind.last is not None and now_s >= kind.due_s:
                level = logging.INFO if kind.last.kind in NOT_KEPT else logging.WARNING
                log.log(level, "%s", text_of(kind.last, kind.count))
                kind.due_s, kind.count, kind.last = now_s + self._interval_s, 0, None


def text_of(finding: Finding, count: int) -> str:
    """Return a finding in one line: how many, an example, why, and what to change."""
    labels = (("model", finding.model), ("provider", finding.provider), ("caller", finding.caller))
    named = ", ".join(f"{name} {value!r}" for name, value in labels if value)
    what = f"{'Rejected' if finding.rejected else 'Corrected'} {count:,} {'message' if finding.rejected else 'span'}"
    place = f"{finding.topic}/{finding.partition}@{finding.offset}{f' of {named}' if named else ''}"
    return f"{what}{'s' * (count != 1)} ({finding.kind}), such as {place}: {finding.why} {finding.advice}"
