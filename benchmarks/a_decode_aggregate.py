"""(a) Decode and aggregate on one core: `Pipeline.count` against fastavro with a dict, and with prometheus_client.

All of them do the same work, from message values to every family; see `baselines`. Everything is warm: groups, label
children and prices have been seen once.
"""

from __future__ import annotations

from tokentrace.model.dimensions import Dimension

from .baselines import FastavroDict, FastavroPrometheus
from .effort import Effort
from .measure import Figure, Measure, Row, in_turns, rate_of
from .rig import Harness
from .workload import DIMENSIONS, SCHEMAS, UNITS, Workload, workload

TYPICAL_GROUPS = 1_000


def run(effort: Effort) -> Figure:
    """Schemas over 1 000 groups, the default schema over the other numbers of groups, and dimensions."""
    cases = [(kind, TYPICAL_GROUPS) for kind in SCHEMAS]
    cases += [("default", groups) for groups in effort.groups if groups != TYPICAL_GROUPS]
    rows, details = [], {}
    measured: dict[tuple[str, int], tuple[Measure, Measure, Measure]] = {}
    for kind, groups in cases:
        load = workload(kind, effort.spans, groups)
        speed, plain, client = _compare(load, effort)
        measured[kind, groups] = speed, plain, client
        main = kind == "default" and groups == TYPICAL_GROUPS
        target = ">= 10" if main else ">= 8" if kind == "wide" else ""
        case = f"{kind}, {load.mean_bytes():.0f} bytes, {groups} groups"
        rows.append(
            Row(case, speed.text(" M spans/s", 1e6), speed.over(plain).text(), "fastavro + dict", target),
        )
        rows.append(
            Row("", "", speed.over(client).text(), "fastavro + prometheus_client", ">= 30" if main else ""),
        )
        details[f"{kind}_{groups}"] = {
            "spans_per_s": speed.median,
            "vs_fastavro_dict": speed.over(plain).median,
            "vs_prometheus_client": speed.over(client).median,
            "fastavro_dict_spans_per_s": plain.median,
            "prometheus_client_spans_per_s": client.median,
        }
    speed, with_dimensions = _dimensions(effort)
    rows.append(
        Row(
            f"4 dimensions of {', '.join(map(str, DIMENSIONS.values()))} values, {TYPICAL_GROUPS} groups",
            with_dimensions.text(" M spans/s", 1e6),
            with_dimensions.over(speed).text(),
            "the same spans without dimensions",
            ">= 0.9",
        )
    )
    slower = with_dimensions.over(speed).median
    units = workload(UNITS, effort.spans, TYPICAL_GROUPS)
    default = workload("default", effort.spans, TYPICAL_GROUPS)
    without_units, with_units = _in_turns(effort, (default, Harness(default)), (units, Harness(units)))
    rows.append(
        Row(
            f"eight units, {units.mean_bytes():.0f} bytes, {TYPICAL_GROUPS} groups",
            with_units.text(" M spans/s", 1e6),
            with_units.over(without_units).text(),
            "default, without them",
        )
    )
    speed, plain, client = measured["default", TYPICAL_GROUPS]
    wide_speed, wide_plain, _ = measured["wide", TYPICAL_GROUPS]
    results = {
        "vs_prometheus_client": speed.over(client).median,
        "vs_fastavro_dict": speed.over(plain).median,
        "wide_vs_fastavro_dict": wide_speed.over(wide_plain).median,
        "spans_per_s": speed.median,
        "with_dimensions": slower,
        "with_eight_units": with_units.over(without_units).median,
        "cases": details,
    }
    return Figure("a decode + aggregate", rows, {"decode_aggregate": results})


def _dimensions(effort: Effort) -> tuple[Measure, Measure]:
    """Spans a second without dimensions, and with four of them, of the same spans in as many groups."""
    load = workload("dimensions", effort.spans, TYPICAL_GROUPS)
    dimensions = [Dimension(name, f"attributes.{name}", limit=limit) for name, limit in DIMENSIONS.items()]
    without, with_them = _in_turns(effort, (load, Harness(load)), (load, Harness(load, dimensions=dimensions)))
    return without, with_them


def _in_turns(effort: Effort, *rigs: tuple[Workload, Harness]) -> list[Measure]:
    """Spans a second of each harness over its load."""
    runs = [rate_of(rig.count, len(load.messages)) for load, rig in rigs]
    for run in runs:
        run()
    return in_turns(effort.repeats, *runs)


def _compare(load: Workload, effort: Effort) -> tuple[Measure, Measure, Measure]:
    """Spans a second of tokentrace, fastavro + dict, fastavro + prometheus_client."""
    rig = Harness(load)
    plain, client = FastavroDict(load.schema), FastavroPrometheus(load.schema)
    few, some = load.messages[: effort.baseline_spans], load.messages[: 2 * effort.baseline_spans]
    runs = [
        rate_of(rig.count, len(load.messages)),
        rate_of(lambda: plain.count(some), len(some)),
        rate_of(lambda: client.count(few), len(few)),
    ]
    for run in runs:
        run()
    speed, dict_speed, client_speed = in_turns(effort.repeats, *runs)
    return speed, dict_speed, client_speed
