"""A drained worker waits until every Prometheus that scrapes it has the final totals."""

from __future__ import annotations

import logging
import threading

import pytest

from tests.harness import Harness
from tests.spanfactory import message, span
from tokentrace.exposition import ClientAddress, Renderer
from tokentrace.model.snapshot import Snapshot
from tokentrace.runtime.last_scrape import LastScrape

FIRST: ClientAddress = ("10.0.0.1", 40_000)
SECOND: ClientAddress = ("10.0.0.2", 40_000)


class Replica:
    """A renderer with what it serves, and scrapers that receive it completely."""

    def __init__(self, zero_first: bool = False) -> None:
        self._rig = Harness()
        self.renderer = Renderer({}, zero_first)
        self.last_scrape = LastScrape(self.renderer)
        self.count()

    def count(self) -> None:
        self._rig.count([message(span())])
        self._rig.commit()

    @property
    def final(self) -> Snapshot:
        return self._rig.state.snapshot

    def scraped_by(self, *scrapers: ClientAddress) -> None:
        for scraper in scrapers:
            scrape = self.renderer.scrape(lambda: self.final, "text", by_prometheus=True)
            self.last_scrape.on_scraped(scrape, scraper, {FIRST, SECOND})


@pytest.mark.parametrize(
    ("zero_first", "earlier", "final", "complete"),
    [
        (False, [], [], False),
        (False, [FIRST], [], False),
        (False, [], [FIRST], True),
        (True, [FIRST, SECOND] * 2, [FIRST], False),
        (True, [FIRST, SECOND] * 2, [FIRST, SECOND], True),
    ],
    ids=["no scrape", "earlier totals", "final totals", "one of two servers", "both servers"],
)
def test_last_scrape_is_complete_when_every_server_has_the_final_totals(
    zero_first: bool,
    earlier: list[ClientAddress],
    final: list[ClientAddress],
    complete: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    replica = Replica(zero_first)
    replica.scraped_by(*earlier)
    replica.count()
    replica.scraped_by(*final)
    with caplog.at_level(logging.INFO):
        replica.last_scrape.wait(lambda: replica.final, 0.0)
    assert ("The final values have been scraped." in caplog.text) is complete
    assert ("were not scraped within worker.drain_timeout" in caplog.text) is not complete


def test_last_scrape_ends_the_wait_when_it_comes() -> None:
    replica = Replica()
    waiting = threading.Thread(target=replica.last_scrape.wait, args=(lambda: replica.final, 30.0))
    waiting.start()
    replica.scraped_by(FIRST)
    waiting.join(10.0)
    assert not waiting.is_alive()


def test_last_scrape_is_not_waited_for_after_it_is_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    replica = Replica()
    replica.last_scrape.cancel()
    with caplog.at_level(logging.INFO):
        replica.last_scrape.wait(lambda: replica.final, 600.0)
    assert "Not waiting any longer." in caplog.text


def test_last_scrape_lets_new_series_be_shown_while_it_waits(caplog: pytest.LogCaptureFixture) -> None:
    replica = Replica(zero_first=True)
    calls = []

    def show() -> bool:
        calls.append(len(calls))
        replica.scraped_by(FIRST)
        return len(calls) < 2

    with caplog.at_level(logging.INFO):
        replica.last_scrape.wait(lambda: replica.final, 30.0, show)
    assert calls == [0, 1], "a first scrape that shows 0, and one that is complete"
    assert "The final values have been scraped." in caplog.text
