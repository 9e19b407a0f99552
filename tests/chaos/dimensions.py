"""Dimensions of the chaos: what replicas are configured with, and what each span then has to add up to."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tests.oracle import Key, recount

#: Families by dimensions, whose values `tests.spanfactory.random_span` gives as text, as a number and as a boolean.
LABELS = {
    "cost_total": ["model", "caller", "user"],
    "spans_total": ["status", "model", "retry", "stream"],
    "tokens_total": ["user", "retry"],
    "latency_ms": ["model", "retry", "user"],
}
SECTIONS: dict[str, Any] = {
    "dimensions": {name: {"source": f"attributes.{name}"} for name in ("user", "retry", "stream")},
    "metrics": {"labels": LABELS},
}
#: Labels that a family may be given; the others are its own.
_GROUP = ("status", "model", "provider", "caller")


def recount_by_dimensions(span: dict[str, Any]) -> Counter[Key]:
    """Recount one span, with the labels of LABELS."""
    values = {name: span[name] for name in _GROUP}
    values |= {name: str(span["attributes"][name]) for name in ("user", "retry")}
    values["stream"] = "true" if span["attributes"]["stream"] else "false"
    found: Counter[Key] = Counter()
    for (name, labels), amount in recount([span]).items():
        base = name.removeprefix("tokentrace_")
        for suffix in ("_bucket", "_sum", "_count"):
            base = base.removesuffix(suffix)
        if base in LABELS:
            extra = {label: value for label, value in labels if label not in _GROUP}
            labels = frozenset((extra | {label: values[label] for label in LABELS[base]}).items())
        found[name, labels] += amount
    return found
