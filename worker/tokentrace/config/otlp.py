"""Section `otlp`: how spans of OpenTelemetry are read, where a message is of OTLP."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from tokentrace.config.section import NonEmpty, Section


def _small(value: str) -> str:
    return value.lower()


class OtlpSection(Section):
    """Settings of spans of OpenTelemetry."""

    caller: NonEmpty = "service.name"
    """Attribute of a span, or else of its resource, that is the caller."""
    calls: tuple[Annotated[NonEmpty, AfterValidator(_small)], ...] = ()
    """Operations (`gen_ai.operation.name`) that are calls of a model besides the known ones."""
