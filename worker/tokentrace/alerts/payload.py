"""Payload: an alert as its record in the alerts topic, and as the JSON object that is delivered."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from tokentrace.alerts.evaluation import AlertTransition
from tokentrace.budgets.budget import NANO, BudgetFiring, group_of, usd
from tokentrace.model.durations import format_duration
from tokentrace.model.text import utc_text

#: An alert in the form of `alert.avsc`; timestamps are microseconds.
Record = Mapping[str, Any]


def alert_record(event: AlertTransition, group_id: str, now_s: float, silenced: bool) -> dict[str, Any]:
    """Return the record of a transition that was evaluated at `now_s`."""
    rule = event.rule
    return {
        "id": event.id(group_id),
        "status": event.status,
        "alert": rule.name,
        "rule_id": rule.rule_id,
        "severity": rule.severity,
        "fired_at": event.at_s * 1_000_000,
        "metric": rule.metric,
        "op": rule.op,
        "value": None if math.isnan(event.value) else event.value,
        "threshold": rule.threshold,
        "window": rule.window * 60,
        "span_count": event.spans,
        "filter": rule.selection.filter(),
        "group": dict(zip(rule.selection.group_by, event.labels, strict=True)),
        "recorded_at": round(now_s * 1e6),
        "delivery": rule.delivery.type,
        "silenced": silenced,
    }


def budget_alert_record(firing: BudgetFiring, group_id: str, now_s: float, silenced: bool) -> dict[str, Any]:
    """Return the record of a budget's threshold that was found to be reached at `now_s`. Its amounts are rounded."""
    budget, period = firing.budget, firing.period
    return {
        "id": firing.id(group_id),
        "status": "firing",
        "alert": budget.name,
        "rule_id": budget.subject,
        "severity": budget.severity,
        "fired_at": firing.at_s * 1_000_000,
        "metric": "budget_spent",
        "op": "gte",
        "value": firing.spent_nano_usd / NANO,
        "threshold": firing.limit_nano_usd * firing.percent / 100 / NANO,
        "window": (period.end - period.start) * 60,
        "span_count": firing.spans,
        "filter": dict(budget.globs),
        "group": group_of(budget.group_by, firing.labels),
        "recorded_at": round(now_s * 1e6),
        "delivery": budget.delivery.type,
        "silenced": silenced,
        "budget": {
            "period": period.name,
            "percent": firing.percent,
            "spent_usd": usd(firing.spent_nano_usd),
            "limit_usd": usd(firing.limit_nano_usd),
        },
    }


def payload(record: Record) -> dict[str, Any]:
    """Return the JSON object that is delivered."""
    shown = {
        key: record[key]
        for key in (
            "alert", "status", "severity", "fired_at", "metric", "op", "value", "threshold", "window", "span_count",
            "filter", "group", "rule_id", "id",
        )
    }  # fmt: skip
    shown["fired_at"] = moment(record["fired_at"] / 1e6)
    shown["window"] = format_duration(record["window"])
    if "budget" in record:
        shown["budget"] = record["budget"]
    return shown


def group_text(group: Mapping[str, str]) -> str:
    """Return the group of an alert as it follows the rule's name: ` model=gpt-4o caller=search`; empty without one."""
    return "".join(f" {name}={value}" for name, value in group.items())


#: Time in a payload.
moment: Final = utc_text
