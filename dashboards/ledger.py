"""Write the Grafana dashboard of a PostgreSQL ledger. `make docs` runs it; a test looks for drift.

Two files of one dashboard, as in `generate.py`: one to import by hand, and one to provision with the data source of
`deploy/grafana/ledger/`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from dashboards import ledger_sql as sql
from dashboards.files import as_texts, write_changed
from grafana_foundation_sdk.builders import common, dashboard, stat, table
from grafana_foundation_sdk.builders import timeseries as ts
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common as c
from grafana_foundation_sdk.models import dashboard as d

ROOT: Final = Path(__file__).parent.parent
IMPORTED: Final = ROOT / "dashboards" / "ledger.json"
PROVISIONED: Final = ROOT / "deploy" / "grafana" / "ledger" / "dashboards" / "tokentrace-ledger.json"

PLUGIN: Final = "grafana-postgresql-datasource"
#: The uid of the data source that is provisioned.
PROVISIONED_SOURCE: Final = "tokentrace-ledger"
_SOURCE: Final = d.DataSourceRef(type_val=PLUGIN, uid="$datasource")
_USD: Final = "currencyUSD"


class SqlQuery(Dataquery, Builder["SqlQuery"]):
    """A query in SQL, which the SDK has no type for. It is its own builder."""

    def __init__(self, text: str, format: str = "table") -> None:
        self._text = text
        self._format = format

    def build(self) -> SqlQuery:
        """Return the query."""
        return self

    def to_json(self) -> dict[str, object]:
        """Return what Grafana's editor of code writes."""
        return {
            "refId": "A",
            "datasource": _SOURCE,
            "editorMode": "code",
            "format": self._format,
            "rawQuery": True,
            "rawSql": self._text,
        }


def number(title: str, description: str, unit: str, text: str, empty: str = "none") -> stat.Panel:
    """One number."""
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(_SOURCE)
        .with_target(SqlQuery(text))
        .unit(unit)
        .no_value(empty)
        .color_mode(c.BigValueColorMode.NONE)
        .graph_mode(c.BigValueGraphMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .height(4)
        .span(6)
    )


def rows(title: str, description: str, text: str, empty: str, width: int) -> table.Panel:
    """Return a table whose columns of USD have cents."""
    return (
        table.Panel()
        .title(title)
        .description(description)
        .datasource(_SOURCE)
        .with_target(SqlQuery(text))
        .unit("locale")
        .override_by_regexp(
            "/usd$/",
            [d.DynamicConfigValue(id_val="unit", value=_USD), d.DynamicConfigValue(id_val="decimals", value=2)],
        )
        .no_value(empty)
        .height(9)
        .span(width)
    )


def over_time(title: str, description: str, text: str) -> ts.Panel:
    """US dollars over time."""
    return (
        ts.Panel()
        .title(title)
        .description(description)
        .datasource(_SOURCE)
        .with_target(SqlQuery(text, "time_series"))
        .unit(_USD)
        .height(9)
        .span(12)
        .legend(
            common.VizLegendOptions()
            .display_mode(c.LegendDisplayMode.LIST)
            .placement(c.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(c.TooltipDisplayMode.MULTI).sort(c.SortOrder.DESCENDING))
    )


def spend_by_day() -> ts.Panel:
    stacked = common.StackingConfig().mode(c.StackingMode.NORMAL).group("A")
    return (
        over_time("Spend by day", "US dollars by day (UTC) in which the calls ended, and by model.", sql.SPEND_BY_DAY)
        .draw_style(c.GraphDrawStyle.BARS)
        .fill_opacity(80)
        .stacking(stacked)
    )


def burn_down() -> ts.Panel:
    return (
        over_time(
            "Budget burn-down",
            "What is left of the amount above after each hour of the chosen time's last month, and at an even pace.",
            sql.BUDGET_BURN_DOWN,
        )
        .line_interpolation(c.LineInterpolation.STEP_AFTER)
        .show_points(c.VisibilityMode.NEVER)
        .span_nulls(True)
        .override_by_name(
            "even pace",
            [
                d.DynamicConfigValue(id_val="custom.lineInterpolation", value="linear"),
                d.DynamicConfigValue(id_val="custom.lineStyle", value={"fill": "dash", "dash": [8, 8]}),
            ],
        )
    )


def panels() -> list[Any]:
    """Every panel in the order of its place."""
    return [
        number("Spent", "US dollars of the calls that ended in the chosen time, with corrections.", _USD, sql.SPENT),
        number(
            "Left of the budget",
            "The amount above, less what the chosen time's last month has cost so far.",
            _USD,
            sql.BUDGET_LEFT,
        ),
        number(
            "The ledger is complete until",
            "When the last commit that is in the ledger was made. It is old while nothing is counted, too.",
            "dateTimeFromNow",
            sql.COMMITTED_AT,
            "nothing yet",
        ),
        number("Gaps", "How often rollups are missing, so that bills may be too low.", "short", sql.GAP_COUNT),
        rows(
            "Bill by month",
            "Whole months (UTC) that the chosen time touches. Late: booked after the month was closed. "
            "USD include that and the corrections.",
            sql.BILL_BY_MONTH,
            "no calls",
            12,
        ),
        burn_down(),
        spend_by_day(),
        rows(
            "Bill by caller and model",
            "Of the hours that begin in the chosen time, like tokentrace bill --by caller,model,provider.",
            sql.BILL_BY_CALLER_AND_MODEL,
            "no calls",
            12,
        ),
        rows("Missing rollups", "When the rollups that the ledger lacks were written.", sql.GAPS, "none", 24),
    ]


def choice(name: str, label: str, query: str, all_value: str) -> dashboard.QueryVariable:
    """Return a choice of label values. all_value: a subquery, so that thousands of values make no long query."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(_SOURCE)
        .query(query)
        .refresh(d.VariableRefresh.ON_DASHBOARD_LOAD)
        .multi(True)
        .include_all(True)
        .all_value(all_value)
        .current(d.VariableOption(selected=True, text="All", value="$__all"))
    )


def build(source: str) -> dict[str, Any]:
    """The dashboard as JSON's data. source: what the data source variable begins with."""
    board = (
        dashboard.Dashboard("tokentrace ledger")
        .uid("tokentrace-ledger")
        .description("Exact bills of language-model calls and the budget of a month, from the ledger in PostgreSQL.")
        .tags(["tokentrace", "llm", "cost"])
        .timezone("utc")
        .time("now-2M/M", "now/M")
        .refresh("5m")
        .editable()
        .with_variable(
            dashboard.DatasourceVariable("datasource")
            .label("Data source")
            .type(PLUGIN)
            .current(d.VariableOption(selected=True, text=source, value=source))
        )
        .with_variable(choice("model", "Model", sql.MODELS, sql.ALL_MODELS))
        .with_variable(choice("caller", "Caller", sql.CALLERS, sql.ALL_CALLERS))
        .with_variable(
            dashboard.TextBoxVariable("budget_usd")
            .label("Budget of a month, USD")
            .default_value("1000")
            .current(d.VariableOption(selected=True, text="1000", value="1000"))
        )
    )
    for place, panel in enumerate(panels(), 1):
        board.with_panel(panel.id(place))
    data: dict[str, Any] = json.loads(JSONEncoder(sort_keys=True).encode(board.build()))
    return data


def imported() -> dict[str, Any]:
    """For import by hand, in Grafana 10.2 and later: it asks which PostgreSQL."""
    question = {
        "name": "DS_LEDGER",
        "label": "Ledger",
        "description": "The PostgreSQL that has the ledger",
        "type": "datasource",
        "pluginId": PLUGIN,
        "pluginName": "PostgreSQL",
    }
    requires = [
        {"type": "grafana", "id": "grafana", "name": "Grafana", "version": "10.2.0"},
        {"type": "datasource", "id": PLUGIN, "name": "PostgreSQL", "version": "1.0.0"},
        *({"type": "panel", "id": panel, "name": panel, "version": ""} for panel in ("stat", "table", "timeseries")),
    ]
    return {"__inputs": [question], "__requires": requires, "id": None, **build("${DS_LEDGER}")}


def generated() -> dict[Path, str]:
    """Every file, as it should be."""
    files = {IMPORTED: imported(), PROVISIONED: build(PROVISIONED_SOURCE)}
    return as_texts(files)


def main() -> None:
    """Write what has changed."""
    write_changed(generated())


if __name__ == "__main__":
    main()
