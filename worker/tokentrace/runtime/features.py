"""Features: the parts of a replica that a configuration may leave out, or that nobody may look at.

Their modules are imported where they are made, so that a worker loads what it uses. `tests/runtime/test_features.py`
holds what a worker with the default configuration does without.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tokentrace.config import Config
from tokentrace.exposition.ui.on_demand import PageOnDemand
from tokentrace.kafka.clients import KafkaClients
from tokentrace.model.measures import Layout
from tokentrace.runtime.worker import Worker

if TYPE_CHECKING:
    from tokentrace.alerts.evaluator import Evaluator
    from tokentrace.alerts.status import AlertStatus
    from tokentrace.exposition.ui.page import LivePage
    from tokentrace.ledger.in_worker import LedgerThread


def alerting(
    config: Config, clients: KafkaClients, layout: Layout, clock: Callable[[], float]
) -> tuple[Evaluator, AlertStatus] | tuple[None, None]:
    """The evaluator and the answers to GET /alerts; None without alert rules and budgets."""
    if not config.evaluates:
        return None, None
    from tokentrace.runtime.alerting import alerting

    return alerting(config, clients, layout, clock)


def page(
    config: Config, clients: KafkaClients, layout: Layout, worker: Worker, status: AlertStatus | None
) -> PageOnDemand | None:
    """The live page, made at the first look; None where it is switched off. status: None without rules and budgets."""
    if not config.http_server.ui:
        return None

    def make() -> LivePage:
        from tokentrace.runtime.live_page import live_page

        return live_page(config, clients, layout, worker, status if config.alerts else None)

    return PageOnDemand(make)


def ledger(config: Config, clients: KafkaClients, layout: Layout) -> LedgerThread | None:
    """The keeper of the ledger; None where it is none of the workers. Raises UsageError without the extra."""
    if not config.ledger.in_worker or config.ledger.url is None:
        return None
    from tokentrace.runtime.ledger_thread import ledger_thread

    return ledger_thread(config, clients, layout, config.ledger.url)
