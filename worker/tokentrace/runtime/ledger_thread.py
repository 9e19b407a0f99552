"""The thread of a worker that keeps the ledger, where the configuration says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tokentrace.config import Config
from tokentrace.errors import UsageError
from tokentrace.kafka.clients import KafkaClients
from tokentrace.model.measures import Layout

if TYPE_CHECKING:
    from tokentrace.ledger.in_worker import LedgerThread

#: Rows of rollups that the ledger in a worker holds at once, some 20 MB.
LEDGER_BATCH_ROWS: Final = 20_000
#: Longest time for which they wait to be added. Each transaction costs the time of a thread that counts.
LEDGER_LINGER_S: Final = 10.0


def ledger_thread(config: Config, clients: KafkaClients, layout: Layout, url: str) -> LedgerThread:
    """The keeper of the ledger. url: of its database. Raises UsageError without the extra."""
    kafka = config.kafka
    try:
        from tokentrace.ledger.database import Database
    except ModuleNotFoundError as error:
        raise UsageError(f"ledger.in_worker requires {error.name}: pip install 'tokentrace[ledger]'") from None
    from tokentrace.kafka.election import Election
    from tokentrace.kafka.log_tail import LogTail
    from tokentrace.ledger.follow import Follower, Tail
    from tokentrace.ledger.in_worker import LedgerThread
    from tokentrace.ledger.parts import Parts

    database, parts = Database(url), Parts(config.ledger_zones)

    def follow(tail: Tail) -> Follower:
        return Follower(
            tail=tail,
            database=database,
            layout=layout,
            stop=clients.stop,
            parts=parts,
            batch_rows=LEDGER_BATCH_ROWS,
            linger_s=LEDGER_LINGER_S,
        )

    return LedgerThread(
        elect=lambda: Election(
            clients,
            topic=kafka.rollups_topic,
            group_id=f"{kafka.group_id}.ledger",
            session_timeout_s=config.worker.session_timeout,
        ),
        open_tail=lambda: LogTail(clients, kafka.rollups_topic, kafka.group_id),
        follow=follow,
    )
