"""Write the Grafana dashboard. `make docs` runs it; a test looks for drift.

Two files of one dashboard: `grafana.json` asks for its data source when it is imported by hand, and the one in
`deploy/grafana/` takes the default data source, as files that Grafana is provisioned with have to. The chart
has a copy of it.

Every query takes the rate of each replica first and sums then, so it holds for any number of replicas. Names of panels
are a contract with `docs/`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from dashboards.files import as_texts, write_changed
from grafana_foundation_sdk.builders import bargauge, common, dashboard, heatmap, logs, loki, prometheus, stat, table
from grafana_foundation_sdk.builders import timeseries as ts
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as c
from grafana_foundation_sdk.models import dashboard as d
from grafana_foundation_sdk.models import heatmap as h
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

ROOT: Final = Path(__file__).parent.parent
IMPORTED: Final = ROOT / "dashboards" / "grafana.json"
PROVISIONED: Final = ROOT / "deploy" / "grafana" / "dashboards" / "tokentrace.json"
#: A chart reads no file outside of its folder.
CHART: Final = ROOT / "deploy" / "helm" / "tokentrace" / "files" / "tokentrace.json"

#: Selectors of a fleet, of its workers' own families, of those by model, and of those by caller too.
FLEET: Final = 'job=~"$job", namespace=~"$namespace"'
REPLICA: Final = f'{FLEET}, instance=~"$replica"'
BY_MODEL: Final = f'model=~"$model", provider=~"$provider", {REPLICA}'
BY_CALLER: Final = f'caller=~"$caller", {BY_MODEL}'

_SOURCE: Final = d.DataSourceRef(type_val="prometheus", uid="$datasource")
_LOKI: Final = d.DataSourceRef(type_val="loki", uid="$loki")
_QUALITY: Final = ((None, "red"), (0.75, "yellow"), (0.85, "green"))


def target(expr: str, legend: str = "", ref: str = "A") -> prometheus.Dataquery:
    """A query over time."""
    return prometheus.Dataquery().expr(expr).legend_format(legend).ref_id(ref).range()


def steps(*pairs: tuple[float | None, str]) -> dashboard.ThresholdsConfig:
    """Colours from a value up."""
    thresholds = [d.Threshold(value=value, color=color) for value, color in pairs]
    return dashboard.ThresholdsConfig().mode(d.ThresholdsMode.ABSOLUTE).steps(thresholds)


def lines(title: str, description: str, unit: str, targets: Sequence[prometheus.Dataquery], width: int = 8) -> ts.Panel:
    """Lines over time, with a table of names below."""
    panel = (
        ts.Panel()
        .title(title)
        .description(description)
        .datasource(_SOURCE)
        .unit(unit)
        .min(0)
        .height(8)
        .span(width)
        .interval("15s")
        .line_width(1)
        .fill_opacity(8)
        .show_points(c.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .display_mode(c.LegendDisplayMode.LIST)
            .placement(c.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(c.TooltipDisplayMode.MULTI).sort(c.SortOrder.DESCENDING))
    )
    for target in targets:
        panel.with_target(target)
    return panel


# The five panels of the overview.


def cost_over_time() -> ts.Panel:
    return lines(
        "Cost over time",
        "US dollars a minute by model, over all replicas.",
        "currencyUSD",
        [target(f"60 * sum by (model) (rate(tokentrace_cost_total{{{BY_CALLER}}}[$__rate_interval]))", "{{model}}")],
        12,
    )


def latency_heatmap() -> heatmap.Panel:
    query = target(f"sum by (le) (increase(tokentrace_latency_ms_bucket{{{BY_MODEL}}}[$__interval]))", "{{le}}")
    return (
        heatmap.Panel()
        .title("Latency heatmap")
        .description("How many calls took how long. A row is a bucket of tokentrace_latency_ms, up to its label.")
        .datasource(_SOURCE)
        .with_target(query.format(PromQueryFormat.HEATMAP))
        .unit("ms")
        .height(8)
        .span(12)
        .interval("1m")
        .calculate(False)
        .rows_frame(heatmap.RowsHeatmapOptions().layout(c.HeatmapCellLayout.LE))
        .y_axis(heatmap.YAxisConfig().unit("ms").axis_placement(c.AxisPlacement.LEFT))
        .cell_values(heatmap.CellValues().unit("short").decimals(0))
        .color(heatmap.HeatmapColorOptions().mode(h.HeatmapColorMode.SCHEME).scheme("Oranges").steps(64))
        .filter_values(heatmap.FilterValueRange().le(1e-9))
        .show_legend()
        .mode(c.TooltipDisplayMode.SINGLE)
        .show_y_histogram()
    )


def model_usage_breakdown() -> ts.Panel:
    return (
        lines(
            "Model usage breakdown",
            "Calls by model; a bar is the time from one to the next.",
            "short",
            [target(f"sum by (model) (increase(tokentrace_spans_total{{{BY_MODEL}}}[$__interval]))", "{{model}}")],
            8,
        )
        .interval("1m")
        .draw_style(c.GraphDrawStyle.BARS)
        .stacking(common.StackingConfig().mode(c.StackingMode.NORMAL).group("A"))
        .fill_opacity(80)
    )


def quality_over_time() -> ts.Panel:
    mean = (
        "sum{by} (increase(tokentrace_eval_score_sum{{{f}}}[5m])) "
        "/ (sum{by} (increase(tokentrace_eval_score_count{{{f}}}[5m])) > 0)"
    )
    return (
        lines(
            "Quality score over time",
            "Mean eval.score of the last 5 minutes, every scored call weighing the same on whichever replica. "
            "The dashed line is 0.75.",
            "percentunit",
            [
                target(mean.format(by="", f=BY_MODEL), "fleet"),
                target(mean.format(by=" by (model)", f=BY_MODEL), "{{model}}", "B"),
            ],
            8,
        )
        .max(1)
        .override_by_name("fleet", [d.DynamicConfigValue(id_val="custom.lineWidth", value=3)])
        .thresholds(steps((None, "transparent"), (0.75, "red")))
        .thresholds_style(common.GraphThresholdsStyleConfig().mode(c.GraphThresholdsStyleMode.DASHED))
    )


def alert_history() -> table.Panel:
    fired = f"max by (rule) (tokentrace_alert_last_fired_timestamp_seconds{{{REPLICA}}})"
    # Of several replicas that were the evaluator, the one that fired last knows the value.
    value = (
        f"max by (rule) (tokentrace_alert_last_value{{{REPLICA}}} and on (job, namespace, rule, instance) "
        f"(tokentrace_alert_last_fired_timestamp_seconds{{{REPLICA}}} == on (rule) group_left () {fired} > 0))"
    )
    group = {
        "rule": {"aggregations": [], "operation": "groupby"},
        "Value #A": {"aggregations": [], "operation": "groupby"},
        "Value #B": {"aggregations": ["firstNotNull"], "operation": "aggregate"},
    }
    names = {"Value #A": "time fired", "Value #B (firstNotNull)": "value at firing"}
    return (
        table.Panel()
        .title("Alert history")
        .description(
            "Firings of the built-in rules in the chosen time, from the gauges alone: a row for each time fired. "
            "Two firings of a rule between two scrapes are one row; the topic <group>.alerts has them all."
        )
        .datasource(_SOURCE)
        .with_target(target(f"1000 * ({fired} > 0)").format(PromQueryFormat.TABLE))
        .with_target(target(value, ref="B").format(PromQueryFormat.TABLE))
        .with_transformation(d.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(d.DataTransformerConfig(id_val="groupBy", options={"fields": group}))
        .with_transformation(d.DataTransformerConfig(id_val="organize", options={"renameByName": names}))
        .with_transformation(
            d.DataTransformerConfig(id_val="sortBy", options={"sort": [{"field": "time fired", "desc": True}]})
        )
        .override_by_name("time fired", [d.DynamicConfigValue(id_val="unit", value="dateTimeAsIso")])
        .unit("short")
        .no_value("no firing")
        .height(8)
        .span(8)
    )


# Attribution.


def by_caller(expr: str) -> str:
    """Return a sum by caller that names calls without a caller `(none)`: Prometheus drops an empty label."""
    return f'label_replace({expr}, "caller", "(none)", "caller", "")'


def cost_by_caller() -> ts.Panel:
    rate = f"60 * sum by (caller) (rate(tokentrace_cost_total{{{BY_CALLER}}}[$__rate_interval]))"
    return lines(
        "Cost by caller",
        "US dollars a minute by caller; calls that name none are (none).",
        "currencyUSD",
        [target(by_caller(rate), "{{caller}}")],
    )


def bill_by_caller() -> bargauge.Panel:
    bill = f"sum by (caller) (increase(tokentrace_cost_total{{{BY_CALLER}}}[$__range]))"
    return (
        bargauge.Panel()
        .title("Bill by caller")
        .description("US dollars by caller over the chosen time.")
        .datasource(_SOURCE)
        .with_target(
            prometheus.Dataquery()
            .expr(f"sort_desc({by_caller(bill)})")
            .legend_format("{{caller}}")
            .ref_id("A")
            .instant()
        )
        .unit("currencyUSD")
        .orientation(c.VizOrientation.HORIZONTAL)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .height(8)
        .span(4)
    )


def cost_per_span() -> ts.Panel:
    ratio = (
        "sum{by} (rate(tokentrace_cost_total{{{f}}}[$__rate_interval])) "
        "/ (sum{by} (rate(tokentrace_spans_total{{{f}}}[$__rate_interval])) > 0)"
    )
    return lines(
        "Cost per span",
        "US dollars of a mean call, by model and over all of them. For every caller: spans are counted without it.",
        "currencyUSD",
        [
            target(ratio.format(by="", f=BY_MODEL), "all"),
            target(ratio.format(by=" by (model)", f=BY_MODEL), "{{model}}", "B"),
        ],
        6,
    ).decimals(5)


def unpriced_spans() -> ts.Panel:
    unpriced = f'tokentrace_span_pricing_total{{source="unpriced", {BY_MODEL}}}'
    expr = f"sum by (model, provider) (rate({unpriced}[$__rate_interval]))"
    return lines(
        "Unpriced spans",
        "Calls a second that have neither cost nor price: they count as 0 USD until pricing.models names the model.",
        "reqps",
        [target(expr, "{{model}} {{provider}}")],
        6,
    ).no_value("none")


def doubtful_spans() -> ts.Panel:
    pricing = f'tokentrace_span_pricing_total{{source="estimated", {BY_MODEL}}}'
    counters = {
        "estimated": pricing,
        "repaired": f"tokentrace_spans_repaired_total{{{BY_MODEL}}}",
        "clamped": f"tokentrace_spans_clamped_total{{{BY_CALLER}}}",
    }
    return lines(
        "Estimated, repaired and clamped spans",
        "Calls a second with a total of tokens alone, with counts that contradict each other, or an impossible time.",
        "reqps",
        [
            target(f"sum by (model, provider) (rate({counter}[$__rate_interval]))", f"{{{{model}}}} {what}", letter)
            for letter, (what, counter) in zip("ABC", counters.items(), strict=True)
        ],
        24,
    ).no_value("none")


# Budgets.


def budgets(title: str, description: str, family: str) -> ts.Panel:
    """Return a panel of a share of the limit; a former evaluator may be scraped beside the present one for a while."""
    share = f"tokentrace_budget_{family}_usd{{{REPLICA}}} / tokentrace_budget_limit_usd{{{REPLICA}}}"
    return (
        lines(
            title,
            description,
            "percentunit",
            [
                target(
                    f"max by (budget, caller, model, provider) ({share})",
                    "{{budget}} {{caller}} {{model}} {{provider}}",
                )
            ],
            12,
        )
        .thresholds(steps((None, "transparent"), (0.8, "orange"), (1, "red")))
        .thresholds_style(common.GraphThresholdsStyleConfig().mode(c.GraphThresholdsStyleMode.DASHED))
        .no_value("no budgets")
    )


def budget_spent() -> ts.Panel:
    return budgets(
        "Spent of the budgets", "Share of the amount that is spent in the current period, by group.", "spent"
    )


def budget_forecast() -> ts.Panel:
    return budgets(
        "Forecast of the budgets",
        "Share of the amount at the period's end, if spending goes on as it has in the period; early it says little.",
        "forecast",
    )


# Tokens.


def token_rate() -> ts.Panel:
    return lines(
        "Token consumption",
        "Tokens a second, prompt and completion. Cached and reasoning tokens are parts of these.",
        "short",
        [
            target(
                f"sum by (token_type) (rate(tokentrace_tokens_total{{{BY_CALLER}}}[$__rate_interval]))",
                "{{token_type}}",
            )
        ],
    )


def prompt_p95() -> ts.Panel:
    expr = f"sum by (le, model) (rate(tokentrace_prompt_tokens_bucket{{{BY_MODEL}}}[$__rate_interval]))"
    return lines(
        "Prompt tokens p95",
        "95 of 100 prompts are shorter, by model; within the histogram's bucket.",
        "short",
        [target(f"histogram_quantile(0.95, {expr})", "{{model}}")],
    )


def cached_share() -> ts.Panel:
    expr = (
        f"sum by (model) (rate(tokentrace_cached_prompt_tokens_total{{{BY_CALLER}}}[$__rate_interval])) / "
        f'(sum by (model) (rate(tokentrace_tokens_total{{token_type="prompt", {BY_CALLER}}}[$__rate_interval])) > 0)'
    )
    return lines(
        "Cached share",
        "Part of the prompt tokens that came from a cache, by model.",
        "percentunit",
        [target(expr, "{{model}}")],
    ).max(1)


# Reliability.


def error_rate() -> ts.Panel:
    spans = f"sum by (model) (rate(tokentrace_spans_total{{{BY_MODEL}}}[$__rate_interval]))"
    failed = (
        f'sum by (model) (rate(tokentrace_spans_total{{status="{{status}}", {BY_MODEL}}}[$__rate_interval]))'.replace(
            "{status}", "%s"
        )
    )
    return lines(
        "Error rate",
        "Part of the calls that ended with an error, or ran out of time, by model.",
        "percentunit",
        [
            target(f"({failed % 'error'} or 0 * {spans}) / ({spans} > 0)", "{{model}} error"),
            target(f"({failed % 'timeout'} or 0 * {spans}) / ({spans} > 0)", "{{model}} timeout", "B"),
        ],
    )


def latency_quantiles() -> ts.Panel:
    buckets = f"sum by (le) (rate(tokentrace_latency_ms_bucket{{{BY_MODEL}}}[$__rate_interval]))"
    return lines(
        "Latency p50, p95, p99",
        "Over all replicas, within the histogram's bucket; 30 s stands for everything slower.",
        "ms",
        [
            target(f"histogram_quantile({q}, {buckets})", name, ref)
            for q, name, ref in ((0.5, "p50", "A"), (0.95, "p95", "B"), (0.99, "p99", "C"))
        ],
        10,
    )


def quality_now() -> stat.Panel:
    expr = (
        f"sum(increase(tokentrace_eval_score_sum{{{BY_MODEL}}}[$__range])) "
        f"/ (sum(increase(tokentrace_eval_score_count{{{BY_MODEL}}}[$__range])) > 0)"
    )
    return (
        stat.Panel()
        .title("Quality")
        .description("Mean eval.score over the chosen time: green from 0.85, yellow from 0.75, red below.")
        .datasource(_SOURCE)
        .with_target(prometheus.Dataquery().expr(expr).legend_format("quality").ref_id("A").instant())
        .unit("percentunit")
        .decimals(1)
        .no_value("no scores")
        .thresholds(steps(*_QUALITY))
        .color_mode(c.BigValueColorMode.BACKGROUND)
        .graph_mode(c.BigValueGraphMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .height(8)
        .span(6)
    )


# The workers themselves.


def worker_panels() -> list[ts.Panel]:
    rejected = f"sum by (reason) (rate(tokentrace_spans_rejected_total{{{REPLICA}}}[$__rate_interval]))"
    return [
        lines(
            "Lag in records",
            "Records that are not read yet, over all partitions and the worst one.",
            "short",
            [
                target(f"sum(tokentrace_worker_lag_records{{{REPLICA}}})", "all partitions"),
                target(f"max(tokentrace_worker_lag_records{{{REPLICA}}})", "worst partition", "B"),
            ],
        ),
        lines(
            "Lag in seconds",
            "Age of the oldest record that is not read yet, by partition.",
            "s",
            [target(f"max by (partition) (tokentrace_worker_lag_seconds{{{REPLICA}}})", "partition {{partition}}")],
        ),
        lines(
            "Throughput",
            "Spans a second that each replica counts.",
            "reqps",
            [
                target(
                    f"sum by (instance) (rate(tokentrace_worker_counted_records_total{{{REPLICA}}}[$__rate_interval]))",
                    "{{instance}}",
                )
            ],
        ),
        lines(
            "Commit age",
            "Time since each replica's last commit. It grows while there is nothing to read, too.",
            "s",
            [target(f"max by (instance) (tokentrace_worker_last_commit_age_seconds{{{REPLICA}}})", "{{instance}}")],
            6,
        ),
        lines(
            "Rejects by reason",
            "Messages, or parts of spans, a second that were not counted; docs/metrics.md explains each reason.",
            "reqps",
            [target(rejected, "{{reason}}")],
            6,
        ).no_value("none"),
        lines(
            "Groups against limit",
            "Combinations of model, provider and caller in each replica, and how many may have series of their own.",
            "short",
            [
                target(f"max by (instance) (tokentrace_groups{{{REPLICA}}})", "{{instance}}"),
                target(f"min(tokentrace_groups_limit{{{REPLICA}}})", "limit", "B"),
            ],
            6,
        ),
        lines(
            "Restarts",
            "Restarts of each replica within the last hour.",
            "short",
            [
                target(
                    f"sum by (instance) (changes(tokentrace_worker_start_time_seconds{{{REPLICA}}}[1h]))",
                    "{{instance}}",
                )
            ],
            6,
        ),
    ]


def alert_payloads() -> logs.Panel:
    return (
        logs.Panel()
        .title("Alert payloads")
        .description("What rules with delivery to stdout wrote, from the Loki data source, where one is chosen.")
        .datasource(_LOKI)
        .with_target(
            loki.Dataquery()
            .datasource(_LOKI)
            .expr('{app="tokentrace"} |= "fired_at" | json | alert != "" and rule_id != ""')
            .ref_id("A")
        )
        .unit("string")
        .height(8)
        .span(24)
    )


def variable(name: str, label: str, query: str) -> dashboard.QueryVariable:
    """A choice of label values; All also matches series that have no such label."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(_SOURCE)
        .query({"query": query, "refId": f"variable-{name}"})
        .refresh(d.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(d.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(d.VariableOption(selected=True, text="All", value="$__all"))
    )


def build(source: str) -> dict[str, Any]:
    """The dashboard as JSON's data. source: what the data source variable begins with."""
    board = (
        dashboard.Dashboard("tokentrace")
        .uid("tokentrace")
        .description("Cost, latency, quality and reliability of language-model calls, and the workers that count them.")
        .tags(["tokentrace", "llm"])
        .timezone("browser")
        .time("now-3h", "now")
        .refresh("30s")
        .tooltip(d.DashboardCursorSync.CROSSHAIR)
        .editable()
        .with_variable(
            dashboard.DatasourceVariable("datasource")
            .label("Data source")
            .type("prometheus")
            .current(d.VariableOption(selected=True, text=source, value=source))
        )
        .with_variable(variable("job", "Job", "label_values(tokentrace_worker_build_info, job)"))
        .with_variable(
            variable("namespace", "Namespace", 'label_values(tokentrace_worker_build_info{job=~"$job"}, namespace)')
        )
        .with_variable(variable("model", "Model", f"label_values(tokentrace_spans_total{{{FLEET}}}, model)"))
        .with_variable(
            variable(
                "provider", "Provider", f'label_values(tokentrace_spans_total{{{FLEET}, model=~"$model"}}, provider)'
            )
        )
        .with_variable(variable("caller", "Caller", f"label_values(tokentrace_cost_total{{{FLEET}}}, caller)"))
        .with_variable(
            variable("replica", "Replica", f"label_values(tokentrace_worker_build_info{{{FLEET}}}, instance)")
        )
        .with_variable(dashboard.DatasourceVariable("loki").label("Loki").type("loki"))
    )
    rows: list[tuple[str, list[Any]]] = [
        (
            "Overview",
            [cost_over_time(), latency_heatmap(), model_usage_breakdown(), quality_over_time(), alert_history()],
        ),
        ("Attribution", [cost_by_caller(), bill_by_caller(), cost_per_span(), unpriced_spans(), doubtful_spans()]),
        ("Budgets", [budget_spent(), budget_forecast()]),
        ("Tokens", [token_rate(), prompt_p95(), cached_share()]),
        ("Reliability", [error_rate(), latency_quantiles(), quality_now()]),
        ("Worker", list(worker_panels())),
    ]
    number = 0
    for title, panels in rows:
        number += 1
        board.with_row(dashboard.Row(title).id(number))
        for panel in panels:
            number += 1
            board.with_panel(panel.id(number))
    row = dashboard.Row("Alert payloads").id(number + 1).collapsed(True).with_panel(alert_payloads().id(number + 2))
    board.with_row(row)
    data: dict[str, Any] = json.loads(JSONEncoder(sort_keys=True).encode(board.build()))
    return data


def imported() -> dict[str, Any]:
    """For import by hand, in Grafana 10 and later: it asks which Prometheus."""
    question = {
        "name": "DS_PROMETHEUS",
        "label": "Prometheus",
        "description": "The Prometheus that scrapes tokentrace",
        "type": "datasource",
        "pluginId": "prometheus",
        "pluginName": "Prometheus",
    }
    panels = ("bargauge", "heatmap", "logs", "stat", "table", "timeseries")
    requires = [
        {"type": "grafana", "id": "grafana", "name": "Grafana", "version": "10.0.0"},
        {"type": "datasource", "id": "prometheus", "name": "Prometheus", "version": "1.0.0"},
        *({"type": "panel", "id": panel, "name": panel, "version": ""} for panel in panels),
    ]
    return {"__inputs": [question], "__requires": requires, "id": None, **build("${DS_PROMETHEUS}")}


def generated() -> dict[Path, str]:
    """Every file, as it should be."""
    provisioned = build("default")
    files = {IMPORTED: imported(), PROVISIONED: provisioned, CHART: provisioned}
    return as_texts(files)


def main() -> None:
    """Write what has changed."""
    write_changed(generated())


if __name__ == "__main__":
    main()
