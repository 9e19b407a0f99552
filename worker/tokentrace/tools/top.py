"""Top: what one or more replicas expose, summed and drawn for a terminal, with rates between two looks.

It reads the same endpoint as Prometheus does, so that what it shows is what a dashboard would.
"""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from prometheus_client.parser import text_string_to_metric_families
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tokentrace.errors import FatalError
from tokentrace.model.quantiles import quantile

PATH: Final = "/metrics/prometheus"
TIMEOUT_S: Final = 5.0
_LAG_SECONDS: Final = "tokentrace_worker_lag_seconds"

Labels = tuple[tuple[str, str], ...]
Samples = Mapping[tuple[str, Labels], float]


@dataclass(frozen=True, slots=True)
class Scrape:
    """One replica at one moment: its samples, or why there are none."""

    url: str
    at_s: float
    samples: Samples = field(default_factory=dict)
    problem: str = ""


def endpoint(url: str) -> str:
    """A full address from what a user types: `host:port`, with or without scheme and path."""
    url = url if "://" in url else f"http://{url}"
    return url if "/" in url.split("://", 1)[1] else url + PATH


def scrape(url: str, token: str | None = None) -> Scrape:
    """Read one replica. Never raises for a replica that does not answer: one of many may be down."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            text = response.read().decode()
    except urllib.error.HTTPError as error:
        hint = "; give the token with --token or TOKENTRACE_AUTH_TOKEN" if error.code == 401 else ""
        return Scrape(url, time.time(), problem=f"HTTP {error.code}{hint}")
    except (OSError, ValueError) as error:
        return Scrape(url, time.time(), problem=str(getattr(error, "reason", error)))
    try:
        samples = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
    except ValueError:
        return Scrape(url, time.time(), problem="its answer is no Prometheus text")
    return Scrape(url, time.time(), samples)


def check(scrapes: Sequence[Scrape]) -> None:
    """Raises FatalError when no replica answered."""
    if all(each.problem for each in scrapes):
        raise FatalError("No replica answers: " + "; ".join(f"{each.url}: {each.problem}" for each in scrapes))


class Totals:
    """Samples summed over replicas, with sums over labels that are not asked for."""

    def __init__(self, scrapes: Iterable[Scrape]) -> None:
        self._by_name: dict[str, dict[Labels, float]] = defaultdict(lambda: defaultdict(float))
        self._sums: dict[tuple[str, tuple[str, ...]], dict[tuple[str, ...], float]] = {}
        for each in scrapes:
            for (name, labels), value in each.samples.items():
                self._by_name[name][labels] += value

    def by(self, name: str, *labels: str) -> Mapping[tuple[str, ...], float]:
        """Values of these labels -> the sum of a sample over all series that carry them."""
        sums = self._sums.get((name, labels))
        if sums is None:
            sums = self._sums[name, labels] = defaultdict(float)
            for own, value in self._by_name[name].items():
                series = dict(own)
                sums[tuple(series.get(label, "") for label in labels)] += value
        return sums

    def total(self, name: str, **labels: str) -> float:
        """The sum of a sample over all series that carry these labels."""
        return self.by(name, *labels).get(tuple(labels.values()), 0.0)

    def quantile(self, q: float, name: str, **labels: str) -> float | None:
        """Return a quantile of a histogram over all replicas, None without observations."""
        values = tuple(labels.values())
        bounds = self._bounds(name)
        counts = [self.by(f"{name}_bucket", *labels, "le").get((*values, text), 0.0) for _, text in bounds]
        if not counts or not counts[-1]:
            return None
        buckets = np.diff([counts], prepend=0.0)
        return float(quantile(q, buckets, [bound for bound, _ in bounds[:-1]])[0])

    def _bounds(self, name: str) -> list[tuple[float, str]]:
        return sorted((float(text), text) for (text,) in self.by(f"{name}_bucket", "le"))


class _Rate(Protocol):
    def __call__(self, name: str, **labels: str) -> float: ...


#: Columns of figures, and whether they are shown on a narrow terminal too.
_COLUMNS: Final = {
    "spans": True, "spans/s": True, "cost": True, "$/hour": False, "tokens/s": False,
    "p50 ms": False, "p95 ms": True, "errors": True, "quality": False,
}  # fmt: skip
_WIDE: Final = 116

#: Models that are drawn; the line of sums holds all of them.
_MAX_ROWS: Final = 30


def draw(
    scrapes: Sequence[Scrape], earlier: Sequence[Scrape] = (), title: str = "tokentrace", width: int = 200
) -> RenderableType:
    """The view. earlier: the scrapes that rates are counted from. width: columns of the terminal."""
    now, before = Totals(scrapes), Totals(earlier)
    seconds = max(scrapes[0].at_s - earlier[0].at_s, 1e-9) if earlier else 0.0

    def rate(name: str, **labels: str) -> float:
        return max(now.total(name, **labels) - before.total(name, **labels), 0.0) / seconds if seconds else 0.0

    wide = width >= _WIDE
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, title=title, title_justify="left", title_style="bold")
    table.add_column("model", no_wrap=True, overflow="ellipsis")
    if wide:
        table.add_column("provider", style="dim", no_wrap=True)
    for name, in_narrow in _COLUMNS.items():
        if wide or in_narrow:
            table.add_column(name, justify="right", no_wrap=True)

    def row(name: str, maker: str, style: str | None, **labels: str) -> None:
        figures = zip(_COLUMNS.values(), _figures(now, rate, labels), strict=True)
        shown = [figure for in_narrow, figure in figures if wide or in_narrow]
        table.add_row(name, *([maker] if wide else []), *shown, style=style)

    costs = now.by("tokentrace_cost_total", "model", "provider")
    models = sorted(now.by("tokentrace_spans_total", "model", "provider"), key=lambda each: -costs.get(each, 0.0))
    for model, provider in models[:_MAX_ROWS]:
        row(model, provider, None, model=model, provider=provider)
    if len(models) > _MAX_ROWS:
        table.add_row(f"... {len(models) - _MAX_ROWS} more", style="dim")
    table.add_section()
    row("all", "", "bold")

    failed = [Text(f"{each.url}: {each.problem}", style="red") for each in scrapes if each.problem]
    answered = len(scrapes) - len(failed)
    lags_s = (scrape.samples[key] for scrape in scrapes for key in scrape.samples if key[0] == _LAG_SECONDS)
    line = Text.assemble(
        (f"  {answered} replica{'s' * (answered != 1)}", "bold"),
        f" · {now.total('tokentrace_worker_lag_records'):,.0f} records behind ({max(lags_s, default=0.0):.1f} s)",
        f" · {now.total('tokentrace_spans_rejected_total'):,.0f} rejected",
        f" · {now.total('tokentrace_span_pricing_total', source='unpriced'):,.0f} unpriced",
        f" · {now.total('tokentrace_groups'):,.0f} groups",
    )
    return Group(table, line, *failed)


def _figures(now: Totals, rate: _Rate, labels: dict[str, str]) -> list[str]:
    spans = now.total("tokentrace_spans_total", **labels)
    failed = spans - now.total("tokentrace_spans_total", status="ok", **labels)
    scored = now.total("tokentrace_eval_score_count", **labels)
    score = now.total("tokentrace_eval_score_sum", **labels)
    return [
        f"{spans:,.0f}",
        f"{rate('tokentrace_spans_total', **labels):,.0f}",
        _dollars(now.total("tokentrace_cost_total", **labels)),
        _dollars(rate("tokentrace_cost_total", **labels) * 3600),
        _short(rate("tokentrace_tokens_total", **labels)),
        _milliseconds(now.quantile(0.5, "tokentrace_latency_ms", **labels)),
        _milliseconds(now.quantile(0.95, "tokentrace_latency_ms", **labels)),
        f"{failed / spans:.1%}" if spans else "-",
        f"{score / scored:.3f}" if scored else "-",
    ]


def _dollars(value: float) -> str:
    return f"${value:,.2f}" if value >= 1 or value == 0 else f"${value:.4f}"


def _short(value: float) -> str:
    """Three digits and a unit: 12.3k."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}"


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def line(scrape: Scrape) -> str:
    """One replica in one line, for output that is no terminal."""
    now = Totals([scrape])
    return (
        f"{now.total('tokentrace_spans_total'):>12,.0f} spans  ${now.total('tokentrace_cost_total'):,.4f}  "
        f"{now.total('tokentrace_tokens_total'):,.0f} tokens  "
        f"{now.total('tokentrace_worker_lag_records'):,.0f} records behind"
    )
