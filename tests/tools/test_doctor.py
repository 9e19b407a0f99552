"""`tokentrace doctor`: what is looked at, how grave it is, and what to do; the services are stand-ins."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.cli.test_main import run
from tests.decode.schemas.helpers import StandIn, stand_in
from tests.harness import raw_batch
from tests.spanfactory import message, span
from tokentrace.model.advice import ADVICE
from tokentrace.tools import doctor
from tokentrace.tools.config_connect import Finding
from tokentrace.tools.prometheus_view import http_date_s


class FakeProbe:
    """A group of replicas."""

    group: ClassVar[set[str] | None] = None

    def __init__(self, *_: Any) -> None:
        pass

    def members(self) -> set[str] | None:
        return self.group

    def close(self) -> None:
        pass


@pytest.fixture
def server() -> Iterator[StandIn]:
    with stand_in() as running:
        yield running


@pytest.fixture
def examined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[str, str, str, str]]]:
    """Runs the command on healthy services, which a test makes sick; gives (level, area, what, to do)."""
    healthy = [
        Finding(("kafka", "bootstrap_servers"), "3 brokers answer"),
        Finding(("kafka", "topic"), "llm-spans has 4 partitions"),
    ]
    monkeypatch.setattr(doctor, "try_out", lambda _: iter(healthy))
    monkeypatch.setattr(doctor, "ClusterProbe", FakeProbe)
    monkeypatch.setattr(FakeProbe, "group", {"tokentrace-0", "tokentrace-1"})

    def look(*options: str, values: list[bytes | None] | None = None, text: str = "", code: int = 0) -> Any:
        values = [message(span())] * 20 if values is None else values
        batches = [raw_batch(values, now_s=time.time())] if values else []
        monkeypatch.setattr(doctor, "from_topic", lambda *_: iter(batches))
        (tmp_path / "tokentrace.yml").write_text(text or "http_server: {addr: '127.0.0.1:0'}\n")
        done = run("doctor", "--json", *options, folder=tmp_path)
        assert (done.returncode, done.stderr) == (code, "")
        found = [json.loads(line) for line in done.stdout.splitlines()]
        assert all(bool(one["todo"]) == (one["level"] in ("warn", "fail")) for one in found)
        return [(one["level"], one["area"], one["what"], one["todo"] or "") for one in found]

    return look


def areas(found: list[tuple[str, str, str, str]], area: str) -> list[tuple[str, str]]:
    return [(level, what) for level, name, what, _ in found if name == area]


def replicas(server: StandIn, **ready: int) -> None:
    """Let Prometheus answer with these replicas."""
    result = [
        {"metric": {"replica_id": name.replace("_", "-"), "version": "1.0"}, "value": [0, str(value)]}
        for name, value in ready.items()
    ]
    server.answers["/api/v1/query"] = (200, json.dumps({"status": "success", "data": {"result": result}}).encode())


def test_a_healthy_deployment_is_ok_everywhere(examined: Any, server: StandIn) -> None:
    replicas(server, tokentrace_0=1, tokentrace_1=1)
    found = examined("--prometheus", server.url)
    assert {level for level, *_ in found} == {"ok"}
    assert [area for _, area, *_ in found] == [
        "config", "kafka.bootstrap_servers", "kafka.topic", "spans", "prices", "clock", "http_server.addr",
        "prometheus", "replicas",
    ]  # fmt: skip
    assert areas(found, "replicas") == [("ok", "each of the 2 members of the group is scraped")]


def test_problems_of_the_file_come_first_and_alone(examined: Any) -> None:
    found = examined(text="kafka: {topik: x}\n", code=1)
    assert [(level, area) for level, area, *_ in found] == [("fail", "kafka.topik"), ("skip", "config")]
    assert found[0][3] == "Correct tokentrace.yml, line 1."


def test_services_that_do_not_answer_fail_with_what_to_do(examined: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sick = [Finding(("kafka", "bootstrap_servers"), "No Kafka broker answers", good=False)]
    monkeypatch.setattr(doctor, "try_out", lambda _: iter(sick))
    found = examined(code=1)
    assert found[1][:3] == ("fail", "kafka.bootstrap_servers", "No Kafka broker answers")
    assert "Start the brokers" in found[1][3]
    assert areas(found, "spans") == [], "without a broker there is nothing to read"


def test_a_topic_that_is_not_there_is_not_waited_for(examined: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sick = [
        Finding(("kafka", "bootstrap_servers"), "1 broker answers"),
        Finding(("kafka", "topic"), "topic 'llm-spans' does not exist", good=False),
    ]
    monkeypatch.setattr(doctor, "try_out", lambda _: iter(sick))
    found = examined(code=1)
    assert areas(found, "kafka.topic") == [("fail", "topic 'llm-spans' does not exist")]
    assert areas(found, "spans") == [("skip", "not looked at, since the topic cannot be read")]


def test_the_newest_spans_show_rejects_repairs_and_missing_prices(examined: Any) -> None:
    values = [message(span(model="nobody-sells-this", provider="x", cost_usd=None))] * 3
    values += [message(span(prompt_tokens=-1)), b"junk", b"junk", message(span())]
    found = examined(values=values)
    assert areas(found, "spans")[0] == ("ok", "4 of the newest 7 messages are counted")
    assert [
        (what.split(" such")[0], todo) for level, area, what, todo in found if (level, area) == ("warn", "spans")
    ] == [
        ("2 unknown_framing,", ADVICE["unknown_framing"]),
        ("1 negative_tokens,", ADVICE["negative_tokens"]),
    ]
    assert areas(found, "prices") == [
        ("warn", "spans without a price, which cost 0: nobody-sells-this of x (3)"),
    ]


def test_a_topic_without_messages_says_how_to_publish_some(examined: Any) -> None:
    (found,) = [one for one in examined(values=[]) if one[1] == "spans"]
    assert (found[0], found[3]) == ("warn", "Publish some: tokentrace produce --count 10.")


@pytest.mark.parametrize(("apart_s", "level"), [(0, "ok"), (-30, "warn"), (30, "warn"), (400, "fail")])
def test_the_clock_is_compared_with_that_of_a_server(
    examined: Any, monkeypatch: pytest.MonkeyPatch, apart_s: int, level: str
) -> None:
    monkeypatch.setattr(doctor, "http_date_s", lambda _: time.time() - apart_s)
    text = "schema_registry: {url: 'http://user:secret@registry:8081'}\nhttp_server: {addr: '127.0.0.1:0'}\n"
    found = examined(text=text, code=level == "fail")
    ((found_level, what),) = areas(found, "clock")
    assert found_level == level
    assert "registry:8081" in what
    assert "secret" not in what


@pytest.mark.parametrize(
    ("there_s", "ahead_s"), [(100.0, 0.0), (105.0, 0.0), (110.0, 0.0), (70.0, 30.0), (150.0, -40.0)]
)
def test_the_time_that_an_answer_takes_is_no_difference_of_the_clocks(
    monkeypatch: pytest.MonkeyPatch, there_s: float, ahead_s: float
) -> None:
    """It may have written the answer at any time between the request and its arrival."""
    now_s = iter([100.0, 110.0])
    monkeypatch.setattr(doctor, "http_date_s", lambda _: there_s)
    assert doctor._ahead_s("http://registry:8081", lambda: next(now_s)) == ahead_s


def test_a_taken_port_is_told_from_a_worker_that_serves_there(examined: Any, server: StandIn) -> None:
    port = server.url.rpartition(":")[2]
    text = f"http_server: {{addr: '127.0.0.1:{port}'}}\n"
    assert areas(examined(text=text, code=1), "http_server.addr") == [
        ("fail", f"127.0.0.1:{port} is taken by another program")
    ]
    server.answers["/health"] = (200, b'{"ready": true}')
    assert areas(examined(text=text), "http_server.addr") == [("ok", f"a worker answers at 127.0.0.1:{port}")]


def test_prometheus_must_scrape_each_member_of_the_group(examined: Any, server: StandIn) -> None:
    replicas(server, tokentrace_0=0)
    found = examined("--prometheus", server.url, code=1)
    assert areas(found, "prometheus") == [("ok", "scrapes 1 replica"), ("warn", "not ready: tokentrace-0")]
    assert areas(found, "replicas") == [("fail", "in the group, and not scraped: tokentrace-1")]
    replicas(server)
    assert areas(examined("--prometheus", server.url, code=1), "prometheus") == [("fail", "scrapes no replica")]


@pytest.mark.parametrize(("group", "level"), [(set(), "warn"), (None, "skip")])
def test_a_group_without_members_or_rights_is_said(
    examined: Any, server: StandIn, monkeypatch: pytest.MonkeyPatch, group: set[str] | None, level: str
) -> None:
    monkeypatch.setattr(FakeProbe, "group", group)
    replicas(server, tokentrace_0=1)
    ((found, _),) = areas(examined("--prometheus", server.url), "replicas")
    assert found == level


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"data": 5}', b'{"data": {"result": [{}]}}'])
def test_an_address_that_is_not_prometheus_fails(examined: Any, server: StandIn, body: bytes) -> None:
    server.answers["/api/v1/query"] = (200, body)
    found = examined("--prometheus", server.url, code=1)
    assert [level for level, area, *_ in found if area == "prometheus"] == ["fail"]


def test_the_time_of_a_server_is_read_from_any_answer(server: StandIn) -> None:
    for status in (200, 404, 500):
        server.otherwise = (status, b"")
        there_s = http_date_s(f"{server.url.replace('://', '://user:secret@')}/x")
        assert there_s is not None
        assert abs(there_s - time.time()) < 5
    assert server.authorizations == [None] * 3
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
    assert http_date_s(f"http://127.0.0.1:{port}") is None


def test_text_has_a_line_for_what_was_found_and_one_for_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "tokentrace.yml").write_text("kafka: {topik: x}\n")
    done = run("doctor", folder=tmp_path)
    lines = done.stdout.splitlines()
    assert (done.returncode, lines[0].split()[:2]) == (1, ["fail", "kafka.topik"])
    assert lines[1] == "      -> Correct tokentrace.yml, line 1."
