"""Live page: made from the configuration, with what it shows of the fleet and of this replica."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tokentrace.config import Config
from tokentrace.errors import UsageError
from tokentrace.exposition.ui.backlog import RollupsLog
from tokentrace.exposition.ui.feed import RollupFeed
from tokentrace.exposition.ui.fleet import FleetLag, LatestLetters, OpenBudgets
from tokentrace.exposition.ui.inquiry import Inquiry, ThreadInquiry
from tokentrace.exposition.ui.own_feed import OwnFeed
from tokentrace.exposition.ui.page import LivePage, PageFacts
from tokentrace.kafka.clients import KafkaClients
from tokentrace.model.measures import Layout
from tokentrace.model.snapshot import BASE_LABELS
from tokentrace.model.worker_stats import Moment
from tokentrace.runtime.worker import Worker

if TYPE_CHECKING:
    from tokentrace.alerts.status import AlertStatus

#: Time between two questions to Kafka, and to the ledger's database.
LAG_S = ALERTS_S = 5.0
LETTERS_S = BUDGETS_S = 15.0
BILL_S = 30.0
#: A database that does not answer in its time, ten seconds, is asked again within a minute.
BILL_REST = 5


def live_page(
    config: Config, clients: KafkaClients, layout: Layout, worker: Worker, alerts: AlertStatus | None
) -> LivePage:
    """The page at /ui. alerts: None without rules."""
    kafka, http = config.kafka, config.http_server
    labels = (*BASE_LABELS, *config.dimensions)
    inquiries: dict[str, Inquiry | ThreadInquiry] = {
        "lag": Inquiry(FleetLag(clients, kafka.topic, kafka.group_id), LAG_S),
        "letters": Inquiry(LatestLetters(clients, kafka.dead_letters, kafka.group_id), LETTERS_S),
    }
    if config.budgets:
        inquiries["budgets"] = Inquiry(OpenBudgets(clients, kafka.budgets_topic, kafka.group_id), BUDGETS_S)
    if alerts is not None:
        inquiries["alerts"] = Inquiry(alerts.describe, ALERTS_S)
    if config.ledger.url is not None:
        ask = bills(config.ledger.url, labels)
        inquiries["bill"] = ThreadInquiry("The ledger's database", ask, BILL_S, BILL_REST)
    feed: RollupFeed | OwnFeed
    if config.worker.guarantee == "exactly_once":
        feed = RollupFeed(
            open_log=lambda: RollupsLog(clients, kafka.rollups_topic, kafka.group_id),
            layout=layout,
            inquiries=inquiries,
            stop=clients.stop,
        )
    else:
        feed = OwnFeed(replica=config.worker.replica_id, snapshot=lambda: worker.snapshot, layout=layout)
    return LivePage(
        facts=PageFacts(
            group=kafka.group_id,
            topic=kafka.topic,
            labels=labels,
            has_alerts=alerts is not None,
            may_silence=http.admin_token is not None or http.admin_token_file is not None,
            prometheus_path=http.prometheus_path,
            health_path=http.health_path,
        ),
        feed=feed,
        moment=lambda: Moment(worker.stats, worker.snapshot, time.monotonic()),
    )


def bills(url: str, labels: Sequence[str], clock: Callable[[], float] = time.time) -> Callable[[], dict[str, Any]]:
    """Return what asks the ledger for its recent bills. It raises UsageError without the extra."""

    def ask() -> dict[str, Any]:
        # Nothing of the ledger is loaded before somebody looks.
        try:
            from tokentrace.ledger.recent import recent_bills
        except ModuleNotFoundError as error:
            raise UsageError(f"The bill requires {error.name}: pip install 'tokentrace[ledger]'") from None
        return recent_bills(url, labels, clock())

    return ask
