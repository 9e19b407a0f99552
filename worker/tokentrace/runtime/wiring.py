"""Wiring: from the configuration to the parts of a worker."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tokentrace.aggregate.dedup import Deduplicator, NullDeduplicator
from tokentrace.aggregate.groups import GroupIndex
from tokentrace.alerts.evaluator import EvaluatorSettings
from tokentrace.commit import Committer
from tokentrace.commit.at_least_once import AtLeastOnce
from tokentrace.commit.exactly_once import ExactlyOnce, ExactlyOnceSettings
from tokentrace.config import Config
from tokentrace.decode.resolve import resolve
from tokentrace.decode.schemas.store import Registry, RegistrySettings, WriterSchemas, load_folder, load_schema
from tokentrace.errors import ConfigError, SchemaError
from tokentrace.exposition import (
    HttpSettings,
)
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.membership import SourceSettings
from tokentrace.kafka.source import KafkaSource
from tokentrace.model.measures import Layout
from tokentrace.pricing import Pricer, Rates


def kafka_clients(config: Config) -> KafkaClients:
    """The factory of every Kafka client of this process."""
    kafka = config.kafka
    return KafkaClients(
        bootstrap_servers=kafka.bootstrap_servers, client_id=config.worker.replica_id, properties=kafka.properties
    )


def committer(config: Config, source: KafkaSource, groups: GroupIndex, layout: Layout) -> Committer:
    """The commit of the configured guarantee."""
    kafka, clients = config.kafka, kafka_clients(config)
    if config.worker.guarantee == "at_least_once":
        return AtLeastOnce(clients, source, kafka.dead_letters)
    settings = ExactlyOnceSettings(
        group_id=kafka.group_id,
        replica=config.worker.replica_id,
        source_topic=kafka.topic,
        dead_letter_topic=kafka.dead_letters,
        state_topic=kafka.state_topic,
        rollups_topic=kafka.rollups_topic,
        ids_topic=kafka.ids_topic if config.worker.deduplicate is not None else "",
    )
    return ExactlyOnce(settings, clients=clients, source=source, groups=groups, layout=layout)


def deduplicator(config: Config) -> Deduplicator:
    """The memory of counted spans, where spans that are published again are looked for."""
    section = config.worker.deduplicate
    if section is None:
        return NullDeduplicator()
    # `by` has one value so far.
    return {"span_id": Deduplicator}[section.by](section.window, section.max_ids)


def evaluator_settings(config: Config) -> EvaluatorSettings:
    kafka, section = config.kafka, config.worker
    return EvaluatorSettings(
        group_id=kafka.group_id,
        replica=section.replica_id,
        rollups_topic=kafka.rollups_topic,
        alerts_topic=kafka.alerts_topic,
        session_timeout_s=section.session_timeout,
    )


def source_settings(config: Config) -> SourceSettings:
    kafka, section = config.kafka, config.worker
    return SourceSettings(
        topic=kafka.topic,
        group_id=kafka.group_id,
        member_id=section.replica_id,
        start=kafka.start,
        protocol=kafka.group_protocol,
        session_timeout_s=section.session_timeout,
    )


def http_settings(config: Config) -> HttpSettings:
    http = config.http_server
    return HttpSettings(
        host=http.addr.host,
        port=http.addr.port,
        prometheus_path=http.prometheus_path,
        health_path=http.health_path,
        auth_token=http.auth_token.get_secret_value() if http.auth_token is not None else None,
        certificate=http.tls.certificate if http.tls is not None else None,
        key=http.tls.key if http.tls is not None else None,
        keep_alive_s=http.keep_alive_timeout,
    )


def writer_schemas(config: Config) -> WriterSchemas:
    """Raises ConfigError for a schema file that cannot be read."""
    files: dict[bytes, Any] = {}
    for index, folder in enumerate(config.schemas.paths):
        files |= load_folder(folder, f"schemas.paths[{index}]")
    raw = load_schema(config.schemas.raw, "schemas.raw") if config.schemas.raw is not None else None
    if raw is not None:
        try:
            resolve(raw)
        except SchemaError as error:
            raise ConfigError([f"schemas.raw: {error}"]) from error
    registry = None
    section = config.schema_registry
    if section.url:
        auth, tls = section.auth, section.tls
        credentials = token = None
        if auth is not None and auth.password is not None:
            credentials = f"{auth.username}:{auth.password.get_secret_value()}"
        if auth is not None and auth.bearer_token is not None:
            token = auth.bearer_token.get_secret_value()
        files_ = {name: str(path) for name in ("ca", "certificate", "key") if (path := getattr(tls, name)) is not None}
        registry = Registry(RegistrySettings(section.url, credentials, token, timeout_s=section.timeout, **files_))
    return WriterSchemas(files, raw, registry)


def pricer(config: Config, clock: Callable[[], float] = time.time) -> Pricer:
    rates = {
        pattern: Rates(each.prompt_per_1m, each.completion_per_1m, each.cached_prompt_per_1m)
        for pattern, each in config.pricing.models.items()
    }
    return Pricer(rates, config.pricing.builtin, clock)
