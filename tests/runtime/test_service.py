"""The service: what it does before counting begins, where brokers or rights are missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tokentrace.config import Config
from tokentrace.errors import ClientFailed, FatalError, Unreachable
from tokentrace.runtime import recovery
from tokentrace.runtime import service as module
from tokentrace.runtime.service import Service


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Service]:
    """Return a function that runs a service whose topics answer with these errors, and are set up then."""

    def start(*errors: Exception) -> Service:
        monkeypatch.setattr(recovery, "FIRST_S", 0.0)
        config: dict[str, Any] = {"kafka": {"bootstrap_servers": "x:1", "topic": "spans"}}
        service = Service(Config.model_validate({**config, "http_server": {"enabled": False}}))
        answers = list(errors)

        def set_up(*_: object) -> None:
            if answers:
                raise answers.pop(0)
            assert service._health().live, "a long outage does not restart it"

        monkeypatch.setattr(module, "set_up_topics", set_up)
        monkeypatch.setattr(service._replica.source, "connect", lambda: True)
        monkeypatch.setattr(service._replica.dead_letters, "read_limit", lambda: shown.append(waiting_for(service)))
        monkeypatch.setattr(service, "_count", lambda: shown.append("counting: " + waiting_for(service)))
        service.run()
        return service

    shown: list[str] = []
    start.shown = shown  # type: ignore[attr-defined]
    return start


def waiting_for(service: Service) -> str:
    """Return what the readiness says."""
    return str(service._health().detail["waiting_for"])


def test_service_that_meets_an_outage_sets_its_topics_up_again_and_says_why(started: Any) -> None:
    started(ClientFailed("Topic 'spans' has no partitions."), Unreachable("No Kafka broker answers at x:1."))
    assert started.shown == ["No Kafka broker answers at x:1.", "counting: starting"]


def test_service_ends_at_once_when_its_topics_are_refused(started: Any) -> None:
    with pytest.raises(FatalError, match="Missing Kafka ACLs"):
        started(FatalError("Missing Kafka ACLs: Write on dead."))
    assert started.shown == []


@pytest.mark.parametrize(("limit_mib", "lines"), [(256, 1), (1024, 0)])
def test_service_says_where_memory_lowers_the_limit_of_a_scrape(
    caplog: pytest.LogCaptureFixture, limit_mib: int, lines: int
) -> None:
    sections = {
        "kafka": {"bootstrap_servers": "x:1", "topic": "spans"},
        "worker": {"memory_limit": limit_mib << 20},
        "http_server": {"addr": "127.0.0.1:0"},
    }
    service = Service(Config.model_validate(sections))
    service.stop(drain=False)
    with caplog.at_level("INFO"):
        service.run()
    assert caplog.text.count("16777216 bytes at most, not the 64000000 of metrics.max_exposition_bytes") == lines
