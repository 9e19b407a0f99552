"""Every expression that users are given, on a real Prometheus that scrapes real workers, against a recount.

Three workers count traffic; one is killed permanently and another one joins; while the traffic continues, one more is
killed and comes back. What Prometheus then says is compared with what was produced: the counters exactly, everything
that takes a rate within what its extrapolation may add.
"""

from __future__ import annotations

import itertools
import random
import re
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from tests.deploy.expressions import RULES, Expression, filled, of_dashboard, of_queries, of_rules, rules
from tests.oracle import DURATIONS, cost_of
from tests.services.kafka import KafkaBroker
from tests.services.prometheus import Prometheus, Refused
from tests.services.workers import WorkerProcess, wait_for
from tests.spanfactory import message, span

pytestmark = pytest.mark.long

PARTITIONS = 6
LAG = "tokentrace_worker_lag_records"
MODELS = (("gpt-4o", "openai"), ("gemini-2.5-pro", "google"), ("house-llm", "vllm"))
CALLERS = ("", "search", "support-bot")
#: Prometheus stretches a series by up to a scrape interval at its end, and one that was killed lived 20 of them.
TOLERANCE = 0.05

#: Expressions that have nothing to say in a fleet that is well.
WITHOUT_DATA = {
    "tokentrace_alert_delivery_failed_total": "above 0 only where a webhook did not answer",
    "estimated": "only of spans with a total alone",
    "tokentrace_spans_repaired_total": "only of spans whose counts contradict each other",
    "tokentrace_spans_clamped_total": "only of spans whose time cannot be true",
}

Spans = list[dict[str, Any]]


def call(rng: random.Random, model: int, caller: str, status: str) -> dict[str, Any]:
    """A call with all that can be measured. gpt-4o reports its cost, gemini's is computed, house-llm has no price."""
    name, provider = MODELS[model]
    prompt = rng.randrange(100, 3000)
    return span(
        model=name,
        provider=provider,
        caller=caller,
        status=status,
        prompt_tokens=prompt,
        completion_tokens=rng.randrange(20, 600),
        cached_prompt_tokens=rng.randrange(prompt),
        reasoning_tokens=rng.randrange(20),
        cost_usd=rng.uniform(0.001, 0.01) if model == 0 else None,
        latency_ms=rng.lognormvariate(6.5 + model, 0.6),
        ttft_ms=rng.lognormvariate(5, 0.5),
        attributes={"eval.score": round(min(1.0, rng.gauss((0.9, 0.8, 0.6)[model], 0.05)), 3)},
    )


def traffic(rng: random.Random, count: int) -> Spans:
    return [
        call(
            rng,
            rng.choices(range(len(MODELS)), [5, 3, 2])[0],
            rng.choices(CALLERS, [1, 4, 5])[0],
            rng.choices(["ok", "error", "timeout"], [90, 8, 2])[0],
        )
        for _ in range(count)
    ]


class Fleet:
    """Workers on one topic, a Prometheus that scrapes them, and all that was produced."""

    def __init__(self, kafka: KafkaBroker, topic: str, start: Callable[..., WorkerProcess]) -> None:
        self._start, self._sections = start, {
            "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
            "worker": {"session_timeout": "6s"},
            "alerts": [
                {"name": "spend", "metric": "total_cost", "op": "gt", "threshold": 0.001, "window": "10m",
                 "interval": "1m", "delivery": {"type": "kafka"}},
            ],
            "budgets": [{"name": "month", "amount": 100, "delivery": {"type": "kafka"}}],
            "ledger": {"in_worker": True, "url": "sqlite:///ledger.db"},
            # So that the rules by caller have data, too.
            "metrics": {
                "labels": {
                    "spans_total": ["status", "model", "provider", "caller"],
                    "latency_ms": ["model", "provider", "caller"],
                    "eval_score": ["model", "provider", "caller"],
                }
            },
        }  # fmt: skip
        self._producer = Producer({"bootstrap.servers": kafka.bootstrap, "linger.ms": 5})
        self._topic = topic
        self.workers: dict[str, WorkerProcess] = {}
        self.spans: Spans = []
        self.bad = 0

    def add(self) -> None:
        """One more worker, with a name as a pod has it."""
        self.workers[f"tokentrace-{len(self.workers)}"] = self._start(**self._sections)

    def alive(self) -> dict[str, WorkerProcess]:
        return {name: worker for name, worker in self.workers.items() if worker.process.poll() is None}

    def targets(self) -> dict[str, str]:
        return {name: worker.target for name, worker in self.workers.items()}

    def partitions(self, worker: WorkerProcess) -> list[int]:
        return [int(dict(labels)["partition"]) for name, labels in worker.samples() if name == LAG]

    def fired(self) -> bool:
        """Return True if the built-in rule has fired."""
        name = "tokentrace_alert_firings_total"
        return any(worker.samples().get((name, frozenset({("rule", "spend")}))) for worker in self.alive().values())

    def shared(self) -> bool:
        """Return True if all partitions are assigned and every worker has some."""
        owned = [self.partitions(worker) for worker in self.alive().values()]
        return all(owned) and sorted(itertools.chain(*owned)) == list(range(PARTITIONS))

    def run(
        self,
        prometheus: Prometheus,
        rng: random.Random,
        count: int,
        seconds: int,
        events: Mapping[int, Callable[[], object]] | None = None,
    ) -> None:
        """Traffic on all partitions, and a few messages that nobody can read. events: second -> what happens then."""
        for second in range(seconds):
            (events or {}).get(second, lambda: None)()
            ended_us = int(time.time() * 1e6)
            spans = [span | {"started_at": ended_us, "ended_at": ended_us} for span in traffic(rng, count // seconds)]
            self.spans += spans
            self._produce(spans, range(PARTITIONS))
            self._producer.produce(self._topic, b"no span", partition=self.bad % PARTITIONS)
            self.bad += 1
            time.sleep(1)
        self.settle(prometheus)

    def settle(self, prometheus: Prometheus) -> None:
        """Until Prometheus has seen every span, of dead workers too."""
        produced = len(self.spans)
        self._producer.flush()

        def seen() -> bool:
            counted = sum(value for _, value in prometheus.query("sum(max_over_time(tokentrace_spans_total[15m]))"))
            assert counted <= produced
            return counted == produced

        assert wait_for(seen), (produced, prometheus.query("sum(max_over_time(tokentrace_spans_total[15m]))"))

    def _produce(self, spans: Spans, partitions: Iterable[int]) -> None:
        chosen = list(partitions)
        for index, record in enumerate(spans):
            self._producer.produce(self._topic, message(record), partition=chosen[index % len(chosen)])
            self._producer.poll(0)


@pytest.fixture
def fleet(kafka: KafkaBroker, start_worker: Callable[..., WorkerProcess]) -> Fleet:
    topic = kafka.create_topic(f"queries-{random.getrandbits(32):08x}", PARTITIONS)
    fleet = Fleet(kafka, topic, start_worker)
    for _ in range(3):
        fleet.add()
    assert wait_for(fleet.shared)
    return fleet


def test_every_expression_that_users_are_given_says_what_was_produced(
    fleet: Fleet, start_prometheus: Callable[..., Prometheus], tmp_path: Path
) -> None:
    impatient = tmp_path / "rules.yml"
    impatient.write_text(RULES.read_text().replace("interval: 30s", "interval: 1s"))
    prometheus = start_prometheus(fleet.targets(), [impatient])
    rng = random.Random(11)
    fleet.run(prometheus, rng, 4000, 15)

    fleet.workers["tokentrace-1"].kill()
    prometheus.scrape({name: worker.target for name, worker in fleet.alive().items()})
    fleet.add()
    prometheus.scrape({name: worker.target for name, worker in fleet.alive().items()})
    assert wait_for(fleet.shared), "the dead worker's partitions are read by nobody"
    crashed = fleet.workers["tokentrace-0"]
    fleet.run(prometheus, rng, 4000, 15, {4: crashed.kill, 6: crashed.restart})
    crashed.wait_until_ready()
    time.sleep(3)
    # The windows of 5 minutes hold all of the traffic now. The rule may fire minutes later.
    now_s = time.time()
    rules_see_the_trouble(prometheus)
    assert wait_for(fleet.fired), "the rule has not fired"
    time.sleep(3)

    everything_has_data(prometheus, time.time())
    counters_are_exact(fleet, prometheus, now_s)
    numbers_are_those_of_the_spans(fleet, prometheus, now_s)
    quantiles_lie_in_their_buckets(fleet, prometheus, now_s)
    # The workers are well, one of them killed or not, once the last of them has its partitions again.
    assert wait_for(lambda: active(prometheus) <= {*TROUBLE, "TokentraceCostSpike"}), active(prometheus)
    wrong_forms_are_wrong(prometheus, now_s)


def everything_has_data(prometheus: Prometheus, now_s: float) -> None:
    silent, excused = {}, set()
    for expression in [*of_dashboard(), *of_rules(), *of_queries()]:
        text = filled(expression.text) if expression in of_dashboard() else without_thresholds(expression.text)
        found = prometheus.query(text, now_s)
        reasons = {name for name in WITHOUT_DATA if re.search(rf"\b{name}\b", expression.text)}
        if found and all(value != value for _, value in found):
            silent[expression.place] = f"only NaN: {text}"
        elif not found and not reasons and expression.place not in ("TokentraceDown", "TokentraceLedgerDown"):
            silent[expression.place] = text
        elif not found:
            excused.add(expression.place)
    assert not silent
    # What is excused is as little as that.
    doubtful = {f"Estimated, repaired and clamped spans, {letter}" for letter in "ABC"}
    down = {"TokentraceDown", "TokentraceLedgerDown"}
    assert excused <= {*down, "TokentraceAlertDelivery", "TokentraceDoubtfulUsage", *doubtful}


def without_thresholds(text: str) -> str:
    """An alert's expression as it is below its threshold: each comparison with a number lets everything through.

    So does the minute that a replica has to start: the fleet is younger.
    """
    everything = {">": "> -1e99", ">=": "> -1e99", "<": "< 1e99", "<=": "< 1e99", "==": ">= 0"}
    return re.sub(r"(>=|<=|==|>|<) -?[\d.]+", lambda match: everything[match[1]], text.replace(" offset 1m", ""))


def counters_are_exact(fleet: Fleet, prometheus: Prometheus, now_s: float) -> None:
    """Totals of every replica that ever was, to the nano-dollar."""
    spans = fleet.spans
    for by, name, value in (
        ("model", "tokentrace_cost_total", nano_usd),
        ("caller", "tokentrace_cost_total", nano_usd),
        ("status", "tokentrace_spans_total", len),
    ):
        scale = 10**9 if name == "tokentrace_cost_total" else 1
        found = {
            labels.get(by, ""): round(number * scale)
            for labels, number in prometheus.query(f"sum by ({by}) (max_over_time({name}[15m]))", now_s)
        }
        assert found == {key: value(group) for key, group in grouped(spans, by).items()}


def grouped(spans: Spans, by: str) -> dict[str, Spans]:
    """Spans by a field; "" is one group of all."""
    groups: dict[str, Spans] = defaultdict(list)
    for record in spans:
        groups[record[by] if by else ""].append(record)
    return groups


def nano_usd(spans: Spans) -> int:
    return sum(cost_of(span)[0] for span in spans)


def cost(spans: Spans) -> float:
    return nano_usd(spans) / 1e9


def cost_a_minute(spans: Spans) -> float:
    """Of a window of 5 minutes that all of the traffic lies in."""
    return cost(spans) / 5


def cost_per_span(spans: Spans) -> float:
    return cost(spans) / len(spans)


def cost_per_ok_span(spans: Spans) -> float:
    return cost(spans) / sum(span["status"] == "ok" for span in spans)


def failed(*statuses: str) -> Callable[[Spans], float]:
    return lambda spans: sum(span["status"] in statuses for span in spans) / len(spans)


def quality(spans: Spans) -> float:
    return sum(span["attributes"]["eval.score"] for span in spans) / len(spans)


def share(part: str, whole: str) -> Callable[[Spans], float]:
    return lambda spans: sum(span[part] for span in spans) / sum(span[whole] for span in spans)


def numbers_are_those_of_the_spans(fleet: Fleet, prometheus: Prometheus, now_s: float) -> None:
    """The published expressions, each with a recount. Windows of 5 minutes and more hold all of the traffic."""
    named = {expression.place: expression for expression in [*of_dashboard(), *of_rules()]}
    queries = {query.text: query for query in of_queries()}

    def panel(place: str) -> str:
        return filled(named[place].text)

    def query(text: str) -> str:
        return queries[" ".join(text.split())].text

    def rule(name: str) -> str:
        assert name in named
        return name

    checks: list[tuple[str, str, Callable[[Spans], float]]] = [
        (panel("Cost over time, A"), "model", cost_a_minute),
        (panel("Model usage breakdown, A"), "model", len),
        (panel("Quality score over time, A"), "", quality),
        (panel("Quality score over time, B"), "model", quality),
        (panel("Quality, A"), "", quality),
        (panel("Cost by caller, A"), "caller", cost_a_minute),
        (panel("Bill by caller, A"), "caller", cost),
        (panel("Cost per span, A"), "", cost_per_span),
        (panel("Cost per span, B"), "model", cost_per_span),
        (panel("Cached share, A"), "model", share("cached_prompt_tokens", "prompt_tokens")),
        (panel("Error rate, A"), "model", failed("error")),
        (panel("Error rate, B"), "model", failed("timeout")),
        (rule("model:tokentrace_cost_usd_per_minute:rate5m"), "model", cost_a_minute),
        (rule("caller:tokentrace_cost_usd_per_minute:rate5m"), "caller", cost_a_minute),
        (rule("model:tokentrace_spans_per_second:rate5m"), "model", lambda spans: len(spans) / 300),
        (rule("model:tokentrace_cost_usd_per_span:rate5m"), "model", cost_per_span),
        (rule("model:tokentrace_error_ratio:rate5m"), "model", failed("error")),
        (rule("model:tokentrace_quality:mean15m"), "model", quality),
        (rule("caller:tokentrace_error_ratio:rate5m"), "caller", failed("error")),
        (rule("caller:tokentrace_quality:mean15m"), "caller", quality),
        (query("sum by (model) (increase(tokentrace_cost_total[1h]))"), "model", cost),
        (query("sum(increase(tokentrace_cost_total[1h]))"), "", cost),
        (query("60 * sum(rate(tokentrace_cost_total[5m]))"), "", cost_a_minute),
        (query("topk(10, sum by (caller) (increase(tokentrace_cost_total[1h])))"), "caller", cost),
        (
            query(
                "sum by (model) (rate(tokentrace_cost_total[5m])) "
                "/ (sum by (model) (rate(tokentrace_spans_total[5m])) > 0)"
            ),
            "model",
            cost_per_span,
        ),
        (
            query(
                "sum by (model) (rate(tokentrace_cost_total[5m])) "
                '/ (sum by (model) (rate(tokentrace_spans_total{status="ok"}[5m])) > 0)'
            ),
            "model",
            cost_per_ok_span,
        ),
        (query("sum by (status) (increase(tokentrace_spans_total[1h]))"), "status", len),
        (
            query('sum(rate(tokentrace_spans_total{status!="ok"}[5m])) / sum(rate(tokentrace_spans_total[5m]))'),
            "",
            failed("error", "timeout"),
        ),
        (
            query("sum(increase(tokentrace_eval_score_sum[15m])) / sum(increase(tokentrace_eval_score_count[15m]))"),
            "",
            quality,
        ),
    ]
    wrong, deviations = {}, []
    for text, by, number in checks:
        found = {labels.get(by, "").replace("(none)", ""): value for labels, value in prometheus.query(text, now_s)}
        expected = {
            key: number(spans)
            for key, spans in grouped(fleet.spans, by).items()
            # The rules by caller leave out what has none.
            if not (text.startswith("caller:") and "cost" not in text and not key)
        }
        if found != pytest.approx(expected, rel=TOLERANCE):
            wrong[text] = (found, expected)
        deviations += [abs(found.get(key, 0.0) / value - 1) for key, value in expected.items() if value]
    print(f"{len(checks)} expressions, {len(deviations)} numbers, the farthest is {max(deviations):.2%} off")
    assert not wrong
    ((_, left_over),) = prometheus.query(
        queries[next(text for text in queries if "worker_spans_total" in text)].text, now_s
    )
    assert left_over == 0


def quantiles_lie_in_their_buckets(fleet: Fleet, prometheus: Prometheus, now_s: float) -> None:
    by_model = "histogram_quantile(0.95, sum by (le, model) (rate(tokentrace_latency"
    texts = [query.text for query in of_queries() if query.text.startswith(by_model)]
    assert len(texts) == 1
    for text in (texts[0], "model:tokentrace_latency_ms:p95_10m"):
        found = {labels["model"]: value for labels, value in prometheus.query(text, now_s)}
        assert found.keys() == {model for model, _ in MODELS}
        for model, value in found.items():
            latencies = sorted(span["latency_ms"] for span in fleet.spans if span["model"] == model)
            true = latencies[int(0.95 * len(latencies))]
            assert bisect_left(DURATIONS, value) == bisect_left(DURATIONS, true), (model, value, true)
    for place, quantile in (("A", 0.5), ("B", 0.95), ("C", 0.99)):
        (text,) = (
            expression.text for expression in of_dashboard() if expression.place == f"Latency p50, p95, p99, {place}"
        )
        ((_, value),) = prometheus.query(filled(text), now_s)
        latencies = sorted(span["latency_ms"] for span in fleet.spans)
        true = latencies[int(quantile * len(latencies))]
        assert bisect_left(DURATIONS, value) == bisect_left(DURATIONS, true), (quantile, value, true)
    # The heatmap's rows add up to the spans: cumulative, the last is all of them.
    (text,) = (expression.text for expression in of_dashboard() if expression.place == "Latency heatmap, A")
    rows = {float(labels["le"]): value for labels, value in prometheus.query(filled(text), now_s)}
    assert sorted(rows) == [*DURATIONS, float("inf")]
    for bound, value in rows.items():
        true = sum(span["latency_ms"] <= bound for span in fleet.spans)
        assert value == pytest.approx(true, rel=TOLERANCE, abs=3), bound


#: The traffic is slow, bad and faulty, one model has no price, and some messages are no spans.
TROUBLE = {
    "TokentraceLatencyRegression", "TokentraceQualityDrop", "TokentraceErrorRateSpike", "TokentraceUnpricedSpend",
    "TokentraceDeadLetters",
}  # fmt: skip


def active(prometheus: Prometheus) -> set[str]:
    """The alerts that are pending or firing."""
    return {rule["name"] for rule in prometheus.rules() if rule["type"] == "alerting" and rule["state"] != "inactive"}


def rules_see_the_trouble(prometheus: Prometheus) -> None:
    evaluated = {rule["name"]: rule for rule in prometheus.rules()}
    assert evaluated.keys() == {rule.get("record") or rule["alert"] for rule in rules()}
    assert {rule["health"] for rule in evaluated.values()} == {"ok"}
    assert active(prometheus) >= TROUBLE


def wrong_forms_are_wrong(prometheus: Prometheus, now_s: float) -> None:
    refused: list[Expression] = of_queries("wrong")
    assert len(refused) == 3
    for refused_query in refused:
        with pytest.raises(Refused, match="parse error"):
            prometheus.query(refused_query.text, now_s)
    values = [
        {value for _, value in prometheus.query(query.text, now_s) if value == value}
        for query in of_queries("one-or-nothing")
    ]
    assert values == [{1.0}, set()]
