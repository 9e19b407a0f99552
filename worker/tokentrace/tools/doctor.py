"""Doctor: what a deployment needs, looked at one thing after another, each with what to do about it.

The configuration, and what it names, are tried as `tokentrace config check --connect` tries them. Beside that are the
prices and rejects of the newest spans, the clock, the ports, and Prometheus's view of the replicas. It changes nothing.
"""

from __future__ import annotations

import errno
import http.client
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Final, Literal

from tokentrace.alerts.history import from_topic
from tokentrace.config import Config
from tokentrace.config.document import dotted
from tokentrace.config.reading import Reading
from tokentrace.errors import SchemaUnavailable, TokentraceError, UsageError
from tokentrace.kafka.probe import ClusterProbe
from tokentrace.runtime.schema_sources import writer_schemas
from tokentrace.runtime.wiring import kafka_clients
from tokentrace.tools.config_check import every_problem
from tokentrace.tools.config_connect import try_out
from tokentrace.tools.config_warnings import warnings
from tokentrace.tools.http_get import NoAnswer
from tokentrace.tools.prometheus_view import http_date_s, scraped_replicas
from tokentrace.tools.trial import Trial, trial

Level = Literal["ok", "warn", "fail", "skip"]

#: Messages that are counted on trial, of the newest ones.
SAMPLE: Final = 1000
#: Largest difference between clocks that is of no interest, and from which on times of spans are not believed.
CLOCK_WARN_S: Final = 5.0
CLOCK_FAIL_S: Final = 60.0
_SHOWN: Final = 5

#: Key of the configuration, as far as it decides -> what to do where its trial fails.
_TODO: Final = {
    "kafka.bootstrap_servers": "Start the brokers, or correct kafka.bootstrap_servers and the TLS and SASL properties.",
    "kafka.topic": "Create the topic, correct kafka.topic, or give the rights that docs/deploy.md lists.",
    "kafka.dead_letter_topic": "Repair the topic with the command in the sentence, or let a worker create it.",
    "kafka.group_id": "Repair the topics with the commands in the sentence, or give the rights of docs/deploy.md.",
    "schema_registry": "Start the registry, or correct schema_registry.url, its credentials and certificates.",
    "alerts": "Correct the rule, or start what takes its deliveries.",
}


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The result of one look. area: what was looked at. todo: what to do, empty where there is nothing to do."""

    level: Level
    area: str
    what: str
    todo: str = ""


def examine(reading: Reading, prometheus: str, clock: Callable[[], float]) -> Iterator[Diagnosis]:
    """Look at everything, one thing after another. prometheus: its URL, empty for none. clock: gives the Unix time."""
    problems = every_problem(reading)
    for problem in problems:
        yield Diagnosis(
            "fail", dotted(problem.path) or "config", problem.what, f"Correct {_place(problem.line, reading)}."
        )
    if problems:
        yield Diagnosis("skip", "config", "nothing else was looked at, since the configuration has problems")
        return
    yield Diagnosis("ok", "config", f"{reading.path} has no problems")
    for problem in warnings(reading):
        yield Diagnosis("warn", dotted(problem.path), problem.what, f"See {_place(problem.line, reading)}.")
    config = reading.config
    answers = readable = True
    for finding in try_out(config):
        area = dotted(finding.path)
        answers &= finding.good or area != "kafka.bootstrap_servers"
        readable &= finding.good or area not in ("kafka.bootstrap_servers", "kafka.topic")
        todo = "" if finding.good else next((text for key, text in _TODO.items() if area.startswith(key)), "")
        yield Diagnosis("ok" if finding.good else "fail", area, finding.what, todo)
    if readable:
        yield from _sample(config)
    elif answers:
        # A read would wait a minute for a topic that may be about to be there.
        yield Diagnosis("skip", "spans", "not looked at, since the topic cannot be read")
    yield from _clock(config, prometheus, clock)
    yield from _port(config)
    yield from _replicas(config, prometheus, answers)


def _place(line: int | None, reading: Reading) -> str:
    return f"{reading.path}" + ("" if line is None else f", line {line}")


def _sample(config: Config) -> Iterator[Diagnosis]:
    """Count the newest messages on trial, for what is rejected, corrected and without a price."""
    kafka = config.kafka
    count = trial(config, writer_schemas(config))
    try:
        for batch in from_topic(kafka_clients(config), kafka.topic, kafka.group_id, SAMPLE):
            count.pipeline.count(batch, count.delta)
    except (TokentraceError, SchemaUnavailable) as error:
        yield Diagnosis("warn", "spans", f"the newest messages cannot be read: {str(error).rstrip('.')}", "See above.")
        return
    delta = count.delta
    polled, counted = delta.polled.total(), delta.counted.total()
    if not polled:
        yield Diagnosis(
            "warn", "spans", f"{kafka.topic} has no messages", "Publish some: tokentrace produce --count 10."
        )
        return
    yield Diagnosis("ok" if counted else "warn", "spans", f"{counted:,} of the newest {polled:,} messages are counted")
    found: Counter[str] = Counter()
    for finding in count.findings:
        found[finding.kind] += finding.count
    last = {finding.kind: finding for finding in count.findings}
    for kind, number in found.most_common():
        example = last[kind]
        place = f"{example.topic}/{example.partition}@{example.offset}"
        yield Diagnosis(
            "warn", "spans", f"{number:,} {kind}, such as {place}: {example.why.rstrip('.')}", example.advice
        )
    yield from _prices(count)


def _prices(count: Trial) -> Iterator[Diagnosis]:
    """count: of the newest spans."""
    start = count.layout.fields["unpriced"].start
    unpriced: Counter[str] = Counter()
    for _, cell, row in zip(*(column.tolist() for column in count.delta.by_minute()[:3]), strict=True):
        if row[start]:
            group = count.groups.groups[int(count.groups.cell_group[cell])]
            unpriced[f"{group.model} of {group.provider}" if group.provider else group.model] += row[start]
    if not unpriced:
        yield Diagnosis("ok", "prices", "each of these spans has a cost or a price")
        return
    names = ", ".join(f"{name} ({spans:,})" for name, spans in unpriced.most_common(_SHOWN))
    more = f" and {len(unpriced) - _SHOWN} more" if len(unpriced) > _SHOWN else ""
    what = f"spans without a price, which cost 0: {names}{more}"
    yield Diagnosis("warn", "prices", what, "Set pricing.models; `tokentrace price MODEL` tries it.")


def _clock(config: Config, prometheus: str, clock: Callable[[], float]) -> Iterator[Diagnosis]:
    """Compare the clock with those of the servers that tell theirs: HTTP has it in each answer."""
    asked = [url for url in (prometheus, config.schema_registry.url) if url]
    compared = [(url, apart_s) for url in asked if (apart_s := _ahead_s(url, clock)) is not None]
    if not compared:
        yield Diagnosis("skip", "clock", "no server tells its time; give --prometheus, or set schema_registry.url")
        return
    url, apart_s = max(compared, key=lambda pair: abs(pair[1]))
    host = url.split("://", 1)[-1].rsplit("@", 1)[-1].split("/", 1)[0]
    what = f"{abs(apart_s):.0f} s {'ahead of' if apart_s > 0 else 'behind'} that of {host}"
    if abs(apart_s) < CLOCK_WARN_S:
        yield Diagnosis("ok", "clock", f"agrees with that of {host}")
    else:
        level: Level = "warn" if abs(apart_s) < CLOCK_FAIL_S else "fail"
        yield Diagnosis(level, "clock", what, "Set both by NTP: times of spans are compared with this clock.")


def _ahead_s(url: str, clock: Callable[[], float]) -> float | None:
    """Return by how much this clock is at least ahead of a server's (negative: behind); None without an answer."""
    before_s = clock()
    there_s = http_date_s(url)
    return None if there_s is None else max(before_s - there_s, 0.0) - max(there_s - clock(), 0.0)


def _port(config: Config) -> Iterator[Diagnosis]:
    server = config.http_server
    if not server.enabled:
        yield Diagnosis("warn", "http_server", "is off, so nothing can be scraped", "Set http_server.enabled to true.")
        return
    host, port = server.addr.host, server.addr.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_STREAM)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            yield _taken(config, error)
            return
    yield Diagnosis("ok", "http_server.addr", f"{server.addr} is free on this machine")


def _taken(config: Config, error: OSError) -> Diagnosis:
    server = config.http_server
    if error.errno != errno.EADDRINUSE:
        what = f"{server.addr} cannot be used ({error.strerror})"
        return Diagnosis("fail", "http_server.addr", what, "Correct http_server.addr; ports below 1024 need a right.")
    connection = (http.client.HTTPConnection if server.tls is None else http.client.HTTPSConnection)(
        server.addr.host if server.addr.host not in ("", "0.0.0.0", "::") else "127.0.0.1", server.addr.port, timeout=3
    )
    try:
        connection.request("GET", server.health_path)
        if b"ready" in connection.getresponse().read(10_000):
            return Diagnosis("ok", "http_server.addr", f"a worker answers at {server.addr}")
    except (OSError, http.client.HTTPException):
        pass
    finally:
        connection.close()
    what = f"{server.addr} is taken by another program"
    return Diagnosis("fail", "http_server.addr", what, "End that program, or set http_server.addr to a free port.")


def _replicas(config: Config, prometheus: str, answers: bool) -> Iterator[Diagnosis]:
    """Compare the replicas that Prometheus scrapes with the members of the consumer group."""
    if not prometheus:
        yield Diagnosis("skip", "prometheus", "not looked at; give --prometheus URL")
        return
    try:
        scraped = scraped_replicas(prometheus)
    except (NoAnswer, UsageError) as error:
        what = f"{prometheus} does not answer a query ({error})"
        yield Diagnosis("fail", "prometheus", what, "Correct --prometheus: the address of its own page.")
        return
    if scraped:
        yield Diagnosis("ok", "prometheus", f"scrapes {len(scraped)} replica{'s' * (len(scraped) != 1)}")
    else:
        todo = "Look at its page /targets; docs/deploy.md has the scrape configuration."
        yield Diagnosis("fail", "prometheus", "scrapes no replica", todo)
    waiting = sorted(name for name, replica in scraped.items() if not replica.ready)
    if waiting:
        yield Diagnosis(
            "warn", "prometheus", f"not ready: {', '.join(waiting)}", "Ask each: GET /health/ready says why."
        )
    versions = sorted({replica.version for replica in scraped.values()})
    if len(versions) > 1:
        yield Diagnosis("warn", "prometheus", f"replicas run versions {', '.join(versions)}", "Finish the rollout.")
    if not answers:
        return
    with closing(ClusterProbe(kafka_clients(config), config.kafka.group_id)) as probe:
        members = probe.members()
    if members is None:
        yield Diagnosis("skip", "replicas", "not compared with the group, which may not be described")
        return
    unseen = sorted(members - scraped.keys())
    if not members:
        what = f"the group {config.kafka.group_id} has no members"
        yield Diagnosis("warn", "replicas", what, "Start a worker: tokentrace worker.")
    elif unseen:
        what = f"in the group, and not scraped: {', '.join(islice(unseen, _SHOWN))}"
        yield Diagnosis("fail", "replicas", what, "Their counts are missing in every query: see the page /targets.")
    else:
        yield Diagnosis("ok", "replicas", f"each of the {len(members)} members of the group is scraped")
