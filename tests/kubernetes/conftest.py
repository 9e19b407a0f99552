"""Fixtures: one control plane with three nodes for the session, and a fleet of workers in it for a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import unavailable
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.fleet import Fleet
from tests.services import Unavailable
from tests.services.kafka import KafkaBroker


@pytest.fixture(scope="session")
def _cluster_or_reason(real_service: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster | str]:
    try:
        cluster = Cluster(tmp_path_factory.mktemp("kubernetes"))
    except Unavailable as error:
        yield str(error)
        return
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def cluster(_cluster_or_reason: Cluster | str) -> Cluster:
    """A real control plane with three nodes in three zones, shared by the session."""
    if isinstance(_cluster_or_reason, str):
        unavailable(_cluster_or_reason)
    return _cluster_or_reason


@pytest.fixture
def start_fleet(cluster: Cluster, kafka: KafkaBroker, tmp_path: Path) -> Iterator[Callable[..., Fleet]]:
    """Starts three workers under traffic; kind is how they are installed."""
    fleets: list[Fleet] = []

    def start(kind: type[Fleet] = Fleet) -> Fleet:
        fleets.append(kind(cluster, kafka, tmp_path))
        fleets[-1].start()
        return fleets[-1]

    yield start
    for fleet in fleets:
        fleet.stop()
