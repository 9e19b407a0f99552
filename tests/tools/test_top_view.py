"""The view of `top` in a terminal's width and height: no figure is cut, and what matters stays."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner
from rich.console import Console

from tests.services import free_port
from tests.tools.test_top import Serve, exposition, serve
from tokentrace.cli import app
from tokentrace.cli.keys import split_keys
from tokentrace.tools.top import ReplicaScrape
from tokentrace.tools.top_choices import View
from tokentrace.tools.top_view import HELP, middle_ellipsis, render, trend

__all__ = ["serve"]

LARGE = 987_654_321_012.0
MODELS = [f"a-provider-s-very-long-name-of-a-model-2026-11-{number:02}" for number in range(1, 41)]


def scrape(at_s: float, scale: float, problem: str = "") -> ReplicaScrape:
    """Return a replica with many models and large figures."""
    samples: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for number, model in enumerate(MODELS):
        labels = (("model", model), ("provider", "a-provider-with-a-long-name"))
        samples["tokentrace_spans_total", (*labels, ("status", "ok"))] = LARGE * scale + number
        samples["tokentrace_spans_total", (*labels, ("status", "error"))] = LARGE * scale / 7
        samples["tokentrace_cost_total", (("caller", "search"), *labels)] = 12_345_678.91 * scale + number
        samples["tokentrace_tokens_total", (("caller", "search"), *labels, ("token_type", "prompt"))] = LARGE * scale
        for bound, count in (("100", 1.0), ("30000", 9.0), ("+Inf", 9.0)):
            samples["tokentrace_latency_ms_bucket", (("le", bound), *labels)] = count * scale
    return ReplicaScrape("http://replica:9090/metrics/prometheus", at_s, {} if problem else samples, problem)


def lines_of(width: int, height: int | None, view: View | None = None, *more: ReplicaScrape) -> list[str]:
    console = Console(width=width, height=height or 100, color_system=None)
    with console.capture() as capture:
        latest = [scrape(2.0, 2.0), *more]
        console.print(render(latest, [scrape(0.0, 1.0)], "tokentrace", width, height, view))
    return capture.get().rstrip("\n").split("\n")


def whole_figures() -> set[str]:
    """Return every figure of the widest view."""
    return set(" ".join(lines_of(400, None)).split())


@pytest.mark.parametrize("height", [None, 24])
@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_a_figure_is_never_cut(width: int, height: int | None) -> None:
    whole = whole_figures()
    lines = lines_of(width, height)
    assert max(map(len, lines)) <= width
    (total,) = (line for line in lines if line.startswith("all "))
    assert len(total.split()) >= 3
    assert set(total.split()) <= whole
    for line in lines[2:10]:
        name, *figures = line.split()
        assert "…" in name or name in MODELS
        # The provider's name may give way too.
        assert {figure for figure in figures if "…" not in figure} <= whole


def test_columns_go_by_priority() -> None:
    titles = {width: re.split(r" {2,}", lines_of(width, None)[1].strip()) for width in (60, 80, 100, 120, 200)}
    assert [len(names) for names in titles.values()] == sorted(len(names) for names in titles.values())
    for width, names in titles.items():
        assert {"cost", "spans"} <= set(names), width
    assert set(titles[200]) >= {"provider", "spans/s", "$/hour", "tokens/s", "p50 ms", "p95 ms", "errors", "quality"}


def test_a_low_terminal_keeps_the_header_the_sums_and_the_problems_and_scrolls() -> None:
    down = ReplicaScrape("http://other:9090/", 2.0, {}, "connection refused")
    view = View(sort="name")
    for _ in range(3):
        lines = lines_of(100, 24, view, down)
        assert len(lines) <= 24
        assert lines[1].startswith("model")
        assert any(line.startswith("all ") for line in lines)
        assert lines[-2] == "http://other:9090/: connection refused"
        assert lines[-1] == HELP
        shown = [line.split()[0][-2:] for line in lines if line.startswith("a-provider")]
        assert len(shown) >= 13
        assert shown == [f"{view.first + place:02}" for place in range(1, len(shown) + 1)]
        assert f"rows {view.first + 1}-{view.first + len(shown)} of 40" in lines
        view.press("page down", ["model"], page=len(shown))
    view.press("down", ["model"])
    lines_of(100, 24, view, down)
    assert view.first == 40 - len(shown), "the last page is full"


def test_many_problems_are_counted() -> None:
    down = [ReplicaScrape(f"http://r{number}/", 2.0, {}, "refused") for number in range(9)]
    lines = lines_of(80, 24, None, *down)
    assert lines[-2] == "... 7 more replicas do not answer"
    assert len(lines) <= 24


def test_keys_change_the_rows_their_order_and_the_filter() -> None:
    view = View()
    view.press("b", ["model", "provider", "caller"])
    assert view.by == "provider"
    rows = [line for line in lines_of(120, None, view) if line.startswith("a-")]
    assert len(rows) == 1
    view.press("b", ["model", "provider", "caller"])
    (row,) = (line for line in lines_of(120, None, view) if line.startswith("search"))
    assert "$987,65" in row
    assert " - " in row, "spans have no caller"
    view.press("b", ["model", "provider", "caller"])
    for key in "/-07x":
        view.press(key, [])
    view.press("backspace", [])
    view.press("enter", [])
    assert (view.by, view.filter, view.entering) == ("model", "-07", False)
    assert sum(line.startswith("a-") for line in lines_of(120, None, view)) == 1
    view.press("s", [])
    view.press("r", [])
    view.press(" ", [])
    assert (view.sort, view.reverse, view.paused) == ("spans", True, True)
    view.press("q", [])
    assert view.done


def test_split_keys_names_what_is_not_a_letter() -> None:
    assert split_keys("b\x1b[A\x1b[6~/x\x7f\r\x1b") == [
        "b", "up", "page down", "/", "x", "backspace", "enter", "escape",
    ]  # fmt: skip


def test_names_give_way_in_their_middle() -> None:
    assert middle_ellipsis("gpt-4o-mini-2024-07-18", 11) == "gpt-4…07-18"
    assert middle_ellipsis("short", 5) == "short"
    assert middle_ellipsis("通义千问-大模型", 8) == "通义…型", "characters of two columns"


def test_a_trend_has_its_highest_bar_at_the_largest_rate() -> None:
    assert trend([0, 50, 100]) == "▁▅█"
    assert trend([0.0, 0.0]) == "▁▁"
    assert trend([]) == ""


def test_top_once_prints_json(serve: Serve) -> None:
    replica = serve(exposition("gpt", "gpt", cost_usd=0.25, caller="search"))
    arguments = ["top", replica.address, "--once", "--interval", "1ms", "--json"]
    document = json.loads(CliRunner().invoke(app, arguments).stdout)
    (row,) = document["rows"]
    assert (row["model"], row["provider"], row["spans"], row["cost_usd"]) == ("gpt", "lab", 2.0, 0.5)
    assert document["total"]["spans"] == 2.0
    assert document["replicas"] == [{"url": replica.url, "problem": None}]
    by_caller = json.loads(CliRunner().invoke(app, [*arguments, "--by", "caller"]).stdout)
    assert [(row["caller"], row["cost_usd"], row["spans"]) for row in by_caller["rows"]] == [("search", 0.5, None)]
    refused = CliRunner().invoke(app, [*arguments, "--by", "team"])
    assert "No metric has the label 'team'" in str(refused.exception)


def test_top_goes_on_while_no_replica_answers_and_ends_with_q() -> None:
    """On a pseudo-terminal, as a user has it."""
    terminal, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "tokentrace", "top", f"127.0.0.1:{free_port()}", "--interval", "100ms"],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    try:
        deadline_s = time.monotonic() + 40
        while b"refused" not in shown:
            assert time.monotonic() < deadline_s, shown.decode(errors="replace")
            if select.select([terminal], [], [], 0.2)[0]:
                shown += os.read(terminal, 65536)
        time.sleep(0.5)
        assert process.poll() is None, "a scrape that fails does not end it"
        os.write(terminal, b"q")
        # The terminal ends with its last writer.
        with contextlib.suppress(OSError):
            while time.monotonic() < deadline_s and os.read(terminal, 65536):
                pass
        assert process.wait(10) == 0
    finally:
        process.kill()
        os.close(terminal)
