"""The ledger's dashboard: what its files say, and what its SQL gives on a real PostgreSQL against a recount."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
import yaml
from dashboards import ledger as generate
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.deploy.expressions import panels
from tests.ledger.helpers import DAY_US, HOUR_US, RollupTopic, follower, part_of
from tests.oracle import cost_of, counted
from tests.services import ROOT
from tests.services.postgresql import PostgreSql
from tests.spanfactory import random_span
from tokentrace.ledger.corrections import Correction, enter
from tokentrace.ledger.database import Database
from tokentrace.ledger.period import month
from tokentrace.ledger.period_cells import CellKey
from tokentrace.ledger.query import Billing
from tokentrace.model.dimensions import Dimension

BOARD: dict[str, Any] = json.loads(generate.IMPORTED.read_text())
PANELS = {panel["title"]: panel for panel in panels(BOARD)}
VARIABLES = {variable["name"]: variable for variable in BOARD["templating"]["list"]}
FOLDER = ROOT / "deploy" / "grafana" / "ledger"
#: Statements that make the database, and those for its readers.
MAKING, *BLOCKS = re.findall(
    r"^```sql\n(.*?)^```$", (ROOT / "docs" / "billing.md").read_text(), re.MULTILINE | re.DOTALL
)

Span = dict[str, Any]
#: One correction of an hour of a group, which has other calls on that day.
CORRECTION = -500_000_000
CORRECTED = CALLER, MODEL, PROVIDER = "search", "gpt-4o-mini", "openai"
TEAM = "ads"
KOLKATA_EDGES = ("09-30T18:29:59", "09-30T18:30", "10-31T18:29:59", "10-31T18:30")
OCTOBER = month("2026-10", ZoneInfo("UTC"))


def at_s(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


CORRECTED_HOUR = at_s("2026-10-20T04:00") // 3600


def nano(usd: Decimal) -> int:
    """USD as an integer; whatever has more decimals is not exact."""
    whole = int(usd * 10**9)
    assert usd * 10**9 == whole
    return whole


# What the files say.


@pytest.mark.parametrize("path", generate.generated(), ids=lambda path: path.name)
def test_the_files_are_what_the_generator_writes(path: Path) -> None:
    assert path.read_text() == generate.generated()[path], "run: make docs"


def test_grafanas_own_types_read_it_and_give_it_back() -> None:
    again = json.loads(generate.JSONEncoder(sort_keys=True).encode(Dashboard.from_json(generate.build("x"))))
    assert [panel["title"] for panel in again["panels"]] == list(PANELS)
    assert [variable["name"] for variable in again["templating"]["list"]] == list(VARIABLES)


def test_every_panel_has_a_description_a_unit_and_a_place_of_its_own() -> None:
    taken: Counter[tuple[int, int]] = Counter()
    for panel in PANELS.values():
        assert len(panel["description"]) > 20
        assert panel["fieldConfig"]["defaults"]["unit"]
        place = panel["gridPos"]
        taken.update(
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        )
    assert set(taken.values()) == {1}
    assert set(Counter(y for _, y in taken).values()) == {24}


def test_every_variable_is_used_and_every_variable_that_is_used_exists() -> None:
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(list(PANELS.values()))))
    assert used - {"__unixEpochFrom", "__unixEpochTo"} == set(VARIABLES)


def test_the_data_source_the_provider_and_the_dashboard_find_each_other() -> None:
    (source,) = yaml.safe_load((FOLDER / "provisioning/datasources/tokentrace-ledger.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((FOLDER / "provisioning/dashboards/tokentrace-ledger.yml").read_text())["providers"]
    provisioned = json.loads(generate.PROVISIONED.read_text())
    assert provisioned["templating"]["list"][0]["current"]["value"] == source["uid"]
    assert VARIABLES["datasource"]["query"] == source["type"] == BOARD["__inputs"][0]["pluginId"]
    assert f"`{provider['options']['path']}`" in (ROOT / "docs" / "billing.md").read_text()
    assert f"CREATE ROLE {source['user']} " in BLOCKS[0]
    assert "__inputs" not in provisioned


# What the SQL gives.


@pytest.fixture
def spans() -> list[Span]:
    """Calls from the end of September to the beginning of November; a fifth is counted nine days late."""
    rng = random.Random("dashboard")
    found = []
    edges = [
        at_s(f"2026-{edge}")
        for edge in ("09-30T23:59:59", "10-01", "10-05T10:45", "10-31T23:59:59", "11-01", *KOLKATA_EDGES)
    ]
    for ended_us in (
        *(edge * 1_000_000 for edge in edges),
        *(at_s("2026-09-28") * 1_000_000 + rng.randrange(37 * DAY_US) for _ in range(500)),
    ):
        late_us = rng.choice([1, 1, 1, 1, 9]) * DAY_US
        one = {**random_span(rng), "started_at": ended_us - 1_000_000, "ended_at": ended_us}
        one["attributes"] = {**one["attributes"], "team": rng.choice(["search", "ads"])}
        found.append({**one, "booked_us": ended_us + late_us})
    return sorted(found, key=lambda one: one["booked_us"])


class Reader:
    """Asks as Grafana does, as the user that may only read."""

    def __init__(self, postgresql: PostgreSql) -> None:
        self._connection = psycopg.connect(postgresql.url.replace("ledger@", "ledger_reader@"))

    def ask(self, sql: str, since: str, until: str, model: str = "", budget: str = "20") -> list[tuple[Any, ...]]:
        chosen = f"'{model}'" if model else VARIABLES["model"]["allValue"]
        for name, value in {
            "$__unixEpochFrom()": str(at_s(since)), "$__unixEpochTo()": str(at_s(until)), "$model": chosen,
            "$caller": VARIABLES["caller"]["allValue"], "${budget_usd}": budget,
        }.items():  # fmt: skip
            sql = sql.replace(name, value)
        assert "$" not in sql
        with self._connection.transaction():
            return self._connection.execute(sql.encode()).fetchall()

    def panel(self, title: str, since: str, until: str, **options: str) -> list[tuple[Any, ...]]:
        (target,) = PANELS[title]["targets"]
        return self.ask(target["rawSql"], since, until, **options)

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def reader(spans: list[Span], postgresql: PostgreSql) -> Iterator[Reader]:
    """A ledger of the spans, and a correction of -0.5 USD in October. The statements of the documentation were run."""
    topic = RollupTopic(dimensions=[Dimension("team", "attributes.team")])
    for first in range(0, len(spans), 5):
        batch = spans[first : first + 5]
        at_us = batch[-1]["booked_us"]
        topic.commit(({name: one[name] for name in one if name != "booked_us"} for one in batch), at_us)
        for one in batch:
            one["booked_us"] = at_us
    follower(topic, postgresql.url).run(until_end=True)
    with psycopg.connect(postgresql.url) as owner:
        groups = owner.execute(
            "SELECT caller, model, provider, dimensions::json ->> 'team', group_id FROM ledger_groups"
        )
        group_id = {row[:4]: row[4] for row in groups}[*CORRECTED, TEAM]
    corrected = Correction({CellKey(CORRECTED_HOUR, group_id, 0, 0): CORRECTION}, 1, 0)
    enter(Database(postgresql.url), corrected, OCTOBER, "contract", "prices.yml", 0)
    with psycopg.connect(postgresql.url, autocommit=True) as owner:
        for block in BLOCKS:
            owner.execute(block.encode())
        owner.execute("GRANT USAGE ON SCHEMA finance TO ledger_reader")
        owner.execute("GRANT SELECT ON ALL TABLES IN SCHEMA finance TO ledger_reader")
    found = Reader(postgresql)
    yield found
    found.close()
    with psycopg.connect(postgresql.url, autocommit=True) as owner:
        owner.execute("DROP SCHEMA finance CASCADE")
        owner.execute("DROP OWNED BY ledger_reader")
        owner.execute("DROP ROLE ledger_reader")


def test_the_owner_that_the_documentation_makes_can_keep_a_ledger(postgresql: PostgreSql) -> None:
    role, _, database = MAKING.partition(";")
    assert "CREATE DATABASE ledger OWNER ledger;" in database
    with psycopg.connect(postgresql.url, autocommit=True) as admin:
        admin.execute(role.replace(" ledger ", " documented ").encode())
        admin.execute(database.replace(" ledger", " documented").encode())
        try:
            server = postgresql.url.partition("@")[2].partition("/")[0]
            Database(f"postgresql://documented@{server}/documented").migrate()
        finally:
            admin.execute("DROP DATABASE documented WITH (FORCE)")
            admin.execute("DROP ROLE documented")


def cost(spans: Iterable[Span]) -> int:
    return sum(cost_of(one)[0] for one in spans)


def tokens(spans: Iterable[Span]) -> tuple[int, int]:
    usages = [counted(one).usage for one in spans]
    return sum(usage.get("prompt", 0) for usage in usages), sum(usage.get("completion", 0) for usage in usages)


def between(spans: Iterable[Span], since: str, until: str) -> list[Span]:
    """Calls of the hours, and the parts of hours, that begin in this time."""

    def begins(one: Span) -> int:
        hour, minute, _ = part_of(one["ended_at"], ())
        return hour * 3600 + minute * 60

    return [one for one in spans if at_s(since) <= begins(one) < at_s(until)]


def grouped(spans: Iterable[Span], key: Callable[[Span], Any]) -> dict[Any, list[Span]]:
    found: dict[Any, list[Span]] = {}
    for one in spans:
        found.setdefault(key(one), []).append(one)
    return found


MONTHS = {"2026-09": "2026-10-01", "2026-10": "2026-11-01", "2026-11": "2026-12-01"}


@pytest.mark.parametrize("model", ["", "gpt-4o"])
def test_the_bill_by_month_has_whole_months_and_tells_what_was_late_or_corrected(
    reader: Reader, spans: list[Span], postgresql: PostgreSql, model: str
) -> None:
    chosen = [one for one in spans if model in ("", one["model"])]
    corrections = Counter({} if model else {"2026-10": CORRECTION})
    expected = []
    for name, closed in sorted(MONTHS.items(), reverse=True):
        found = between(chosen, f"{name}-01", closed)
        late = [one for one in found if one["booked_us"] >= (at_s(closed) + 86_400) * 1_000_000]
        extra = corrections[name]
        expected.append((name, cost(found) + extra, cost(late), extra, len(found), *tokens(found)))
    assert expected[1][2] > 0
    # A chosen time that ends in Grafana's way, a second before the next month.
    for since, until in (("2026-09-01", "2026-11-30T23:59:59"), ("2026-09-15T10:11:12", "2026-11-02T03:04:05")):
        rows = reader.panel("Bill by month", since, until, model=model)
        assert [(row[0], *map(nano, row[1:4]), *row[4:]) for row in rows] == expected
    if not model:
        bill = Billing(Database(postgresql.url)).bill(OCTOBER, [])
        assert (bill.total["cost_nano_usd"], bill.late["cost_nano_usd"], bill.corrections) == expected[1][1:4]


@pytest.mark.parametrize(
    ("since", "until"),
    [
        ("2026-10-01", "2026-10-31T23:59:59"),
        ("2026-10-05T10:30:00", "2026-10-21T05:00:00"),
        # October in Asia/Kolkata.
        ("2026-09-30T18:30", "2026-10-31T18:29:59"),
    ],
)
def test_the_chosen_time_has_the_hours_that_begin_in_it(
    reader: Reader, spans: list[Span], since: str, until: str
) -> None:
    found = between(spans, since, until)
    assert len(found) > 100
    ((spent,),) = reader.panel("Spent", since, until)
    assert nano(spent) == cost(found) + CORRECTION

    rows = reader.panel("Bill by caller and model", since, until)
    groups = grouped(found, lambda one: (one["caller"], one["model"], one["provider"]))
    expected = {key: (cost(some), len(some), *tokens(some)) for key, some in groups.items()}
    add(expected, CORRECTED)
    assert {row[:3]: (nano(row[3]), *row[4:]) for row in rows} == expected
    assert [row[3] for row in rows] == sorted((row[3] for row in rows), reverse=True)

    days = {
        (datetime.fromtimestamp(day * 86_400, UTC), name): (cost(some),)
        for (day, name), some in grouped(found, lambda one: (one["ended_at"] // DAY_US, one["model"])).items()
    }
    add(days, (datetime(2026, 10, 20, tzinfo=UTC), CORRECTED[1]))
    shown = reader.panel("Spend by day", since, until)
    assert {row[:2]: (nano(row[2]),) for row in shown} == days
    assert [row[0] for row in shown] == sorted(row[0] for row in shown)


def test_the_budget_burns_down_to_what_is_left_of_it(reader: Reader, spans: list[Span]) -> None:
    since, until, budget = "2026-09-01", "2026-10-31T23:59:59", 100_000
    first, last = at_s("2026-10-01") // 3600, at_s("2026-11-01") // 3600
    hours = Counter({CORRECTED_HOUR: CORRECTION})
    for one in between(spans, "2026-10-01", "2026-11-01"):
        hours[one["ended_at"] // HOUR_US] += cost([one])
    left, expected = budget * 10**9, [(first, budget * 10**9)]
    for hour in sorted(hours):
        left -= hours[hour]
        expected.append((hour + 1, left))
    rows = reader.panel("Budget burn-down", since, until, budget=str(budget))
    assert [(row[0].timestamp() / 3600, nano(row[1])) for row in rows if row[1] is not None] == expected
    for time, _, pace in rows:
        assert float(pace) == pytest.approx(budget * (last - time.timestamp() / 3600) / (last - first))
    assert (rows[0][2], rows[-1][0].timestamp(), rows[-1][2]) == (budget, at_s("2026-11-01"), 0)
    ((remaining,),) = reader.panel("Left of the budget", since, until, budget=str(budget))
    assert nano(remaining) == left
    ((untouched,),) = reader.panel("Left of the budget", since, "2027-01-15", budget="12.5")
    assert untouched == Decimal("12.5")


def test_the_dashboard_tells_how_far_the_ledger_is_and_what_it_lacks(
    reader: Reader, spans: list[Span], postgresql: PostgreSql
) -> None:
    anytime = "2026-01-01", "2026-12-31"
    assert reader.panel("The ledger is complete until", *anytime) == [(spans[-1]["booked_us"] // 1000,)]
    assert reader.panel("Gaps", *anytime) == [(0,)]
    assert reader.panel("Missing rollups", *anytime) == []
    begins, ends = at_s("2026-10-02"), at_s("2026-10-03")
    with psycopg.connect(postgresql.url) as owner:
        gap = "INSERT INTO ledger_gaps VALUES ('one', 5, 9, %s, %s, 'rollups expired', 0)"
        owner.execute(gap, (begins * 1_000_000, ends * 1_000_000))
    assert reader.panel("Gaps", *anytime) == [(1,)]
    times = datetime.fromtimestamp(begins, UTC), datetime.fromtimestamp(ends, UTC)
    assert reader.panel("Missing rollups", *anytime) == [(*times, "rollups expired")]


def test_models_and_callers_can_be_chosen(reader: Reader, spans: list[Span]) -> None:
    models, callers = (reader.ask(VARIABLES[name]["query"], "2026-01-01", "2026-12-31") for name in ("model", "caller"))
    assert models == [(name,) for name in sorted({one["model"] for one in spans})]
    assert dict(callers) == {one["caller"]: one["caller"] or "(none)" for one in spans}


def test_the_views_of_the_documentation_are_the_bill(reader: Reader, spans: list[Span]) -> None:
    def ended(one: Span) -> date:
        return datetime.fromtimestamp(one["ended_at"] / 1e6, UTC).date()

    months = grouped(spans, lambda one: (ended(one).replace(day=1), one["caller"], one["model"]))
    expected = {key: (cost(some), len(some)) for key, some in months.items()}
    add(expected, (date(2026, 10, 1), *CORRECTED[:2]))
    rows = reader.ask("SELECT * FROM finance.bill_by_month", "2026-01-01", "2026-12-31")
    assert {row[:3]: (nano(row[3]), row[4]) for row in rows} == expected

    teams = {
        key: (cost(some), len(some))
        for key, some in grouped(spans, lambda one: (ended(one), one["attributes"]["team"])).items()
    }
    add(teams, (date(2026, 10, 20), TEAM))
    rows = reader.ask("SELECT * FROM finance.bill_by_team", "2026-01-01", "2026-12-31")
    assert {row[:2]: (nano(row[2]), row[3]) for row in rows} == teams


def test_the_reader_may_write_nothing(reader: Reader) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        reader.ask("DELETE FROM ledger_hours", "2026-01-01", "2026-12-31")


def add(sums: dict[Any, tuple[int, ...]], key: Any) -> None:
    """Add the correction to the costs of a key."""
    cost_nano_usd, *others = sums[key]
    sums[key] = (cost_nano_usd + CORRECTION, *others)
