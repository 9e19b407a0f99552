"""The page over HTTP: its files, its document, the token, and what a browser may run."""

from __future__ import annotations

import gzip
import http.client
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.exposition.ui.helpers import Following, MemoryLog, at
from tests.harness import Harness
from tests.services.workers import wait_for
from tests.spanfactory import message, span
from tokentrace import __version__
from tokentrace.exposition import HealthReport, HttpServer, HttpSettings, Renderer, Token, Tokens
from tokentrace.exposition.ui.inquiry import Inquiry
from tokentrace.exposition.ui.page import FRESH_S, MOST_VIEWS, LivePage, PageFacts
from tokentrace.exposition.ui.static import static_files
from tokentrace.model.worker_stats import Moment, WorkerStats

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
FACTS = PageFacts("g", "spans", ("model", "provider", "caller"), False, False, "/metrics/prometheus", "/health")


#: Code that makes markup of text, or keeps something beyond the tab. Comments may speak of it.
MARKUP_OR_STORAGE = re.compile(
    r"^(?!\s*//).*(innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|localStorage|\.cookie)", re.MULTILINE
)


class Served:
    """A server with a page over a log in memory."""

    def __init__(self, tokens: Tokens | None = None, inquiries: dict[str, Inquiry] | None = None) -> None:
        self.following = Following(MemoryLog(), inquiries=inquiries)
        rig = Harness()
        rig.count([message(span()), b"nonsense"])
        snapshot = rig.commit()
        stats = WorkerStats(replica_id="r-0", guarantee="exactly_once", started_at_s=0.0, not_ready="")
        self.page = LivePage(
            facts=FACTS,
            feed=self.following.feed,
            moment=lambda: Moment(stats, snapshot, 0.0),
            clock=self.following.clock,
            monotonic=self.following.monotonic,
        )
        renderer = Renderer({})
        self.server = HttpServer(
            HttpSettings(host="127.0.0.1", port=0, tokens=tokens or Tokens()),
            render=lambda form, by_prometheus: renderer.scrape(lambda: snapshot, form, by_prometheus),
            health=lambda: HealthReport(live=True, ready=True),
            page=self.page,
        )
        self.server.start()

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10)
        try:
            connection.request("GET", path, headers={name.replace("_", "-"): text for name, text in headers.items()})
            response = connection.getresponse()
            return response.status, {name.lower(): text for name, text in response.getheaders()}, response.read()
        finally:
            connection.close()

    def data(self, query: str = "") -> Any:
        status, _, body = self.get(f"/ui/data?{query}")
        assert status == 200, body
        return json.loads(body)

    def stop(self) -> None:
        self.server.stop()
        self.following.end()


@pytest.fixture
def served() -> Iterator[Served]:
    running = Served()
    yield running
    running.stop()


def test_the_document_has_the_fleet_s_figures_and_the_replica_s_own(served: Served) -> None:
    served.following.log.write(span(**at(-1, cost_usd=0.25)), span(**at(-2, status="error", cost_usd=0.5)))
    served.data()
    assert served.following.wait_for(2)
    served.following.monotonic.now_s += FRESH_S + 20.0
    served.data()
    found = served.data("by=provider&window=15")
    assert (found["version"], found["group"], found["view"]["by"]) == (__version__, "g", "provider")
    assert (found["total"]["spans"], found["total"]["errors"], found["total"]["cost_nano_usd"]) == (2, 1, "750000000")
    assert [row["value"] for row in found["rows"]] == ["openai"]
    assert found["own"]["rejected"] == {"unknown_framing": 1}
    assert (found["own"]["polled"], found["own"]["counted"]) == (2, 1)
    assert [replica["replica"] for replica in found["feed"]["replicas"]] == ["r"]


def test_the_bill_has_the_rows_of_the_label_that_the_page_shows(served: Served) -> None:
    assert "bill" not in served.data()
    month = {"month": "2026-11", "cost_nano_usd": "9007199254740993", "rows": {"model": ["m"], "caller": ["c"]}}
    billed = Served(inquiries={"bill": Inquiry(lambda: {"until_s": 1.0, "months": [month]}, 30.0)})
    try:
        billed.data()
        assert wait_for(lambda: billed.following.feed.answers["bill"]["answer"] is not None, 5.0)
        for label in ("model", "caller"):
            billed.following.monotonic.now_s += FRESH_S + 20.0
            shown = billed.data(f"by={label}")["bill"]["answer"]
            assert shown == {"until_s": 1.0, "months": [{**month, "rows": [label[0]]}]}
    finally:
        billed.stop()


def test_pages_with_the_same_view_share_a_document(served: Served) -> None:
    first = served.page.document([])
    assert served.page.document([("by", "model")]) is first
    served.following.monotonic.now_s += FRESH_S + 20.0
    assert served.page.document([]) is not first


def test_few_documents_are_kept(served: Served) -> None:
    first = served.page.document([])
    for number in range(MOST_VIEWS):
        served.page.document([("where.model", str(number))])
    assert served.page.document([]) is not first


def test_new_views_take_a_bounded_time_from_the_counting(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokentrace.exposition.ui.page.SHARE", 1e-6)
    assert [served.get(f"/ui/data?where.model={model}")[0] for model in "aba"] == [200, 503, 200]
    _, headers, body = served.get("/ui/data?by=caller")
    assert (headers["retry-after"], "different views" in json.loads(body)["error"]) == ("5", True)


def test_a_document_that_has_not_changed_is_not_sent_again(served: Served) -> None:
    _, headers, body = served.get("/ui/data", Accept_Encoding="gzip")
    assert headers["content-encoding"] == "gzip"
    assert json.loads(gzip.decompress(body))["group"] == "g"
    status, _, again = served.get("/ui/data", Accept_Encoding="gzip", If_None_Match=headers["etag"])
    assert (status, again) == (304, b"")
    assert served.get("/ui/data", If_None_Match=headers["etag"])[0] == 200


@pytest.mark.parametrize("query", ["window=2", "by=nobody", "token=secret", "where.x=1", "q=" + "x" * 5000])
def test_a_wrong_query_is_refused_with_a_reason(served: Served, query: str) -> None:
    status, headers, body = served.get(f"/ui/data?{query}")
    assert (status, headers["content-type"]) == (400, "application/json")
    assert json.loads(body)["error"]


def test_numbers_require_the_token_and_files_do_not() -> None:
    served = Served(Tokens(Token("s3cret")))
    try:
        assert [served.get(path)[0] for path in ("/", "/ui", "/ui/ui.js")] == [200, 200, 200]
        assert [served.get(path)[0] for path in ("/ui/data", "/ui/state", "/ui/data?token=s3cret")] == [401] * 3
        bearer = "Bearer s3cret"
        assert [served.get(path, Authorization=bearer)[0] for path in ("/ui/data", "/ui/state")] == [200, 200]
    finally:
        served.stop()


def test_every_answer_of_the_page_forbids_what_is_not_its_own(served: Served) -> None:
    for path in ("/", "/ui", "/ui/ui.js", "/ui/ui.css", "/ui/data", "/ui/state", "/ui/data?window=2"):
        _, headers, _ = served.get(path)
        policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == "'none'", path
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'", path
        assert headers["x-content-type-options"] == "nosniff", path
        assert headers["cache-control"] == ("no-store" if path.startswith(("/ui/data", "/ui/state")) else "no-cache")


def test_labels_of_publishers_are_text_of_a_json_document(served: Served) -> None:
    served.following.log.write(span(**at(0, model=HOSTILE)))
    served.data()
    assert served.following.wait_for(1)
    _, headers, _ = served.get("/ui/data?by=provider")
    assert headers["content-type"] == "application/json"
    found = served.data(f"window=15&where.model={quote(HOSTILE)}")
    assert found["rows"][0]["value"] == HOSTILE


def test_the_files_run_nothing_inline_and_ask_nobody_else() -> None:
    files = {name: file.content.decode() for name, file in static_files().items()}
    for name in ("index.html", "ui.html"):
        assert not re.search(r"<script(?![^>]*\ssrc=)|\son\w+=|\sstyle=|<style", files[name]), name
        assert all(
            not target.startswith(("http", "//")) for target in re.findall(r'(?:src|href)="([^"]*)"', files[name])
        )
    modules = {name: text for name, text in files.items() if name.endswith(".js") and not name.startswith("uPlot")}
    for name, text in modules.items():
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|localStorage|cookie",
            text.split("\n", 1)[1],
        ), name
        assert "http://" not in text, name
        assert "https://" not in text, name


def test_every_file_that_a_page_names_is_there() -> None:
    files = static_files()
    for name, file in files.items():
        text = file.content.decode()
        if name.endswith(".html"):
            assert set(re.findall(r'"ui/([^"]+)"', text)) <= set(files)
        elif name.endswith(".js"):
            assert set(re.findall(r'from "\./([^"]+)"', text)) <= set(files)
    assert "Permission is hereby granted" in files["uPlot.LICENSE.txt"].content.decode()
