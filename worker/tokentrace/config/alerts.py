"""The models of `alerts`: rules, their shorthand kinds, and where firings are delivered."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StrictInt, model_validator

from .fields import PositiveDuration

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
    threshold: float
    """The threshold, in the metric's unit."""
    window: PositiveDuration
    """How far back the metric looks."""
    cooldown: PositiveDuration | None = None
    """Shortest time between two firings; the window unless set."""
    min_spans: Annotated[StrictInt, Field(ge=1)] = 1
    """Fewer spans than this in the window never fire."""
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
            return {**KINDS[value["kind"]], **value}
        return value
