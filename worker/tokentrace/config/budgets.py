"""Section `budgets`: amounts that may be spent in a calendar period."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictInt, field_validator

from tokentrace.config.alerts import Delivery, Filter
from tokentrace.config.fields import DistinctLabels, PositiveDuration, TimeZone, UsdAmount
from tokentrace.config.section import NonEmpty, Section


class BudgetSection(Section):
    """Amount that may be spent in each day, week or month, over the whole fleet."""

    name: NonEmpty
    """Unique name, also among the alerts; the `budget` label."""
    amount: Annotated[UsdAmount, Field(examples=[100])]
    """Amount of each period and group, in USD."""
    period: Literal["day", "week", "month"] = "month"
    """Period by the calendar of the time zone; a week begins on Monday."""
    time_zone: TimeZone = "UTC"
    """Time zone whose midnight begins a period, a name of the IANA database."""
    filter: Filter = Filter()
    """Spans that count."""
    group_by: DistinctLabels = ()
    """Labels by whose values the amount is given separately: model, provider, caller and the dimensions."""
    thresholds: tuple[Annotated[StrictInt, Field(ge=1, le=1000)], ...] = (50, 80, 100)
    """Percent of the amount at which an alert fires, once in a period."""
    max_groups: Annotated[StrictInt, Field(ge=1, le=100_000)] = 1000
    """Most groups in a period; further ones are added to __overflow__."""
    keep: PositiveDuration = 35 * 86_400.0
    """Time after a period's end for which late spans count to it and its verdicts stay."""
    severity: Literal["info", "warning", "critical"] = "warning"
    """Severity in the payload of an alert."""
    delivery: Delivery = Delivery()
    """Destination of the alerts."""

    @field_validator("thresholds")
    @classmethod
    def _ascending(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError("must be in ascending order, each once")
        return value
