"""The live page of a real worker, in a real Chromium: exact figures, access, silence, restarts, accessibility."""

from __future__ import annotations

import io
import math
import os
import random
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from playwright.sync_api import Browser, BrowserContext, Page
from rich.console import Console
from rich.terminal_theme import SVG_EXPORT_THEME

from tests.conftest import unavailable
from tests.oracle import cost_of
from tests.services import ROOT, Unavailable
from tests.services.browser import findings, running, save_screenshot
from tests.services.kafka import KafkaBroker
from tests.services.workers import WorkerProcess, wait_for, write_config
from tests.spanfactory import message, random_span
from tokentrace.tools import top, top_rows, top_view
from tokentrace.tools.top_choices import TREND_LENGTH, View

TOKEN, ADMIN = "reads-only", "silences-too"
HOSTILE = "<img src=x onerror=\"document.title='hacked'\"></script><script>document.title='hacked'</script>"
MODELS = {
    "gpt-4o": "openai",
    "gpt-4o-mini": "openai",
    "claude-sonnet-4-20250514": "anthropic",
    "gemini-2.5-pro": "google",
}
TEAMS = ("checkout", "search", "support")
BAD_MESSAGES = 7
#: Written by `TOKENTRACE_SCREENSHOTS=1 pytest tests/integration/test_live_page.py`.
PICTURES = ROOT / "docs"


def traffic(count: int, now_s: float) -> list[dict[str, Any]]:
    """Spans of the last forty minutes, as of a working day's traffic."""
    rng = random.Random(3)
    spans = []
    for number in range(count):
        model = rng.choices(list(MODELS), [5, 8, 3, 2])[0]
        latency_ms = rng.lognormvariate(6.4 + 0.4 * (model == "gemini-2.5-pro"), 0.6)
        ended_us = int((now_s - rng.random() ** 1.2 * 2400) * 1e6)
        prompt, completion = int(rng.lognormvariate(7, 0.8)), int(rng.lognormvariate(5.5, 0.7))
        spans.append(
            random_span(rng)
            | {
                "model": model,
                "provider": MODELS[model],
                "caller": rng.choice(["web", "batch", "agent"]),
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": None,
                "cached_prompt_tokens": prompt // 3 if number % 4 == 0 else None,
                "reasoning_tokens": None,
                "cost_usd": None,
                "latency_ms": latency_ms,
                "ttft_ms": latency_ms / 5,
                "status": rng.choices(["ok", "error", "timeout"], [96, 3, 1])[0],
                "started_at": ended_us - int(latency_ms * 1000),
                "ended_at": ended_us,
                "attributes": {"team": rng.choice(TEAMS), "eval.score": round(rng.betavariate(8, 2), 3)},
            }
        )
    return spans


class Rig:
    """A worker with alerts, tokens and a dimension, traffic that it has counted, and a browser."""

    def __init__(self, kafka: KafkaBroker, folder: Path, browser: Browser) -> None:
        self.browser = browser
        self.ledger = folder / "ledger.db"
        topic = kafka.create_topic("spans-live-page", 4)
        sections: dict[str, Any] = {
            "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": "live-page"},
            "dimensions": {"team": {"source": "attributes.team"}},
            "alerts": [{"name": "spend", "metric": "total_cost", "op": "gt", "threshold": 0, "window": "5m"}],
            "budgets": [{"name": "month", "amount": 100, "period": "month"}],
            "ledger": {"url": f"sqlite:///{self.ledger}", "in_worker": True},
            "http_server": {"auth_token": TOKEN, "admin_token": ADMIN},
        }
        config = write_config(folder / "worker.yml", sections, "replica-0")
        self.worker = WorkerProcess(config, folder / "worker.log")
        self.url = f"http://{self.worker.target}"
        self._producer = Producer({"bootstrap.servers": kafka.bootstrap, "linger.ms": 5})
        self._topic = topic
        self.spans: list[dict[str, Any]] = []
        self.requested: set[str] = set()
        self.errors: list[str] = []

    def publish(self, spans: list[dict[str, Any]], bad: int = 0) -> None:
        """Publish spans, and messages that are none, and wait until they are counted."""
        for value in [*map(message, spans), *[b"not a span"] * bad]:
            self._producer.produce(self._topic, value)
        self._producer.flush(30)
        self.spans += spans
        assert wait_for(lambda: self.counted()[0] == len(self.spans)), self.worker.log()[-2000:]

    def counted(self) -> tuple[int, int]:
        """Spans and nano-USD of a scrape."""
        spans = cost = Decimal(0)
        for (name, _), value in self.worker.samples(Authorization=f"Bearer {TOKEN}").items():
            spans += value.exact if name == "tokentrace_spans_total" else 0  # type: ignore[attr-defined]
            cost += value.exact if name == "tokentrace_cost_total" else 0  # type: ignore[attr-defined]
        return int(spans), int(cost * 10**9)

    def billed(self) -> int:
        """Spans that the ledger has."""
        with closing(sqlite3.connect(self.ledger)) as database, suppress(sqlite3.OperationalError):
            return database.execute("SELECT sum(spans) FROM ledger_hours").fetchone()[0] or 0
        return 0

    def open(self, token: str = TOKEN, width: int = 1280, scheme: str = "light", path: str = "ui") -> Page:
        """A page of a browser's session of its own, logged in."""
        context: BrowserContext = self.browser.new_context(
            viewport={"width": width, "height": 1150 if width > 400 else 800},
            color_scheme=scheme,  # type: ignore[arg-type]
        )
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("request", lambda request: self.requested.add(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda line: self.errors.append(line.text) if "Content Security" in line.text else None)
        page.goto(f"{self.url}/{path}")
        page.get_by_label("Value of http_server.auth_token").fill(token)
        page.get_by_role("button", name="Show the figures").click()
        return page


@pytest.fixture(scope="module")
def rig(_kafka_or_reason: KafkaBroker | str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One worker for the module."""
    if isinstance(_kafka_or_reason, str):
        unavailable(_kafka_or_reason)
    try:
        with running() as browser:
            made = Rig(_kafka_or_reason, tmp_path_factory.mktemp("live-page"), browser)
            try:
                made.worker.wait_until_ready()
                made.publish(traffic(3000, time.time()), BAD_MESSAGES)
                # The page asks for the bill twice a minute only.
                assert wait_for(lambda: made.billed() == len(made.spans)), made.worker.log()[-2000:]
                yield made
            finally:
                made.worker.end()
    except Unavailable as error:
        unavailable(str(error))


def picture_folder(otherwise: Path) -> Path:
    """The folder that screenshots go to."""
    return PICTURES if os.environ.get("TOKENTRACE_SCREENSHOTS") == "1" else otherwise


def shown(page: Page) -> tuple[int, int]:
    """Spans and nano-USD that the page shows."""
    spans = page.locator("[data-figure=spans]").inner_text().replace(",", "")
    cost = page.locator("[data-figure=exact-cost]").inner_text().replace(",", "").removeprefix("$")
    return int(spans), int(Decimal(cost) * 10**9)


def end_below(page: Page, last: str) -> None:
    """Give the window the height at which it ends below an element, so that a picture cuts nothing."""
    box = page.locator(last).bounding_box()
    assert box is not None
    width = page.evaluate("window.innerWidth")
    page.set_viewport_size({"width": width, "height": math.ceil(box["y"] + box["height"]) + 10})


def wait_until_shown(page: Page, spans: int) -> None:
    page.wait_for_function(
        "spans => document.querySelector('[data-figure=spans]')?.textContent.replaceAll(',', '') === String(spans)",
        arg=spans,
        timeout=40_000,
    )


def test_page_asks_for_the_token_and_keeps_it_out_of_the_address(rig: Rig) -> None:
    page = rig.open("wrong")
    page.get_by_text("The token is wrong.").wait_for()
    assert page.locator("#main").is_hidden()
    page.get_by_label("Value of http_server.auth_token").fill(TOKEN)
    page.keyboard.press("Enter")
    page.get_by_text("Live, from the rollups of all replicas.").wait_for()
    assert TOKEN not in page.url
    assert page.context.cookies() == []
    page.get_by_role("button", name="Log out").click()
    page.get_by_role("button", name="Show the figures").wait_for()
    page.context.close()


def test_figures_equal_the_scrape_and_the_recount(rig: Rig) -> None:
    page = rig.open()
    wait_until_shown(page, len(rig.spans))
    assert shown(page) == rig.counted() == (len(rig.spans), sum(cost_of(span)[0] for span in rig.spans))
    page.get_by_text("records of 4 partitions wait").wait_for()
    spent = page.get_by_role("region", name="Verdicts on budgets").get_by_role("cell").nth(2)
    assert spent.inner_text() == f"${Decimal(shown(page)[1]) / 10**9}"
    page.get_by_role("heading", name="This month").wait_for()
    # The last hour may be in two months.
    bill = [text.replace(",", "").removeprefix("$") for text in page.locator("[data-figure^=bill-]").all_inner_texts()]
    assert len(bill) == 2
    assert sum(int(Decimal(amount) * 10**9) for amount in bill) == shown(page)[1]
    page.get_by_text("unknown_framing").first.wait_for()
    assert page.get_by_role("region", name="Latest dead letters").locator("tbody tr").count() == BAD_MESSAGES
    page.get_by_role("region", name="Replicas", exact=True).get_by_text("replica-0 (this one)").wait_for()
    page.context.close()


def test_drill_down_selects_and_the_address_can_be_shared(rig: Rig) -> None:
    page = rig.open()
    wait_until_shown(page, len(rig.spans))
    page.get_by_role("button", name="gpt-4o-mini", exact=True).click()
    chosen = [span for span in rig.spans if span["model"] == "gpt-4o-mini"]
    wait_until_shown(page, len(chosen))
    page.get_by_label("By", exact=True).select_option("team")
    page.get_by_role("button", name="search", exact=True).press("Enter")
    chosen = [span for span in chosen if span["attributes"]["team"] == "search"]
    wait_until_shown(page, len(chosen))
    assert shown(page) == (len(chosen), sum(cost_of(span)[0] for span in chosen))
    page.reload()
    wait_until_shown(page, len(chosen))
    page.get_by_role("button", name="Remove the filter team=search").click()
    page.go_back()
    wait_until_shown(page, len(chosen))
    page.context.close()


def test_admin_token_alone_silences_an_alert(rig: Rig) -> None:
    page = rig.open()
    page.get_by_role("button", name="Silence spend").click()
    page.get_by_text("it requires the token of http_server.admin_token").wait_for()
    page.context.close()
    page = rig.open(ADMIN)
    page.get_by_label("Time to silence spend").select_option("8h")
    page.get_by_role("button", name="Silence spend").click()
    page.get_by_role("region", name="Alert rules").get_by_text("silenced until").wait_for()
    page.context.close()


@pytest.mark.parametrize(
    ("name", "width", "scheme", "last"),
    [
        ("ui", 1280, "light", "#rows"),
        ("ui-dark", 1280, "dark", "#rows"),
        ("ui-narrow", 360, "light", "#chart-spans"),
    ],
)
def test_axe_finds_nothing(rig: Rig, tmp_path: Path, name: str, width: int, scheme: str, last: str) -> None:
    page = rig.open(width=width, scheme=scheme)
    wait_until_shown(page, len(rig.spans))
    page.get_by_role("region", name="Alert rules").wait_for()
    page.get_by_role("region", name="Latest dead letters").wait_for()
    folder = picture_folder(tmp_path)
    end_below(page, last)
    save_screenshot(page, folder / f"{name}.png")
    assert (folder / f"{name}.png").stat().st_size > 10_000
    page.get_by_text("Figures over time as a table").click()
    page.get_by_role("region", name="Figures over time").wait_for()
    assert findings(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.goto(f"{rig.url}/")
    page.get_by_text("Ready: this replica counts.").wait_for()
    assert findings(page) == []
    page.context.close()


def test_top_shows_the_same_worker(rig: Rig, tmp_path: Path) -> None:
    urls = [top.metrics_url(rig.worker.target)]
    latest, view, rng = top.scrape_all(urls, TOKEN), View(), random.Random(5)
    for _ in range(TREND_LENGTH):
        earlier = latest
        rig.publish(traffic(rng.randint(20, 60), time.time()))
        latest = top.scrape_all(urls, TOKEN)
        view.note(top_rows.rows_of(top.Totals(latest), top.Rates(latest, earlier), view.by))
    width, height = 136, 12
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True)
    console.print(top_view.render(latest, earlier, "tokentrace · by model · sort cost", width, height, view))
    assert "gpt-4o-mini" in console.export_text(clear=False)
    page = rig.browser.new_page(viewport={"width": 1400, "height": 400})
    page.set_content(console.export_html(theme=SVG_EXPORT_THEME, inline_styles=True))
    page.add_style_tag(
        content="pre { background: #292929; border-radius: 8px; display: inline-block; padding: 14px 18px }"
    )
    save_screenshot(page.locator("pre"), picture_folder(tmp_path) / "top.png")
    page.close()


def test_hostile_labels_are_text(rig: Rig) -> None:
    rig.publish([traffic(1, time.time())[0] | {"model": HOSTILE, "provider": "", "cost_usd": 0.125}])
    page = rig.open()
    wait_until_shown(page, len(rig.spans))
    page.get_by_role("button", name=HOSTILE).click()
    wait_until_shown(page, 1)
    assert page.title() == "tokentrace: live"
    assert page.locator("main img, main script").count() == 0
    page.context.close()


def test_page_survives_a_restart_of_the_worker(rig: Rig) -> None:
    page = rig.open()
    wait_until_shown(page, len(rig.spans))
    rig.worker.kill()
    page.get_by_text("No answer from the replica").wait_for()
    rig.worker.restart()
    rig.worker.wait_until_ready()
    rig.publish(traffic(500, time.time()))
    wait_until_shown(page, len(rig.spans))
    assert shown(page) == rig.counted()
    page.context.close()


def test_browser_asked_nobody_else_and_met_no_error(rig: Rig) -> None:
    assert rig.requested
    assert {re.sub(r"^(https?://[^/]+).*", r"\1", url) for url in rig.requested} == {rig.url}
    assert not [url for url in rig.requested if TOKEN in url or ADMIN in url]
    assert rig.errors == []
