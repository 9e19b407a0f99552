"""The models of `alerts`: rules, their shorthand kinds, and where firings are delivered."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StrictInt, field_validator, model_validator

from tokentrace.config.fields import PositiveDuration, WholeMinutes

Metric = Literal[
    "total_cost", "cost_per_span", "span_count", "error_rate", "error_count", "timeout_rate",
    "latency_p50", "latency_p95", "latency_p99", "ttft_p95", "prompt_token_p95", "total_tokens", "quality_score",
]  # fmt: skip

#: Shorthand kind -> the keys that it stands for; each of them can still be set.
KINDS: Final[dict[str, dict[str, Any]]] = {
    "cost_spike": {"metric": "total_cost", "op": "gt", "window": "1h"},
    "latency_regression": {"metric": "latency_p95", "op": "gt", "threshold": 3000.0, "window": "10m"},
    "quality_drop": {"metric": "quality_score", "op": "lt", "threshold": 0.75, "window": "15m"},
    "error_rate_spike": {"metric": "error_rate", "op": "gt", "threshold": 0.05, "window": "5m"},
}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Delivery(_Section):
    """Where a firing goes."""

    type: Literal["stdout", "http", "kafka"] = "stdout"
    """stdout is one JSON line; kafka is the alerts topic alone."""
    url: str | None = None
    """Webhook of type http."""
    headers: dict[str, SecretStr] = {}
    """HTTP headers, for tokens."""
    timeout: PositiveDuration = 10.0
    """How long one try may take."""
    max_retries: Annotated[StrictInt, Field(ge=0, le=100)] = 5
    """Tries after the first."""
    max_age: PositiveDuration = 3600.0
    """A firing that could not be delivered for this long is given up."""

    @model_validator(mode="after")
    def _needs_url(self) -> Delivery:
        if self.type == "http" and not (self.url or "").startswith(("http://", "https://")):
            raise ValueError("type http needs a url that begins with http:// or https://")
        if self.type != "http" and self.url is not None:
            raise ValueError(f"type {self.type} takes no url")
        return self


class Filter(_Section):
    """Which spans a rule looks at; globs."""

    model: str | None = None
    """Model glob."""
    provider: str | None = None
    """Provider glob."""
    caller: str | None = None
    """Caller glob."""


class AlertRule(_Section):
    """One built-in alert over the whole fleet, in event time."""

    name: Annotated[str, Field(min_length=1)]
    """Name, unique; the `rule` label."""
    kind: Literal["cost_spike", "latency_regression", "quality_drop", "error_rate_spike"] | None = None
    """Shorthand that fills metric, op, threshold and window where they are not set."""
    metric: Metric
    """What is compared."""
    op: Literal["gt", "gte", "lt", "lte"]
    """How it is compared with the threshold."""
    threshold: Annotated[float, Field(allow_inf_nan=False)]
    """The threshold, in the metric's unit."""
    window: WholeMinutes
    """How far back the metric looks, in whole minutes of event time."""
    interval: WholeMinutes | None = None
    """Time between two evaluations, in whole minutes; a tenth of the window, rounded up, unless set."""
    cooldown: PositiveDuration | None = None
    """Shortest time between two firings; the window unless set."""
    min_spans: Annotated[StrictInt, Field(ge=0)] = 1
    """Fewer spans than this, of those that the metric is made from, never fire; 0 for a span_count that is too low."""
    filter: Filter = Filter()
    """Which spans count."""
    group_by: tuple[Literal["model", "provider", "caller"], ...] = ()
    """One alert for each value of these."""
    severity: Literal["info", "warning", "critical"] = "warning"
    """Passed on in the payload."""
    delivery: Delivery = Delivery()
    """Where firings go."""

    @model_validator(mode="before")
    @classmethod
    def _expand_kind(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("kind") in KINDS:
            value = {**KINDS[value["kind"]], **value}
        if isinstance(value, dict) and value.get("metric") == "span_count" and value.get("op") in ("lt", "lte"):
            # No spans at all is what such a rule is for.
            value = {"min_spans": 0, **value}
        return value

    @field_validator("group_by")
    @classmethod
    def _once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("names a label twice")
        return value
