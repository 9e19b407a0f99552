"""Options: what a configuration decides of spans of OpenTelemetry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tokentrace.model.conventions import CALLS


@dataclass(frozen=True, slots=True)
class OtlpOptions:
    """caller: attribute of a span, or else of its resource, that is the caller. calls: operations that are calls."""

    caller: str = "service.name"
    calls: frozenset[str] = CALLS


DEFAULT_OPTIONS: Final = OtlpOptions()
