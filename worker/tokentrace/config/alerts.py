"""Section `alerts`: rules, shorthand kinds and delivery."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, SecretStr, StrictInt, field_validator, model_validator

from tokentrace.config.fields import DistinctLabels, PositiveDuration, SecretUrl, WholeMinutes, http_url
from tokentrace.config.section import NonEmpty, Section, located
from tokentrace.model.durations import format_duration

Metric = Literal[
    "total_cost", "cost_per_span", "span_count", "error_rate", "error_count", "timeout_rate",
    "latency_p50", "latency_p95", "latency_p99", "ttft_p95", "prompt_token_p95", "total_tokens", "quality_score",
]  # fmt: skip

#: Longest window: the rollups topic retains that much, and the evaluator has a row for each of its minutes.
MAX_WINDOW_S: Final = 366 * 86_400.0

#: Shorthand kind -> the keys that it sets; a rule can override all of them.
KINDS: Final[dict[str, dict[str, Any]]] = {
    "cost_spike": {"metric": "total_cost", "op": "gt", "window": "1h"},
    "latency_regression": {"metric": "latency_p95", "op": "gt", "threshold": 3000.0, "window": "10m"},
    "quality_drop": {"metric": "quality_score", "op": "lt", "threshold": 0.75, "window": "15m"},
    "error_rate_spike": {"metric": "error_rate", "op": "gt", "threshold": 0.05, "window": "5m"},
}


#: Name of a header (RFC 9110, token).
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class Delivery(Section):
    """Destination of the firings of a rule."""

    type: Literal["stdout", "http", "kafka"] = "stdout"
    """Kind of destination: stdout is one JSON line, http is a webhook, kafka is the alerts topic alone."""
    url: SecretUrl | None = None
    """Webhook of type http."""
    headers: dict[str, SecretStr] = {}
    """HTTP headers, for tokens."""
    timeout: PositiveDuration = 10.0
    """Time limit of one attempt."""
    max_retries: Annotated[StrictInt, Field(ge=0, le=100)] = 5
    """Attempts after the first."""
    max_age: PositiveDuration = 3600.0
    """Time after which an undelivered firing is abandoned."""

    @field_validator("headers")
    @classmethod
    def _can_be_sent(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        problems = [
            ((name,), "is not the name of an HTTP header, which has letters, digits and hyphens")
            for name in value
            if not _HEADER.fullmatch(name)
        ]
        problems += [
            ((name,), "has a line break or another character that no HTTP header can hold; use printable ASCII")
            for name, text in ((name, text.get_secret_value()) for name, text in value.items())
            if not (text.isascii() and text.replace("\t", " ").isprintable())
        ]
        if problems:
            raise located(*problems)
        return value

    @model_validator(mode="after")
    def _needs_url(self) -> Delivery:
        if self.type == "http":
            try:
                http_url(self.url or "")
            except ValueError as error:
                raise located((("url",), f"is required by type http, and {error}")) from None
        if self.type != "http" and self.url is not None:
            raise located((("url",), f"type {self.type} does not take a url; remove it or set type: http"))
        return self


class Filter(Section):
    """Selection of spans by globs; a dimension has a key of its name."""

    model_config = ConfigDict(extra="allow")

    model: str | None = None
    """Model glob."""
    provider: str | None = None
    """Provider glob."""
    caller: str | None = None
    """Caller glob."""

    @property
    def dimensions(self) -> dict[str, str]:
        """Return dimension -> glob."""
        return dict(self.model_extra or {})

    @model_validator(mode="after")
    def _are_globs(self) -> Filter:
        for name, glob in self.dimensions.items():
            if not isinstance(glob, str):
                raise ValueError(f"{name} must be a glob")
        return self


class AlertRule(Section):
    """Built-in alert over the whole fleet, in event time."""

    name: NonEmpty
    """Unique name; the `rule` label."""
    kind: Annotated[
        Literal["cost_spike", "latency_regression", "quality_drop", "error_rate_spike"] | None,
        Field(examples=["latency_regression"]),
    ] = None
    """Shorthand that sets metric, op, threshold and window unless they are given; another metric needs a threshold."""
    metric: Annotated[Metric, Field(examples=["total_cost"])]
    """Metric that is compared with the threshold."""
    op: Annotated[Literal["gt", "gte", "lt", "lte"], Field(examples=["gt"])]
    """Comparison operator."""
    threshold: Annotated[float, Field(allow_inf_nan=False, examples=[25.0])]
    """Threshold, in the metric's unit."""
    window: Annotated[WholeMinutes, Field(examples=["1h"])]
    """Length of the window, in whole minutes of event time, at most 366d."""
    interval: WholeMinutes | None = None
    """Time between evaluations, in whole minutes; a tenth of the window, rounded up, unless set."""
    cooldown: PositiveDuration | None = None
    """Shortest time between firings; the window unless set."""
    min_spans: Annotated[StrictInt, Field(ge=0)] = 1
    """Fewest spans in the metric for a firing; 0 by default for a span_count with lt or lte."""
    filter: Filter = Filter()
    """Spans that the rule selects."""
    group_by: DistinctLabels = ()
    """Labels by whose values the rule makes separate alerts: model, provider, caller and the dimensions."""
    severity: Literal["info", "warning", "critical"] = "warning"
    """Severity in the payload."""
    delivery: Delivery = Delivery()
    """Destination of the firings."""

    @model_validator(mode="before")
    @classmethod
    def _expand_kind(cls, value: Any) -> Any:
        kind = value.get("kind") if isinstance(value, dict) else None
        if kind is not None:
            # A kind that does not exist is wrong, and not the lack of what it would set.
            given = KINDS.get(str(kind), {**KINDS["cost_spike"], "threshold": 1.0})
            if value.get("metric", given["metric"]) != given["metric"]:
                # A threshold of another metric says nothing.
                given = {name: default for name, default in given.items() if name != "threshold"}
            value = {**given, **value}
        if isinstance(value, dict) and value.get("metric") == "span_count" and value.get("op") in ("lt", "lte"):
            # Such a rule must also fire without any span.
            value = {"min_spans": 0, **value}
        return value

    @field_validator("window")
    @classmethod
    def _bounded(cls, value: float) -> float:
        if value > MAX_WINDOW_S:
            raise ValueError(f"must not be longer than {format_duration(MAX_WINDOW_S)}")
        return value
