"""Memory of messages on their way: what the limit is, and what follows from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer

from tests.harness import LAYOUT, raw_batch
from tokentrace.config.models import Config
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.membership import SourceSettings
from tokentrace.kafka.source import KafkaSource
from tokentrace.runtime import memory
from tokentrace.runtime.batch_size import BatchSize
from tokentrace.runtime.memory import detected_limit, fetch_properties, memory_shares, shown_shares
from tokentrace.runtime.settings import http_settings, series_budget

MIB = 1 << 20
V2, V1 = "sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (V2, "536870912\n", 512 * MIB),
        (V1, "268435456\n", 256 * MIB),
        (V2, "max\n", None),
        (V1, "9223372036854771712\n", None),
        (V2, "", None),
        ("other", "1", None),
    ],
)
def test_the_limit_is_the_cgroups_or_half_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, expected: int | None
) -> None:
    monkeypatch.setattr(memory.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1 << 20}.__getitem__)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
    assert detected_limit(tmp_path) == (expected or 2048 * MIB)


@pytest.mark.parametrize("limit", [256 * MIB, 1024 * MIB, 64 * 1024 * MIB])
def test_librdkafka_takes_what_is_derived(limit: int) -> None:
    derived = fetch_properties(limit)
    Consumer({"group.id": "g", "bootstrap.servers": "127.0.0.1:1", **derived}).close()
    assert derived["queued.max.messages.kbytes"] * 1024 <= limit // 16
    assert sum(memory_shares(limit)) <= 4 * (limit // 16)


@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"queued.max.messages.kbytes": 2048},
        {"message.max.bytes": 10_000_000},
        {"fetch.max.bytes": "70000"},
        {"fetch.max.bytes": 50_000_000, "message.max.bytes": 2_000_000},
        {"fetch.message.max.bytes": 100_000},
    ],
)
@pytest.mark.parametrize("limit", [64 * MIB, 1024 * MIB])
def test_a_configured_property_of_fetching_wins(chosen: dict[str, Any], limit: int) -> None:
    made: list[dict[str, Any]] = []

    def consumer(config: dict[str, Any], **_: object) -> None:
        made.append(config)
        Consumer(config).close()

    clients = KafkaClients(bootstrap_servers="127.0.0.1:1", properties=chosen, consumer_type=consumer)  # type: ignore[arg-type]
    fetch = fetch_properties(limit, chosen)
    KafkaSource(SourceSettings(topic="t", group_id="g", member_id="r", fetch=fetch), clients)
    assert made[0].items() >= chosen.items()
    shown = shown_shares(limit, chosen)
    assert shown["answer"] == int(made[0]["fetch.max.bytes"])
    assert shown["queue"] == int(made[0]["queued.max.messages.kbytes"]) * 1024


def test_an_answer_of_a_broker_is_bounded_as_it_is_sent() -> None:
    assert fetch_properties(512 * MIB)["fetch.max.bytes"] == MIB // 2
    assert fetch_properties(16 * MIB)["fetch.max.bytes"] == 65_536
    # librdkafka's own bounds where there is memory enough.
    much = fetch_properties(128 * 1024 * MIB)
    assert (much["fetch.max.bytes"], much["max.partition.fetch.bytes"]) == (50 * MIB, MIB)


def test_a_poll_is_small_at_first_and_grows_by_steps() -> None:
    size = BatchSize(10_000, 64 * MIB)
    seen = []
    for _ in range(6):
        seen.append(size.messages)
        size.observe(size.messages, size.messages * 185)
    assert seen == [32, 128, 512, 2048, 8192, 10_000]


def test_a_poll_shrinks_at_once_and_is_not_misled_by_a_few_small_messages() -> None:
    size = BatchSize(10_000, 64 * MIB)
    for _ in range(6):
        size.observe(size.messages, size.messages * 185)
    size.observe(100, 100 * 880_000)
    assert size.messages == 64 * MIB // 880_000
    size.observe(1, 100)
    assert size.messages == 64 * MIB // 440_000
    size.observe(1, 200 * MIB)
    assert size.messages == 1


def test_the_size_of_a_batch_leaves_tombstones_out() -> None:
    assert raw_batch([b"abc", None, b"", b"de"]).size == 5
    assert raw_batch([b"abc", b"de"]).size == 5


@pytest.mark.parametrize(("limit", "expected"), [(256 * MIB, 16 * MIB), (1024 * MIB, 64_000_000)])
def test_the_limit_of_a_scrape_follows_from_a_small_memory(limit: int, expected: int) -> None:
    config = Config.model_validate({"worker": {"memory_limit": limit}})
    assert series_budget(config, LAYOUT).max_bytes == expected


@pytest.mark.parametrize(("limit", "expected"), [(256 * MIB, 16 * MIB), (16 * 1024 * MIB, 64 * MIB)])
def test_the_pages_in_flight_follow_the_memory(limit: int, expected: int) -> None:
    config = Config.model_validate({"worker": {"memory_limit": limit}})
    assert http_settings(config).pages_bytes == expected
    assert shown_shares(limit)["pages"] == expected
