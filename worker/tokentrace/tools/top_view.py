"""View of `top`: rows by a label, columns by priority, in the width and height of a terminal.

A figure is never cut: names give way first, by an ellipsis in their middle, then columns, the least important first.
In a low terminal the rows scroll, and the header, the sums and the problems stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.text import Text

from tokentrace.model.text import printable
from tokentrace.tools.top import ABSENT, LAG_RECORDS, LAG_SECONDS, REJECTED, Rates, ReplicaScrape, Totals
from tokentrace.tools.top_choices import TREND_LENGTH, View, sorted_rows
from tokentrace.tools.top_rows import Figures, figures_of, rows_of

#: Narrowest and widest column of names.
MIN_NAME: Final = 14
MAX_NAME: Final = 60
GAP: Final = 2
#: Rows where the height is not limited.
MAX_ROWS: Final = 30
#: Problems that are shown one by one in a limited height.
MAX_PROBLEMS: Final = 3
BARS: Final = "▁▂▃▄▅▆▇█"

HELP: Final = "b: rows  s: sort  r: reverse  /: filter  space: pause  arrows: scroll  q: quit"


class Column(NamedTuple):
    """A column of figures. priority: the lowest is left out last. key: a field of Figures."""

    title: str
    priority: int
    key: str
    text: Callable[[float], str]


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _dollars(value: float) -> str:
    return f"${value:,.2f}" if value >= 1 or value == 0 else f"${value:.4f}"


def _short(value: float) -> str:
    """Return three digits and a unit: 12.3k."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}"


#: In their order from left to right.
COLUMNS: Final = (
    Column("spans", 1, "spans", _count),
    Column("spans/s", 3, "spans_per_s", _count),
    Column("cost", 0, "cost_usd", _dollars),
    Column("$/hour", 6, "usd_per_hour", _dollars),
    Column("tokens/s", 7, "tokens_per_s", _short),
    Column("p50 ms", 8, "p50_ms", _count),
    Column("p95 ms", 4, "p95_ms", _count),
    Column("errors", 2, "error_ratio", lambda value: f"{value:.1%}"),
    Column("quality", 9, "quality", lambda value: f"{value:.3f}"),
)
#: Priorities of the columns that are not figures.
_PROVIDER: Final = 5
_TREND: Final = 10


def middle_ellipsis(text: str, width: int) -> str:
    """Return text in at most so many columns: its beginning and its end, which tell names apart."""
    if cell_len(text) <= width:
        return text
    end = max(width - 1, 0) // 2
    return f"{_beginning(text, width - 1 - end)}…{_beginning(text[::-1], end)[::-1]}"


def _beginning(text: str, width: int) -> str:
    """Return as much of the text as so many columns hold; some characters take two."""
    used = 0
    for position, character in enumerate(text):
        used += cell_len(character)
        if used > width:
            return text[:position]
    return text


def trend(values: Iterable[float]) -> str:
    """Return a sparkline; the highest bar is the largest value."""
    numbers = list(values)
    largest = max(numbers, default=0.0)
    return "".join(
        BARS[min(int(value / largest * len(BARS)), len(BARS) - 1)] if largest else BARS[0] for value in numbers
    )


def render(
    scrapes: Sequence[ReplicaScrape],
    earlier: Sequence[ReplicaScrape] = (),
    title: str = "tokentrace",
    width: int = 200,
    height: int | None = None,
    view: View | None = None,
) -> RenderableType:
    """Render the view. earlier: the scrapes from which rates are computed. height: lines of an interactive terminal."""
    view = view or View()
    totals = Totals(scrapes)
    rates = Rates(scrapes, earlier)
    rows = rows_of(totals, rates, view.by)
    below = _below(totals, scrapes, height, width)
    if height is not None:
        below.append(Text(HELP, style="dim", no_wrap=True, overflow="ellipsis"))
    return Group(*table_lines(rows, figures_of(totals, rates, {}), view, title, width, height, below))


def table_lines(
    rows: Mapping[tuple[str, ...], Figures],
    total: Figures,
    view: View,
    title: str,
    width: int,
    height: int | None,
    below: Sequence[Text],
) -> list[Text]:
    """Return the lines of the view. below: those that follow the sums and always stay."""
    ordered = sorted_rows(rows, view)
    most = MAX_ROWS if height is None else max(height - len(below) - 5, 1)
    view.first = min(view.first, max(len(ordered) - most, 0))
    shown = ordered[view.first : view.first + most]
    provider = view.by == "model"
    cells = {column: [_cell(column, figures) for _, figures in [*shown, ((), total)]] for column in COLUMNS}
    names = [printable(name[0]) or '""' for name, _ in shown]
    kept, name_width = _fit(cells, names, view, provider, width)
    lines = [Text(title, style="bold", no_wrap=True, overflow="ellipsis")]
    header = [_left(view.by, name_width)] + ([_left("provider", 12)] if _PROVIDER in kept else [])
    header += [column.title.rjust(_width(column, cells)) for column in COLUMNS if column.priority in kept]
    lines.append(Text((" " * GAP).join([*header, *(["trend"] if _TREND in kept else [])]), style="bold", no_wrap=True))
    for place, (name, _) in enumerate([*shown, ((), total)]):
        last = place == len(shown)
        parts = [_left("all" if last else middle_ellipsis(names[place], name_width), name_width)]
        if _PROVIDER in kept:
            parts.append(_left("" if last else middle_ellipsis(printable(name[1]), 12), 12))
        parts += [cells[column][place].rjust(_width(column, cells)) for column in COLUMNS if column.priority in kept]
        parts += [trend(view.trends.get(name, ()))] if _TREND in kept and not last else []
        if last:
            more = len(ordered) - len(shown)
            where = (
                f"... {more} more"
                if height is None
                else f"rows {view.first + 1}-{view.first + len(shown)} of {len(ordered)}"
            )
            lines += [Text(where, style="dim")] if more else []
        lines.append(Text((" " * GAP).join(parts).rstrip(), style="bold" if last else "", no_wrap=True))
    return [*lines, *below]


def _cell(column: Column, figures: Figures) -> str:
    value = getattr(figures, column.key)
    return "-" if value is None else column.text(value)


def _width(column: Column, cells: Mapping[Column, Sequence[str]]) -> int:
    return max(len(column.title), *(len(cell) for cell in cells[column]))


def _fit(
    cells: Mapping[Column, Sequence[str]], names: Sequence[str], view: View, provider: bool, width: int
) -> tuple[set[int], int]:
    """Return (the priorities of the columns that fit, the width of the names)."""
    widths = {column.priority: _width(column, cells) for column in COLUMNS}
    widths |= {_PROVIDER: 12} if provider else {}
    widths |= {_TREND: TREND_LENGTH} if view.trends else {}
    wanted = min(max([len(view.by), 3, *map(cell_len, names)]), MAX_NAME)
    least = min(wanted, MIN_NAME)
    kept: set[int] = set()
    used = 0
    for priority in sorted(widths):
        if used + widths[priority] + GAP + least > width:
            break
        kept.add(priority)
        used += widths[priority] + GAP
    return kept, min(wanted, max(width - used, 1))


def _left(text: str, width: int) -> str:
    shown = middle_ellipsis(text, width)
    return shown + " " * (width - cell_len(shown))


def _below(totals: Totals, scrapes: Sequence[ReplicaScrape], height: int | None, width: int) -> list[Text]:
    """Return the lines below the sums: replicas, lag, what was not counted as it should be, and problems."""
    problems = [f"{replica.url}: {printable(replica.problem)}" for replica in scrapes if replica.problem]
    if height is not None and len(problems) > MAX_PROBLEMS:
        problems = [
            *problems[: MAX_PROBLEMS - 1],
            f"... {len(problems) - MAX_PROBLEMS + 1} more replicas do not answer",
        ]
    answered = sum(not replica.problem for replica in scrapes if not replica.is_sum)
    lags_s = _lag_seconds(totals, scrapes)

    def figure(name: str, value: float) -> str:
        return "-" if name in totals.absent else f"{value:,.0f}"

    parts = [
        f"{figure('replicas', answered)} replica{'s' * (answered != 1)}",
        f"{figure('lag_records', totals.total(LAG_RECORDS))} records behind"
        + ("" if lags_s is None else f" ({lags_s:.1f} s)"),
        f"{figure('rejected', totals.total(REJECTED))} rejected",
        f"{totals.total('tokentrace_span_pricing_total', source='unpriced'):,.0f} unpriced",
        f"{totals.total('tokentrace_groups'):,.0f} groups",
    ]
    lines = _wrapped(parts, width)
    reasons: dict[str, list[str]] = {}
    for name, reason in totals.absent.items():
        reasons.setdefault(reason, []).append(ABSENT[name])
    absent = [f"not shown: {', '.join(names)} ({printable(reason)})" for reason, names in reasons.items()]
    style = {"style": "red", **({"no_wrap": True, "overflow": "ellipsis"} if height is not None else {})}
    return [
        *(Text(line, style="bold") for line in lines),
        *(Text(line, **{**style, "style": "dim"}) for line in absent),  # type: ignore[arg-type]
        *(Text(problem, **style) for problem in problems),  # type: ignore[arg-type]
    ]


def _lag_seconds(totals: Totals, scrapes: Sequence[ReplicaScrape]) -> float | None:
    """Return the lag of the replica that is the furthest behind, None where the source does not tell it."""
    if "lag_seconds" in totals.absent:
        return None
    lags_s = (value for replica in scrapes for (name, _), value in replica.samples.items() if name == LAG_SECONDS)
    return max(lags_s, default=0.0)


def _wrapped(parts: Sequence[str], width: int) -> list[str]:
    """Return the parts in lines of at most `width`, none of them cut."""
    lines = [""]
    for part in parts:
        joined = f"{lines[-1]} · {part}" if lines[-1] else part
        if len(joined) > width and lines[-1]:
            lines.append(part)
        else:
            lines[-1] = joined
    return lines


def as_json(scrapes: Sequence[ReplicaScrape], earlier: Sequence[ReplicaScrape], view: View) -> dict[str, Any]:
    """Return everything that the view shows, of all rows. What the source does not have is null, and in `absent`."""
    totals, rates = Totals(scrapes), Rates(scrapes, earlier)
    labels = ("model", "provider") if view.by == "model" else (view.by,)
    ordered = sorted_rows(rows_of(totals, rates, view.by), view)
    return {
        "rows": [{**dict(zip(labels, name, strict=True)), **figures._asdict()} for name, figures in ordered],
        "total": figures_of(totals, rates, {})._asdict(),
        "replicas": [
            {"url": replica.url, "problem": replica.problem or None} for replica in scrapes if not replica.is_sum
        ],
        "problems": [f"{source.url}: {source.problem}" for source in scrapes if source.is_sum and source.problem],
        "lag_records": None if "lag_records" in totals.absent else totals.total(LAG_RECORDS),
        "lag_seconds": _lag_seconds(totals, scrapes),
        "rejected": None if "rejected" in totals.absent else totals.total(REJECTED),
        "unpriced": totals.total("tokentrace_span_pricing_total", source="unpriced"),
        "absent": totals.absent,
    }
