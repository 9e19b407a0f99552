"""Identity: the transactional id under which a replica's state is written, and the one that release 0.1.0 used.

A transactional id is one on the cluster, so that of a replica begins with its group: installations with different
groups may have the same replica ids. In release 0.1.0 it was the replica id alone.
"""

from __future__ import annotations

import logging

from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.transaction import Identity, TransactionalProducer

log = logging.getLogger(__name__)


def transactional_id(group_id: str, replica: str) -> str:
    """Return the transactional id of a replica, unique on the cluster as the group is."""
    return f"{group_id}.{replica}"


def fence_first_release(clients: KafkaClients, replica: str, retry_for_s: float | None = None) -> None:
    """Fence a process of release 0.1.0 that writes the state of this replica, and finish its transaction.

    Called only where such a process has written: another installation may use the replica id, too. Raises as
    `TransactionalProducer.start`.
    """
    rights = (
        f"to write with the transactional id {replica!r} until the upgrade is done: release 0.1.0 wrote the state of "
        "this replica with it, and a process that still does is fenced first"
    )
    transactions = TransactionalProducer(clients, Identity(replica, replica, rights), retry_for_s)
    try:
        transactions.start()
    finally:
        transactions.close()
    log.info(
        "Release 0.1.0 wrote the state of replica %r, with the transactional id %r; a process that still uses it ends.",
        replica, replica,
    )  # fmt: skip
