"""Fixtures: one real Kafka for the session, workers as processes of their own, and nothing left behind."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

import psycopg
import pytest
from hypothesis import HealthCheck, settings

from tests.services import Unavailable
from tests.services.kafka import KafkaBroker
from tests.services.postgresql import PostgreSql
from tests.services.prometheus import Prometheus, Target
from tests.services.registry import SchemaRegistry
from tests.services.victoriametrics import VictoriaMetrics
from tests.services.workers import PROGRAM, WorkerProcess, write_config

P = TypeVar("P", bound=Prometheus)

settings.register_profile(
    "default", max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.register_profile("dev", settings.get_profile("default"), max_examples=15)
settings.register_profile("nightly", settings.get_profile("default"), max_examples=20_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(autouse=True)
def _signal_mask() -> Iterator[None]:
    """Fail a test that leaves signals blocked: every process that later tests start would be deaf to them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    after = signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert after == before, f"signals left blocked: {sorted(after - before)}"


@pytest.fixture(autouse=True)
def _log_level() -> Iterator[None]:
    """Undo what a command that ran in this process has set up: later tests would not see what is logged."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    for handler in set(root.handlers) - set(handlers):
        root.removeHandler(handler)


#: Modules that one process runs, for the sake of a fixture that takes long to make.
TOGETHER = (
    "tests/deploy/test_image.py", "tests/integration/test_live_page.py", "tests/integration/test_rights.py",
    "tests/integration/test_servers.py",
)  # fmt: skip


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadgroup`, hand out single tests, and the modules of TOGETHER as one.

    The `xdist_group` mark is of no use: pytest 9.2 keeps the node id that xdist 3.8 would mark with the group.
    """
    if config.getoption("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            module = nodeid.partition("::")[0]
            return module if module in TOGETHER else nodeid

    return Scheduling(config, log)


#: Shortest time-out of a test on a real service, in seconds. It finds what hangs, on a machine that is slow and shared.
REAL_TIMEOUT_S = 900


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what reaches a real service, and start what takes longest first, so that processes end together."""
    for item in items:
        if "real_service" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.real)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(REAL_TIMEOUT_S))
    items.sort(key=lambda item: [item.get_closest_marker(name) is None for name in ("long", "real")])


def unavailable(reason: str) -> NoReturn:
    """Skip, or fail where the real services are required."""
    if os.environ.get("TOKENTRACE_REQUIRE_REAL") == "1":
        pytest.fail(f"TOKENTRACE_REQUIRE_REAL=1, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def real_service() -> None:
    """Marks every test that reaches it, directly or through another fixture, as `real`."""


class _Server(Protocol):
    def start(self) -> None: ...


S = TypeVar("S", bound=_Server)


def _running(make: Callable[[], S], end: Callable[[S], None]) -> Iterator[S | str]:
    """Yield a server that runs, or the reason why it cannot."""
    try:
        server = make()
    except Unavailable as error:
        yield str(error)
        return
    server.start()
    yield server
    end(server)


@pytest.fixture(scope="session")
def _kafka_or_reason(real_service: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker | str]:
    yield from _running(lambda: KafkaBroker(tmp_path_factory.mktemp("kafka")), KafkaBroker.stop)


@pytest.fixture
def kafka(_kafka_or_reason: KafkaBroker | str) -> KafkaBroker:
    """A real Apache Kafka, shared by the session."""
    if isinstance(_kafka_or_reason, str):
        unavailable(_kafka_or_reason)
    return _kafka_or_reason


@pytest.fixture
def own_kafka(real_service: None, tmp_path: Path) -> Iterator[KafkaBroker]:
    """A real Apache Kafka for one test, to be stopped and killed."""
    try:
        broker = KafkaBroker(tmp_path / "own-kafka")
    except Unavailable as error:
        unavailable(str(error))
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def topic(kafka: KafkaBroker) -> str:
    """A new topic with four partitions."""
    return kafka.create_topic(f"spans-{uuid.uuid4().hex[:8]}", 4)


@pytest.fixture(scope="session")
def _registry_or_reason(real_service: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SchemaRegistry | str]:
    yield from _running(lambda: SchemaRegistry(tmp_path_factory.mktemp("registry")), SchemaRegistry.stop)


@pytest.fixture
def registry(_registry_or_reason: SchemaRegistry | str) -> SchemaRegistry:
    """A real schema registry, shared by the session."""
    if isinstance(_registry_or_reason, str):
        unavailable(_registry_or_reason)
    return _registry_or_reason


@pytest.fixture(scope="session")
def _postgresql_or_reason(real_service: None) -> Iterator[PostgreSql | str]:
    yield from _running(PostgreSql, PostgreSql.close)


@pytest.fixture
def postgresql(_postgresql_or_reason: PostgreSql | str) -> PostgreSql:
    """A real PostgreSQL with an empty database."""
    if isinstance(_postgresql_or_reason, str):
        unavailable(_postgresql_or_reason)
    with psycopg.connect(_postgresql_or_reason.url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return _postgresql_or_reason


def _starting(kind: type[P], folder: Path) -> Iterator[Callable[..., P]]:
    """Yield what starts servers of a kind in folders of their own, and stop them afterwards."""
    started: list[P] = []
    number = itertools.count()

    def start(targets: Iterable[str | Target] | dict[str, str], rules: Sequence[Path] = (), **intervals: int) -> P:
        try:
            server = kind(folder / f"{Path(kind.program).name}{next(number)}", targets, rules=rules, **intervals)
        except Unavailable as error:
            unavailable(str(error))
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def start_prometheus(real_service: None, tmp_path: Path) -> Iterator[Callable[..., Prometheus]]:
    """Starts a real Prometheus that scrapes these targets, with these rules and intervals in seconds."""
    yield from _starting(Prometheus, tmp_path)


@pytest.fixture
def start_victoriametrics(real_service: None, tmp_path: Path) -> Iterator[Callable[..., VictoriaMetrics]]:
    """Starts a real VictoriaMetrics that scrapes these targets every second."""
    yield from _starting(VictoriaMetrics, tmp_path)


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """Starts `tokentrace worker` with a configuration given as sections; see `write_config`.

    program: arguments of Python, as in `WorkerProcess`.
    """
    started: list[WorkerProcess] = []

    def start(wait: bool = True, program: Sequence[str] = PROGRAM, **sections: object) -> WorkerProcess:
        config = write_config(tmp_path / f"worker{len(started)}.yml", sections, f"replica-{len(started)}")
        worker = WorkerProcess(config, tmp_path / f"worker{len(started)}.log", program)
        started.append(worker)
        if wait:
            worker.wait_until_ready()
        return worker

    yield start
    for worker in started:
        worker.end()
