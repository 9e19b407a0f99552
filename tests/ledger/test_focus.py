"""The FOCUS dataset: the columns and values that version 1.2 requires, and the sum of the bill.

The official focus-validator (1.0.0) checks version 1.0 alone, and requires a NumPy of before 2.0. So the columns are
checked against a list of our own, made from the specification.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tests.ledger.helpers import RollupTopic, follower, sqlite_url
from tests.ledger.test_bill import at_us
from tests.ledger.test_reprice import prices, traffic
from tests.spanfactory import NOW_US
from tokentrace.ledger.corrections import correction_of, enter
from tokentrace.ledger.database import Database
from tokentrace.ledger.focus import write_focus
from tokentrace.ledger.period import Period, between, month
from tokentrace.ledger.period_cells import cells_in
from tokentrace.ledger.query import Billing
from tokentrace.ledger.reprice import Repricing
from tokentrace.pricing import Pricer

#: Column -> pattern of its values. Empty where a value may be null.
SPECIFIED = {
    "BilledCost": r"-?\d+\.\d+", "EffectiveCost": r"-?\d+\.\d+", "ListCost": r"-?\d+\.\d+",
    "ContractedCost": r"-?\d+\.\d+", "BillingAccountId": ".+", "BillingAccountName": ".+",
    "BillingCurrency": "[A-Z]{3}",
    "BillingPeriodStart": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "BillingPeriodEnd": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ",
    "ChargePeriodStart": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "ChargePeriodEnd": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ",
    "ChargeCategory": "Usage", "ChargeClass": "(Correction)?", "ChargeDescription": ".+", "InvoiceIssuerName": ".+",
    "ProviderName": ".+", "PublisherName": ".+", "ServiceCategory": "AI and Machine Learning", "ServiceName": ".+",
    "PricingQuantity": r"\d*", "PricingUnit": "(Tokens|Requests)?", "ChargeFrequency": "Usage-Based",
    "ConsumedQuantity": r"\d*", "ConsumedUnit": "(Tokens|Requests)?", "Tags": r"\{.*\}",
}  # fmt: skip


@pytest.fixture
def database(tmp_path: Path) -> Database:
    topic = RollupTopic()
    topic.commit(traffic("focus", 150), NOW_US)
    follower(topic, sqlite_url(tmp_path)).run(until_end=True)
    return Database(sqlite_url(tmp_path))


def rows_of(database: Database, period: Period) -> list[dict[str, str]]:
    out = io.StringIO()
    write_focus((cell for _, cell in cells_in(database, period)), period, "team", out)
    return list(csv.DictReader(io.StringIO(out.getvalue())))


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
def test_dataset_has_what_version_1_2_requires(database: Database, zone: str) -> None:
    period = month("2026-09", ZoneInfo(zone))
    rows = rows_of(database, period)
    assert {name for name in rows[0] if not name.startswith("x_")} == set(SPECIFIED)
    for row in rows:
        for name, pattern in SPECIFIED.items():
            assert re.fullmatch(pattern, row[name]), (name, row[name])
        assert row["BillingPeriodStart"] <= row["ChargePeriodStart"] < row["ChargePeriodEnd"] <= row["BillingPeriodEnd"]
        assert (row["PricingQuantity"] == "") == (row["PricingUnit"] == "") == (row["ChargeClass"] == "Correction")


def test_sum_of_the_dataset_is_the_bill(database: Database, tmp_path: Path) -> None:
    period, now = month("2026-09", ZoneInfo("UTC")), Pricer({})
    then = prices(tmp_path, "pricing: {discounts: [{provider: openai, percent: 10}]}")
    correction = correction_of((cell for _, cell in cells_in(database, period)), Repricing(now, then))
    enter(database, correction, period, "contract", "prices.yml", NOW_US)
    bill, rows = Billing(database).bill(period, ["model"], units=True), rows_of(database, period)
    by_model: Counter[str] = Counter()
    for row in rows:
        by_model[row["x_Model"]] += int(row["x_CostNanoUsd"])
        assert Decimal(row["BilledCost"]).scaleb(9) == int(row["x_CostNanoUsd"])
    assert by_model == {model: sums["cost_nano_usd"] for (model,), sums in bill.rows.items()}
    assert sum(int(row["x_Spans"]) for row in rows) == bill.total["spans"]
    assert sum(int(row["x_CostNanoUsd"]) for row in rows if row["ChargeClass"]) == correction.cost_nano_usd < 0


def test_days_of_25_hours_are_whole(tmp_path: Path) -> None:
    topic = RollupTopic()
    ended_us = [at_us("2026-10-24T22:30:00"), at_us("2026-10-25T22:30:00"), at_us("2026-10-25T23:30:00")]
    spans = [{**span, "ended_at": end} for span, end in zip(traffic("clocks", 3, caller="a"), ended_us, strict=True)]
    topic.commit(spans, ended_us[-1])
    follower(topic, sqlite_url(tmp_path)).run(until_end=True)
    period = between("2026-10-01", "2026-11-01", ZoneInfo("Europe/Berlin"))
    rows = rows_of(Database(sqlite_url(tmp_path)), period)
    periods = Counter((row["ChargePeriodStart"], row["ChargePeriodEnd"]) for row in rows)
    assert set(periods) == {
        ("2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"),
        ("2026-10-25T23:00:00Z", "2026-10-26T23:00:00Z"),
    }
    assert all(datetime.fromisoformat(begin) < datetime.fromisoformat(end) for begin, end in periods)
