"""Trial of a configuration: the brokers, topics, rights, registry and webhooks that it names. It changes nothing."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from tokentrace.config import Config
from tokentrace.config.document import KeyPath
from tokentrace.errors import ConfigError, FatalError, SchemaError, SchemaUnavailable, TokentraceError
from tokentrace.kafka.probe import ClusterProbe
from tokentrace.kafka.topics import READ, Topics
from tokentrace.model.secrets import hide_secrets, public_url
from tokentrace.runtime.schema_sources import registry
from tokentrace.runtime.topic_setup import check_windows, topic_specs
from tokentrace.runtime.wiring import kafka_clients

WEBHOOK_TIMEOUT_S: Final = 10.0
#: Schema id that no registry has given out.
_UNUSED_ID: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one trial. path: the key that it concerns."""

    path: KeyPath
    what: str
    good: bool = True


def try_out(config: Config) -> Iterator[Finding]:
    """Try everything that a configuration without problems names, one finding after another."""
    yield from _kafka(config)
    yield from _registry(config)
    yield from _webhooks(config)


def _kafka(config: Config) -> Iterator[Finding]:
    kafka, clients = config.kafka, kafka_clients(config)
    with closing(ClusterProbe(clients, kafka.group_id)) as probe:
        try:
            brokers = probe.brokers()
            yield Finding(
                ("kafka", "bootstrap_servers"), f"{brokers} broker{'s' * (brokers != 1)} answer{'s' * (brokers == 1)}"
            )
        except TokentraceError as error:
            yield Finding(("kafka", "bootstrap_servers"), _sentence(error), good=False)
            return
        try:
            partitions = probe.partitions(kafka.topic)
        except TokentraceError as error:
            yield Finding(("kafka", "topic"), _sentence(error), good=False)
            return
        if not partitions:
            what = f"topic {kafka.topic!r} does not exist; create it or correct the name"
            yield Finding(("kafka", "topic"), what, good=False)
            return
        yield Finding(("kafka", "topic"), f"{kafka.topic} has {partitions} partition{'s' * (partitions != 1)}")
        if probe.may_join_group() is False:
            yield Finding(("kafka", "group_id"), f"Read on group {kafka.group_id} is missing in the ACLs", good=False)
        try:
            yield from _topics(config, probe, Topics(clients))
        except TokentraceError as error:
            yield Finding(("kafka", "topic"), _sentence(error), good=False)


def _topics(config: Config, probe: ClusterProbe, topics: Topics) -> Iterator[Finding]:
    kafka = config.kafka
    specs = topic_specs(config, topics)
    missing, wrong = topics.look(specs)
    paths: dict[str, KeyPath] = {kafka.dead_letters: ("kafka", "dead_letter_topic")}
    group: KeyPath = ("kafka", "group_id")
    for name, what in wrong.items():
        yield Finding(paths.get(name, group), what, good=False)
    if missing:
        may = probe.may_create_topics()
        names = ", ".join(missing)
        if may is False:
            what = f"the topics {names} do not exist, and Create on the cluster is missing in the ACLs"
            yield Finding(group, what, good=False)
        else:
            condition = "" if may else ", where the ACLs allow Create"
            yield Finding(group, f"a worker creates the topics {names}{condition}")
    there = [spec for spec in specs if spec.name not in missing]
    try:
        topics.check_rights({kafka.topic: READ, **{spec.name: spec.operations for spec in there}})
        yield Finding(("kafka", "topic"), "the ACLs allow what a worker does with the topics")
    except FatalError as error:
        yield Finding(("kafka", "topic"), _sentence(error), good=False)
    if config.alerts and kafka.rollups_topic not in missing:
        try:
            check_windows(config, topics.retention_s(kafka.rollups_topic))
        except ConfigError as error:
            for problem in error.problems:
                index, _, what = problem.removeprefix("alerts[").partition("].window: ")
                yield Finding(("alerts", int(index), "window"), what, good=False)


def _registry(config: Config) -> Iterator[Finding]:
    path: KeyPath = ("schema_registry", "url")
    found = registry(config)
    if found is None:
        return
    try:
        found.get(_UNUSED_ID)
    except SchemaUnavailable as error:
        yield Finding(path, _sentence(error), good=False)
        return
    except SchemaError:
        pass
    yield Finding(path, f"the registry at {public_url(config.schema_registry.url)} answers")


def _webhooks(config: Config) -> Iterator[Finding]:
    deliveries = [("alerts", index, rule.delivery) for index, rule in enumerate(config.alerts)]
    deliveries += [("budgets", index, budget.delivery) for index, budget in enumerate(config.budgets)]
    for section, index, delivery in deliveries:
        if delivery.url is None:
            continue
        path: KeyPath = (section, index, "delivery", "url")
        url, shown = urlsplit(delivery.url), public_url(delivery.url)
        connection = (
            http.client.HTTPSConnection(url.hostname or "", url.port, timeout=WEBHOOK_TIMEOUT_S)
            if url.scheme == "https"
            else http.client.HTTPConnection(url.hostname or "", url.port, timeout=WEBHOOK_TIMEOUT_S)
        )
        try:
            # A connection alone: any request could be taken for an alert.
            connection.connect()
            yield Finding(path, f"the webhook at {shown} takes connections; nothing was sent")
        except (OSError, ssl.SSLError) as error:
            reason = hide_secrets(error.strerror or str(error))
            yield Finding(path, f"no connection to the webhook at {shown} ({reason})", good=False)
        finally:
            connection.close()


def _sentence(error: Exception) -> str:
    return hide_secrets(str(error)).rstrip(".")
