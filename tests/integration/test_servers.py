"""Every query that users are given, on every server that can be had, over the same real workers and the same traffic.

Two workers count calls of several models, good and bad, with a dimension, a budget that is overrun, and alerts that
fire; all servers scrape both from the beginning. Each panel, template variable, rule and query of docs/queries.md must
then have data, or a reason to have none; counters must be those of the recount, `==`, on each server; and servers must
give the same series. `-s` prints a table of what each of them says.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest
from confluent_kafka import Producer

from tests.conftest import unavailable
from tests.deploy.expressions import DASHBOARD, RULES, Expression, filled, of_dashboard, of_queries, of_rules, rules
from tests.integration.test_queries import traffic, without_thresholds
from tests.oracle import DURATIONS, Key, bound_text, recount
from tests.services import Unavailable
from tests.services.kafka import KafkaBroker
from tests.services.prometheus import Prometheus, Prometheus3, Refused, Target
from tests.services.victoriametrics import BuiltVictoriaMetrics, VictoriaMetrics, VmAlert
from tests.services.webhook import Webhook, status
from tests.services.workers import WorkerProcess, in_units, wait_for, write_config
from tests.spanfactory import message, span

pytestmark = [pytest.mark.nightly, pytest.mark.long]

SERVERS: dict[str, type[Prometheus]] = {
    "Prometheus": Prometheus,
    "Prometheus 3": Prometheus3,
    "VictoriaMetrics": VictoriaMetrics,
    "VictoriaMetrics 1.151": BuiltVictoriaMetrics,
}
#: Places whose expression has nothing to say, and why.
WITHOUT_DATA = {
    "TokentraceDown": "every fleet is scraped",
    "TokentraceLedgerDown": "no ledger of its own was scraped, the workers keep it",
}
RECORDED = [rule["record"] for rule in rules() if "record" in rule]
#: Values that differ from scrape to scrape.
MOVING = re.compile(r"lag_|_age_|_seconds|stalled|forecast")
#: VictoriaMetrics takes the first value of a series for a change. Its rates of a series that is younger than the window
#: are by the age of the series, those of Prometheus by the window; what records rates differs as they do.
OTHERWISE_ON_VICTORIAMETRICS = re.compile(r"\bchanges\(|:rate5m")
#: Prometheus stretches a series by up to a scrape interval at its end.
TOLERANCE = 0.05
SECONDS = 25


class Scene(NamedTuple):
    """Traffic that was produced, and the servers that have seen it. at_s: the time of every question.

    evaluators: of the rules, by the name of the server. absent: what is not here -> why.
    """

    spans: list[dict[str, Any]]
    clamped: int
    bad: int
    servers: dict[str, Prometheus]
    evaluators: dict[str, Prometheus]
    absent: dict[str, str]
    at_s: float

    def silent(self, name: str, expression: Expression) -> str:
        """Return why an expression has nothing to say on a server, empty where it has to have data."""
        if name not in self.evaluators and any(recorded in expression.text for recorded in RECORDED):
            return f"nothing evaluates rules: {self.absent[f'rules of {name}']}"
        return WITHOUT_DATA.get(expression.place, "")

    def server(self, name: str) -> Prometheus:
        """Skip, or fail where Debian's is missing and required, unless this server is here."""
        if name in self.servers:
            return self.servers[name]
        if name == "Prometheus":
            unavailable(self.absent[name])
        pytest.skip(self.absent[name])


def doubtful(rng: random.Random) -> dict[str, Any]:
    """A call with a total of tokens alone, or with more cached tokens than prompt tokens."""
    total = span(model="gemini-2.5-pro", provider="google", prompt_tokens=0, completion_tokens=0, total_tokens=900)
    found: dict[str, Any] = rng.choice([total, span(model="gpt-4o", prompt_tokens=100, cached_prompt_tokens=400)])
    return found


def calls(rng: random.Random, count: int) -> list[dict[str, Any]]:
    """Calls of this moment; each costs so much that the budget and the alerts have something to say."""
    now_us = int(time.time() * 1e6)
    found = traffic(rng, count)
    for one in found:
        one["cost_usd"] = None if one["cost_usd"] is None else round(one["cost_usd"] * 10, 9)
        one["attributes"]["team"] = rng.choice(["red", "blue"])
    found += [doubtful(rng) for _ in range(count // 20)]
    return [one | {"started_at": now_us, "ended_at": now_us} for one in found]


def sections(kafka: KafkaBroker, topic: str, url: str) -> dict[str, Any]:
    """Of a worker whose families have all that rules and panels ask for."""
    delivery = {"type": "http", "url": url, "max_retries": 0, "timeout": "1s"}
    spend = {"metric": "total_cost", "op": "gt", "threshold": 0.001, "window": "10m", "interval": "1m"}
    by_caller = ["model", "provider", "caller"]
    return {
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        "alerts": [
            {"name": "spend", **spend, "delivery": {"type": "kafka"}},
            {"name": "hook", **spend, "delivery": delivery},
        ],
        "ledger": {"in_worker": True, "url": "sqlite:///ledger.db"},
        "budgets": [{"name": "month", "amount": 1, "group_by": ["caller"], "delivery": {"type": "kafka"}}],
        "dimensions": {"team": {"source": "attributes.team", "default": "none"}},
        "metrics": {
            "labels": {
                "spans_total": ["status", *by_caller, "team"],
                "latency_ms": by_caller,
                "eval_score": by_caller,
            }
        },
    }


@pytest.fixture(scope="module")
def scene(_kafka_or_reason: KafkaBroker | str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Workers, servers and traffic, once for the module."""
    if isinstance(_kafka_or_reason, str):
        unavailable(_kafka_or_reason)
    kafka = _kafka_or_reason
    folder = tmp_path_factory.mktemp("servers")
    topic = kafka.create_topic(f"servers-{random.getrandbits(32):08x}", 4)
    hook = Webhook(status(500))
    started: list[WorkerProcess] = []
    servers: dict[str, Prometheus] = {}
    evaluators: dict[str, Prometheus] = {}
    absent: dict[str, str] = {}
    impatient = folder / "rules.yml"
    text = RULES.read_text().replace("interval: 30s", "interval: 1s")
    impatient.write_text(re.sub(r"\n        for: \w+\n", "\n        for: 1s\n", text))
    try:
        for number in range(2):
            config = write_config(folder / f"{number}.yml", sections(kafka, topic, hook.url), f"replica-{number}")
            started.append(WorkerProcess(config, folder / f"{number}.log"))
        for worker in started:
            worker.wait_until_ready()
        assert wait_for(lambda: all(partitions(worker) for worker in started)), "the partitions are not shared"
        targets = [
            Target(worker.target, {"instance": f"tokentrace-{number}", "namespace": "llm"})
            for number, worker in enumerate(started)
        ]
        for name, kind in SERVERS.items():
            try:
                servers[name] = kind(folder / name, targets, rules=[impatient])
            except Unavailable as error:
                absent[name] = str(error)
                continue
            servers[name].start()
        for name, server in servers.items():
            evaluators[name] = server
            if isinstance(server, VictoriaMetrics):
                try:
                    evaluators[name] = VmAlert(folder / f"{name} vmalert", server, [impatient])
                    evaluators[name].start()
                except Unavailable as error:
                    absent[f"rules of {name}"] = str(error)
                    del evaluators[name]
        for server in servers.values():
            assert wait_for(partial(scrapes_both, server))
        spans, clamped, bad = produce(kafka, topic)
        for name, server in servers.items():
            assert wait_for(partial(has_counted, server, len(spans))), f"{name} has not seen every span"
        assert wait_for(lambda: sum(fired(worker) for worker in started) == 2), "the rules have not fired"
        assert wait_for(lambda: bool(hook.received) and any(failed(worker) for worker in started)), (
            "no delivery has failed"
        )
        time.sleep(4.0)
        yield Scene(spans, clamped, bad, servers, evaluators, absent, time.time())
    finally:
        for running in (*evaluators.values(), *servers.values()):
            running.stop()
        for worker in started:
            worker.end()
        hook.close()


def produce(kafka: KafkaBroker, topic: str) -> tuple[list[dict[str, Any]], int, int]:
    """Return the spans, how many of them have a time that cannot be true, and the messages that are none."""
    rng, spans, clamped = random.Random(5), list[dict[str, Any]](), 0
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "linger.ms": 5})
    for _ in range(SECONDS):
        second = calls(rng, 150)
        # An hour ahead of its message.
        second[0]["ended_at"] += 3_600_000_000
        clamped += 1
        for index, one in enumerate(second):
            producer.produce(topic, message(one), partition=index % 4)
        producer.produce(topic, b"no span", partition=0)
        spans += second
        time.sleep(1.0)
    producer.flush()
    return spans, clamped, SECONDS


def partitions(worker: WorkerProcess) -> int:
    return sum(name == "tokentrace_worker_lag_records" for name, _ in worker.samples())


def fired(worker: WorkerProcess) -> int:
    return sum(value > 0 for (name, _), value in worker.samples().items() if name == "tokentrace_alert_firings_total")


def failed(worker: WorkerProcess) -> bool:
    name = "tokentrace_alert_delivery_failed_total"
    return any(value > 0 for (found, _), value in worker.samples().items() if found == name)


def scrapes_both(server: Prometheus) -> bool:
    return [value for _, value in server.query("up")] == [1.0, 1.0]


def has_counted(server: Prometheus, spans: int) -> bool:
    return [value for _, value in server.query("sum(tokentrace_spans_total)")] == [spans]


def expressions() -> list[tuple[str, Expression, str]]:
    """(kind, expression, text as it is asked)."""
    return [
        *(("panel", one, filled(one.text)) for one in of_dashboard()),
        *(("rule", one, without_thresholds(one.text)) for one in of_rules()),
        *(("query", one, one.text) for one in of_queries()),
    ]


def variables() -> dict[str, tuple[str, str]]:
    """Variable of the dashboard -> (label, selector) whose values it offers."""
    found = {}
    for variable in json.loads(DASHBOARD.read_text())["templating"]["list"]:
        if variable["type"] == "query":
            asked = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
            assert asked is not None, variable
            found[variable["name"]] = (asked[2], filled(asked[1]))
    return found


#: Variable -> what it has to offer.
OFFERED = {
    "job": ["tokentrace"],
    "namespace": ["llm"],
    "model": ["gemini-2.5-pro", "gpt-4o", "house-llm"],
    "provider": ["google", "openai", "vllm"],
    "caller": ["search", "support-bot"],
    "replica": ["tokentrace-0", "tokentrace-1"],
}


@pytest.mark.parametrize("name", SERVERS)
def test_every_expression_has_data_or_a_reason(scene: Scene, name: str) -> None:
    server = scene.server(name)
    silent = {}
    assert scrapes_both(server)
    for _, expression, text in expressions():
        found = server.query(text, scene.at_s)
        if not any(value == value for _, value in found) and not scene.silent(name, expression):
            silent[expression.place] = text
    assert silent == {}


@pytest.mark.parametrize("name", SERVERS)
def test_every_variable_offers_its_values(scene: Scene, name: str) -> None:
    server = scene.server(name)
    found = {
        variable: server.label_values(label, selector) for variable, (label, selector) in sorted(variables().items())
    }
    assert found == OFFERED


@pytest.mark.parametrize("name", SERVERS)
def test_counters_and_histograms_are_those_of_the_recount(scene: Scene, name: str) -> None:
    server = scene.server(name)
    expected = recount(scene.spans)
    labels_of = {found: {label for label, _ in labels} for found, labels in expected}
    totals: Counter[Key] = Counter()
    for metric, value in server.query('{__name__=~"tokentrace_.+"}', scene.at_s):
        if metric["__name__"] in labels_of:
            labels = frozenset((label, metric.get(label, "")) for label in labels_of[metric["__name__"]])
            totals[metric["__name__"], labels] += in_units(metric["__name__"], value, labels)
    assert totals == expected
    (clamped,) = (value for _, value in server.query("sum(tokentrace_spans_clamped_total)", scene.at_s))
    (bad,) = (value for _, value in server.query("sum(tokentrace_spans_rejected_total)", scene.at_s))
    assert (clamped, bad) == (scene.clamped, scene.bad)


@pytest.mark.parametrize("name", SERVERS)
def test_bounds_of_buckets_are_written_as_the_queries_write_them(scene: Scene, name: str) -> None:
    """Prometheus 3 writes them itself, `1.0` for `1`; a query that names a bound must find it on each."""
    bounds = scene.server(name).label_values("le", "tokentrace_latency_ms_bucket")
    assert sorted(bounds) == sorted([*map(bound_text, DURATIONS), "+Inf"])


@pytest.mark.parametrize("name", SERVERS)
def test_rules_are_loaded_evaluated_and_fire(scene: Scene, name: str) -> None:
    """On a VictoriaMetrics by vmalert."""
    scene.server(name)
    if name not in scene.evaluators:
        pytest.skip(scene.absent[f"rules of {name}"])
    server = scene.evaluators[name]
    evaluated = {rule["name"]: rule["health"] for rule in server.rules()}
    assert evaluated == {rule.get("record") or rule["alert"]: "ok" for rule in rules()}
    trouble = {
        "TokentraceCostSpike", "TokentraceLatencyRegression", "TokentraceQualityDrop", "TokentraceErrorRateSpike",
        "TokentraceUnpricedSpend", "TokentraceDoubtfulUsage", "TokentraceDeadLetters", "TokentraceAlertDelivery",
    }  # fmt: skip
    assert wait_for(lambda: {alert["alertname"] for alert in server.firing()} == trouble), server.firing()


def test_servers_agree(scene: Scene) -> None:
    """They have the same series, and the same values where these do not move from scrape to scrape.

    Asked for the increase in place of the rate, VictoriaMetrics has to agree too: ratios and quantiles stay the same.
    """
    lines, different = [], {}
    for kind, expression, text in expressions():
        answers = {name: answer(server, text, scene.at_s) for name, server in scene.servers.items()}
        lines.append((kind, expression.place, answers))
        first, *others = scene.servers
        for name in others:
            if scene.silent(name, expression):
                assert answers[name] == {}, f"{expression.place} is said to have nothing to say"
                continue
            found, expected = answers[name], answers[first]
            if isinstance(scene.servers[name], VictoriaMetrics):
                if OTHERWISE_ON_VICTORIAMETRICS.search(text):
                    found = dict.fromkeys(found, 0.0)
                    expected = dict.fromkeys(expected, 0.0)
                elif "rate(" in text:
                    increases = re.sub(r"\brate\(", "increase(", text)
                    found, expected = (answer(scene.servers[one], increases, scene.at_s) for one in (name, first))
            if MOVING.search(text):
                found, expected = dict.fromkeys(found, 0.0), dict.fromkeys(expected, 0.0)
            if found != pytest.approx(expected, rel=TOLERANCE, nan_ok=True):
                different[expression.place, name] = (found, expected)
    print("\n" + table(lines, list(scene.servers)))
    for (place, name), (found, expected) in different.items():
        for labels in {*found, *expected}:
            print(f"{place} on {name}, {dict(labels)}: {found.get(labels)}, not {expected.get(labels)}")
    assert different == {}


def answer(server: Prometheus, text: str, at_s: float) -> dict[frozenset[tuple[str, str]], float]:
    """Labels of each series -> its value. A recorded or selected series has its name on Prometheus alone."""
    found = server.query(text, at_s)
    return {frozenset(item for item in labels.items() if item[0] != "__name__"): value for labels, value in found}


def table(lines: list[tuple[str, str, dict[str, dict[Any, float]]]], names: list[str]) -> str:
    """As Markdown: the series of each expression on each server, and the first of their values."""
    rows = ["| | expression | " + " | ".join(names) + " |", "|---|---|" + "---|" * len(names)]
    for kind, place, answers in lines:
        cells = []
        for name in names:
            found = answers[name]
            first = min(found, key=sorted, default=None)
            cells.append("none" if first is None else f"{len(found)}: {found[first]:.6g}")
        rows.append(f"| {kind} | {place.replace('|', '¦')} | {' | '.join(cells)} |")
    return "\n".join(rows)


@pytest.mark.parametrize("name", ["Prometheus", "Prometheus 3"])
def test_wrong_forms_are_refused_by_each_prometheus(scene: Scene, name: str) -> None:
    server = scene.server(name)
    for wrong in of_queries("wrong"):
        with pytest.raises(Refused, match="parse error"):
            server.query(wrong.text, scene.at_s)
