"""Transactions: the only code that begins, commits or aborts one, and that tells the errors of one apart.

A transaction holds records and, where there are any, the offsets of a group member. None is open between commits: an
open one holds up everyone who reads committed data, and every read of the group's offsets.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from confluent_kafka import KafkaError, Message, Producer

from tokentrace.errors import ClientFailed, FatalError, MemberFailed, StopRequested
from tokentrace.kafka.clients import BATCH_BYTES, KafkaClients
from tokentrace.kafka.errors import (
    MEMBER_FENCED,
    MEMBERSHIP_LOST,
    PRODUCER_FENCED,
    RECORD_REFUSED,
    REPORTING,
    UNANSWERED,
    UNAUTHORIZED,
    UNSUPPORTED,
    error_of,
)
from tokentrace.kafka.offsets import at_offset
from tokentrace.kafka.outcome import Outcome
from tokentrace.kafka.producer import Record, paced, produce

log = logging.getLogger(__name__)

#: Time-out of one call, before it is made again.
STEP_TIMEOUT_S: Final = 10.0
#: The same while a producer starts: nothing is lost when a stop ends it, so it looks for one more often.
START_STEP_S: Final = 2.0
#: Pause between two tries of a call.
RETRY_S: Final = 0.05
#: Time-out of the abort when a producer is closed. Without it, readers wait until the transaction times out.
ABORT_TIMEOUT_S: Final = 1.0
#: Time-out of sending the offsets, and the time after which the call is taken to be lost. Measured (2026-11): after a
#: broker was killed and came back, librdkafka 2.16 loses the first such call of most producers.
OFFSETS_TIMEOUT_S: Final = 5.0
OFFSETS_LOST_S: Final = 6.0
#: Errors after which librdkafka may still send the offsets: with the next transaction, if there were one.
UNRESOLVED: Final = UNANSWERED | {
    KafkaError._TIMED_OUT_QUEUE, KafkaError._CONFLICT, KafkaError._PREV_IN_PROGRESS,
}  # fmt: skip
#: Pause between two log lines about a call that is retried.
LOG_INTERVAL_S: Final = 10.0


def bounded(name: str, call: Callable[[], object], timeout_s: float) -> None:
    """Make a call that librdkafka can lose, so that it never returns, long after its own time-out.

    It runs on a thread of its own, which is left behind then with the client that it holds. Raises ClientFailed for a
    call that does not return, and what the call raises.
    """
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as failure:
            raised.append(failure)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    # After a suspension, this wait and the call's own are both over; the second half lets the call return that.
    for _ in range(2):
        thread.join(timeout_s / 2)
    if thread.is_alive():
        raise ClientFailed(f"The Kafka library does not return from {name}.")
    if raised:
        raise raised[0]


def close_producer(producer: Producer) -> None:
    """Close a transactional producer between its transactions; what may be queued is dropped."""
    producer.purge()
    # It raises for a producer that is fenced or unauthorized, which was reported already.
    with suppress(*REPORTING):
        producer.flush(1.0)


@dataclass(frozen=True, slots=True)
class Identity:
    """The committer, for the messages of errors.

    replica: the worker.replica_id that has to be unique. rights: what Kafka has to allow, as the end of a sentence
    that begins with "It has to be allowed". rival: the sentence about another producer of this id, which is a worker
    where it is empty.
    """

    transactional_id: str
    replica: str
    rights: str
    rival: str = ""


@dataclass(frozen=True, slots=True)
class Offsets:
    """Offsets of a topic to commit for a group member. positions: partition -> next offset to read.

    epochs: partition -> leader epoch of the record before its position, where one is known.
    member: gives the consumer's group metadata; called when the offsets are sent, after the records.
    metadata: text that Kafka keeps with each offset.
    """

    topic: str
    positions: Mapping[int, int]
    member: Callable[[], Any]
    epochs: Mapping[int, int] = field(default_factory=dict)
    metadata: str = ""


class TransactionalProducer:
    """Commits records and offsets atomically, one transaction a commit. Used by one thread.

    refusal: why a topic with a limit refused a record of the last commit, None if none did. too_large: whether a record
    or a batch was refused for its size.
    """

    def __init__(
        self,
        clients: KafkaClients,
        identity: Identity,
        retry_for_s: float | None = None,
        settings: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """retry_for_s: how long a call is retried while the brokers are away; None: until its result is known.

        settings: librdkafka properties that only this producer needs.
        """
        self._identity = identity
        self._retry_for_s = retry_for_s
        self._clients = clients
        self._stop = clients.stop
        self._settings = settings
        self._closed = self._open = False
        self._producer = clients.transactional_producer(identity.transactional_id, settings)
        self.refusal: str | None = None
        self.too_large = False

    def start(self) -> None:
        """Fence a predecessor of the same transactional id and finish its transaction; again after a failure.

        Raises FatalError when Kafka does not accept this producer, StopRequested.
        """
        if self._open:
            self.close()
        if self._closed:
            self._producer = self._clients.transactional_producer(self._identity.transactional_id, self._settings)
            self._closed = False
        try:
            self._retry_retriable(
                "init_transactions", lambda _: self._producer.init_transactions(START_STEP_S), self._stop.is_set
            )
        except REPORTING as failure:
            raise ClientFailed(self._cannot_start(error_of(failure))) from failure

    def commit(
        self,
        records: Iterable[Record],
        offsets: Offsets | None = None,
        batch_bytes: Mapping[str, int] = MappingProxyType({}),
    ) -> Outcome:
        """Write the records and commit the offsets, all or nothing.

        batch_bytes: topics with a limit -> most bytes of a batch that they take.

        1. Begin a transaction.
        2. Produce the records.
        3. Send the offsets to the transaction.
        4. Commit it.

        A step that fails aborts the transaction. Raises FatalError when this producer is fenced or unauthorized,
        ClientFailed when a step has no known outcome: `start` makes another producer then, which fences what this one
        may still send. Raises StopRequested when the grace of a stop ends before the outcome is known: a restart finds
        it.
        """
        if self._open:
            raise ClientFailed("The last transaction has no known outcome.")
        self.refusal, self.too_large = None, False
        try:
            self._open = True
            self._producer.begin_transaction()  # 1
            for record in paced(records, batch_bytes, self._flush):  # 2
                produce(self._producer, record, self._stop, self._on_delivery if record.topic in batch_bytes else None)
            self._send_offsets(offsets)  # 3
            self._commit_transaction()  # 4
        except ClientFailed:
            if self._identity.rival:
                self._raise_if_overtaken()
            raise
        except REPORTING as failure:
            outcome = self._abort(error_of(failure))
            self._open = False
            return outcome
        self._open = False
        return Outcome.COMMITTED

    def close(self) -> None:
        """Free the connections. A transaction that a failure has left open is aborted, if that succeeds at once."""
        if self._open:
            with suppress(*REPORTING):
                self._producer.abort_transaction(ABORT_TIMEOUT_S)
        self._closed, self._open = True, False
        close_producer(self._producer)

    def _on_delivery(self, error: KafkaError | None, _: Message) -> None:
        if error is not None and error.code() in RECORD_REFUSED:
            self.refusal = error.str()
            self.too_large |= error.code() == KafkaError.MSG_SIZE_TOO_LARGE

    def _flush(self) -> None:
        self._producer.flush(self._stop.bounded(STEP_TIMEOUT_S))

    def _send_offsets(self, offsets: Offsets | None) -> None:
        if offsets is None:
            return
        topic, epochs, metadata = offsets.topic, offsets.epochs, offsets.metadata
        positions = [at_offset(topic, p, offset, epochs.get(p), metadata) for p, offset in offsets.positions.items()]
        producer, member = self._producer, offsets.member()
        try:
            bounded(
                "send_offsets_to_transaction",
                lambda: producer.send_offsets_to_transaction(positions, member, self._stop.bounded(OFFSETS_TIMEOUT_S)),
                OFFSETS_LOST_S,
            )
        except REPORTING as failure:
            error = error_of(failure)
            if error.code() in UNRESOLVED and not error.fatal():
                raise ClientFailed(f"Kafka does not answer whether it takes the offsets ({error.str()}).") from failure
            raise

    def _commit_transaction(self) -> None:
        """Retry until the outcome is known: to go on without it could lose or duplicate the commit."""
        self._retry_retriable("commit_transaction", self._producer.commit_transaction)

    # -- errors ------------------------------------------------------------------------------------------------------

    def _retry_retriable(
        self, name: str, call: Callable[[float], object], given_up: Callable[[], bool] | None = None
    ) -> None:
        """Retry a call, which takes its time-out, on retriable errors. Raises KafkaException for any other.

        given_up: whether to raise StopRequested after an error; by default once the grace of a stop has ended.
        """
        given_up = given_up or (lambda: self._stop.expired)
        began_s = logged_s = time.monotonic()
        while True:
            try:
                call(self._stop.bounded(STEP_TIMEOUT_S))
                return
            except REPORTING as failure:
                error = error_of(failure)
                self._raise_if_fatal(error)
                if error.txn_requires_abort() or not error.retriable():
                    raise
                now_s = time.monotonic()
                if self._retry_for_s is not None and now_s >= began_s + self._retry_for_s:
                    raise
                if given_up():
                    raise StopRequested(f"Kafka does not finish {name} ({error.str()}).") from failure
                if now_s >= logged_s + LOG_INTERVAL_S:
                    logged_s = now_s
                    log.warning("Kafka does not finish %s (%s); retrying.", name, error.str())
                time.sleep(RETRY_S)

    def _abort(self, error: KafkaError) -> Outcome:
        """Abort the transaction, and classify the error that made it fail."""
        self._raise_if_fatal(error)
        try:
            self._retry_retriable("abort_transaction", self._producer.abort_transaction)
        except REPORTING as failure:
            raise ClientFailed(
                f"A transaction could be neither committed ({error.str()}) nor aborted ({error_of(failure).str()}); "
                "none of it is shown, and a restart continues from the committed state."
            ) from failure
        if error.code() in MEMBERSHIP_LOST:
            log.warning("Lost group membership (%s); rewinding to the committed offsets.", error.str())
            return Outcome.DROPPED
        advice = ""
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE and not self.too_large:
            advice = f" Raise max.message.bytes of the topic to {BATCH_BYTES:,} or more."
        # A refusal is reported by the caller, who knows the record.
        level = logging.WARNING if self.refusal is None else logging.INFO
        log.log(level, "A transaction was aborted (%s).%s", error.str(), advice)
        return Outcome.RETRY

    def _raise_if_overtaken(self) -> None:
        """Raise FatalError if a rival has fenced this producer. A command does not start again, which would show it."""
        try:
            self._producer.abort_transaction(STEP_TIMEOUT_S)
        except REPORTING as failure:
            self._raise_if_fatal(error_of(failure))

    def _cannot_start(self, error: KafkaError) -> str:
        transactional_id = self._identity.transactional_id
        return f"Kafka cannot start transactions with the transactional id {transactional_id!r} ({error.str()})."

    def _raise_if_fatal(self, error: KafkaError) -> None:
        """Raise FatalError if no transaction of this producer will be accepted any more."""
        if error.code() in UNAUTHORIZED:
            raise FatalError(
                f"Kafka does not let this worker commit ({error.str()}). It has to be allowed {self._identity.rights}."
            )
        if error.code() in UNSUPPORTED:
            raise FatalError(f"{self._cannot_start(error)} Check the version of the brokers and kafka.properties.")
        if error.fatal() or error.code() in PRODUCER_FENCED:
            if self._identity.rival:
                raise FatalError(
                    f"Kafka no longer accepts this command's transactions ({error.str()}). {self._identity.rival}"
                )
            kind = MemberFailed if error.code() in MEMBER_FENCED else ClientFailed
            raise kind(
                f"Kafka no longer accepts this worker's transactions ({error.str()}); is its worker.replica_id "
                f"{self._identity.replica!r} unique?"
            )
