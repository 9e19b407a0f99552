"""Settings: what the configuration says to the single parts of a replica. Nothing here connects or starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from tokentrace.aggregate.series_budget import SeriesBudget
from tokentrace.aggregate.validate import Limits
from tokentrace.config import Config
from tokentrace.exposition import HttpSettings, TlsSettings, Token, Tokens
from tokentrace.kafka.membership import SourceSettings
from tokentrace.model.dimensions import Dimension
from tokentrace.model.measures import Layout
from tokentrace.runtime.memory import detected_limit, fetch_properties, memory_shares
from tokentrace.runtime.worker import LoopSettings

#: With alerts or budgets, the longest time without a commit while nothing is published, so that event time advances.
HEARTBEAT_S: Final = 5.0


def dimensions_of(config: Config) -> tuple[Dimension, ...]:
    """The configured dimensions."""
    return tuple(
        Dimension(
            name=name,
            source=section.source,
            default=section.default,
            limit=section.limit,
            max_length=section.max_length,
            mapping=tuple(section.map.items()),
            values=None if section.values is None else frozenset(section.values),
            other=section.other,
            hash_key=b"" if section.hash_key is None else section.hash_key.get_secret_value().encode(),
        )
        for name, section in config.dimensions.items()
    )


def layout_of(config: Config) -> Layout:
    """The columns of a cell, with the configured buckets."""
    buckets = config.metrics.buckets
    return Layout.build({name: getattr(buckets, name) for name in type(buckets).model_fields})


def series_budget(config: Config, layout: Layout) -> SeriesBudget:
    """The limits of what the groups come to in the exposition, of which a scrape takes several times the bytes."""
    metrics = config.metrics
    return SeriesBudget(
        max_series=metrics.max_series,
        max_bytes=exposition_limit(config),
        layout=layout,
        labels=metrics.labels,
    )


def exposition_limit(config: Config) -> int:
    """Return the most bytes of a scrape of the groups: as configured, but no more than the memory's share."""
    return min(config.metrics.max_exposition_bytes, memory_shares(memory_limit(config)).exposition_bytes)


def memory_limit(config: Config) -> int:
    """The bytes that this process may use."""
    return config.worker.memory_limit or detected_limit()


def loop_settings(config: Config) -> LoopSettings:
    """The pace of the worker's loop."""
    section, shares = config.worker, memory_shares(memory_limit(config))
    return LoopSettings(
        commit_interval_s=section.commit_interval,
        batch_size=section.batch_size,
        batch_wait_s=section.batch_wait,
        heartbeat_s=HEARTBEAT_S if config.evaluates else None,
        batch_bytes=shares.batch_bytes,
        dead_letter_bytes=shares.dead_letter_bytes,
    )


def span_limits(config: Config) -> Limits:
    """Return the configured limits of one span."""
    limits = config.limits
    return Limits(limits.max_cost_usd, limits.max_tokens, limits.max_latency * 1000)


def source_settings(config: Config) -> SourceSettings:
    kafka, section = config.kafka, config.worker
    return SourceSettings(
        topic=kafka.topic,
        group_id=kafka.group_id,
        member_id=section.replica_id,
        start=kafka.start,
        protocol=kafka.group_protocol,
        session_timeout_s=section.session_timeout,
        leave_on_stop=leaves_on_stop(config),
        fetch=fetch_properties(memory_limit(config), config.kafka.properties),
    )


def leaves_on_stop(config: Config) -> bool:
    """Return whether a stop of this replica leaves the group: as it is set, or as one that will be scaled away."""
    section = config.worker
    if section.min_replicas is None or section.ordinal is None:
        return section.leave_on_stop
    return section.leave_on_stop or section.ordinal >= section.min_replicas


def http_settings(config: Config) -> HttpSettings:
    http = config.http_server
    return HttpSettings(
        host=http.addr.host,
        port=http.addr.port,
        prometheus_path=http.prometheus_path,
        health_path=http.health_path,
        tokens=Tokens(_token(http.auth_token, http.auth_token_file), _token(http.admin_token, http.admin_token_file)),
        tls=None
        if http.tls is None
        else TlsSettings(http.tls.certificate, http.tls.key, http.tls.min_version, http.tls.client_ca),
        keep_alive_s=http.keep_alive_timeout,
        pages_bytes=memory_shares(memory_limit(config)).pages_bytes,
    )


def _token(secret: Any, path: Path | None) -> Token | None:
    """secret: a SecretStr, or None."""
    if secret is None and path is None:
        return None
    return Token("" if secret is None else secret.get_secret_value(), path)
