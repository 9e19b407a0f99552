"""Replay: sends dead letters back to the topic that they came from, each at most once.

A transaction holds a batch of letters and the progress behind them, which is the offsets of a consumer group of its own
(`<group>.dlq-replay`). A replay that is killed has sent a batch and moved on, or neither. The transactional id has the
same name: a replay that starts ends the transaction of an earlier one, before it reads the progress.

Several groups may share both topics. A replay sends the letters of its own group, and what it sends names that group in
a header: workers of other groups have counted the message, or have a letter of their own.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tokentrace.commit.dead_letters import PREFIX
from tokentrace.errors import FatalError
from tokentrace.kafka.batch import TARGET_GROUP
from tokentrace.kafka.clients import BATCH_BYTES, TRANSACTION_TIMEOUT_S, KafkaClients
from tokentrace.kafka.group_offsets import ProgressOffsets
from tokentrace.kafka.outcome import Outcome
from tokentrace.kafka.producer import Record, record_bytes
from tokentrace.kafka.topics import Topics
from tokentrace.kafka.transaction import Identity, Offsets, TransactionalProducer
from tokentrace.tools.dlq import DeadLetterRecord, DeadLetters

#: Most letters of a transaction, and the bytes from which on it takes no more.
BATCH_LETTERS: Final = 1000
TRANSACTION_BYTES: Final = 8_000_000
#: Longest time for which a transaction is retried that fails for no letter's sake, and the pause between two tries.
RETRY_FOR_S: Final = 60.0
RETRY_S: Final = 0.2
#: A message that its publisher has compressed well has to fit into its topic again.
COMPRESSION: Final = {"compression.type": "zstd"}


class PassedLetter(NamedTuple):
    """A letter that is not sent. reason: the end of a sentence that begins with "It"."""

    letter: DeadLetterRecord
    reason: str


@dataclass(slots=True)
class ReplayReport:
    """Result of a replay. sent: letters sent, or to send in a dry run. passed: letters that cannot be sent.

    others: another group -> its letters, which its own replay sends.
    """

    sent: int = 0
    passed: list[PassedLetter] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


class _Step(NamedTuple):
    """A letter that the replay has come to. record: None if it is not sent."""

    letter: DeadLetterRecord
    record: Record | None


class Replay:
    """Sends the dead letters of one consumer group back to its topic."""

    def __init__(self, clients: KafkaClients, letters: DeadLetters, *, source_topic: str, group_id: str) -> None:
        """source_topic: the only topic that is written to. group_id: the workers' group."""
        self._clients = clients
        self._letters = letters
        self._source_topic = source_topic
        self._group_id = group_id
        self._name = replay_group(group_id)
        self._report = ReplayReport()
        self._replayed: dict[int, int] = {}

    def run(self, wanted: Callable[[DeadLetterRecord], bool], *, again: bool, dry_run: bool) -> ReplayReport:
        """Send every wanted letter that no replay has come to yet, byte for byte and with its original headers.

        1. Fence an earlier replay and end its transaction.
        2. Read the progress.
        3. Send each batch with the progress behind it in one transaction.

        A letter that is not wanted is skipped, for later replays too. again: begin at the first letter; the progress
        never goes back. Raises FatalError if Kafka accepts no transaction; what was sent before stays sent, once.
        """
        partitions = self._letters.partitions()
        transactions = None if dry_run else self._transactions()
        progress = ProgressOffsets(self._clients, self._name, self._letters.topic)
        try:
            if transactions is not None:
                transactions.start()
            self._replayed = progress.committed(partitions)
            starts = {partition: 0 if again else self._replayed.get(partition, 0) for partition in partitions}
            steps = (self._step(letter, wanted(letter)) for letter in self._letters.read(starts))
            if transactions is None:
                self._report.sent = sum(step.record is not None for step in steps)
                return self._report
            limit = min(Topics(self._clients).max_message_bytes(self._source_topic), BATCH_BYTES)
            self._limits = {self._source_topic: limit}
            for batch in _batches(steps):
                self._send(transactions, progress, batch)
            return self._report
        finally:
            progress.close()
            if transactions is not None:
                transactions.close()

    def _transactions(self) -> TransactionalProducer:
        rights = (
            f"to write to the topic {self._source_topic} with the transactional id {self._name!r}, and to read with "
            f"the group {self._name!r}"
        )
        # A broker fences a producer that stands still for too long, too.
        rival = (
            "Another `tokentrace dlq replay` of the same group has started, or this one was held up for longer than "
            f"{TRANSACTION_TIMEOUT_S:.0f} s; run it again: it continues where this one ends."
        )
        identity = Identity(transactional_id=self._name, replica=self._name, rights=rights, rival=rival)
        return TransactionalProducer(self._clients, identity, retry_for_s=RETRY_FOR_S, settings=COMPRESSION)

    def _step(self, letter: DeadLetterRecord, wanted: bool) -> _Step:
        if letter.group not in ("", self._group_id):
            self._report.others[letter.group] += 1
            return _Step(letter, None)
        if not wanted:
            return _Step(letter, None)
        if letter.source[0] != self._source_topic:
            return self._pass(letter, f"came from topic {letter.source[0]!r}, which is not kafka.topic")
        if letter.length is None:
            return _Step(letter, self._record(letter))
        original = self._letters.original(letter)
        if original is None:
            topic, partition, offset = letter.source
            return self._pass(letter, f"refers to {topic}/{partition}@{offset}, which is not retained any more")
        return _Step(letter, self._record(original))

    def _record(self, letter: DeadLetterRecord) -> Record:
        headers = [(name, value) for name, value in letter.headers if not name.startswith(PREFIX)]
        target = TARGET_GROUP, self._group_id.encode()
        return Record(self._source_topic, letter.key, letter.value, headers=[*headers, target])

    def _pass(self, letter: DeadLetterRecord, reason: str) -> _Step:
        self._report.passed.append(PassedLetter(letter, reason))
        return _Step(letter, None)

    def _send(self, transactions: TransactionalProducer, progress: ProgressOffsets, batch: Sequence[_Step]) -> None:
        """Send a batch; one with a letter that the topic refuses is split until that letter is alone."""
        records = [step.record for step in batch if step.record is not None]
        positions = {step.letter.partition: step.letter.offset + 1 for step in batch}
        positions = {p: offset for p, offset in positions.items() if offset > self._replayed.get(p, 0)}
        if not records and not positions:
            return
        offsets = Offsets(self._letters.topic, positions, progress.member) if positions else None
        deadline_s = time.monotonic() + RETRY_FOR_S
        while (outcome := transactions.commit(records, offsets, self._limits)) is not Outcome.COMMITTED:
            if transactions.refusal is not None:
                break
            if outcome is Outcome.DROPPED or time.monotonic() >= deadline_s:
                raise FatalError(
                    "Dead letters could not be replayed: their transactions are aborted. Stop all members of the "
                    f"group {self._name!r}, check the brokers, and run the command again: it continues behind what was "
                    "sent."
                )
            time.sleep(RETRY_S)
        else:
            self._report.sent += len(records)
            return
        if len(records) > 1:
            middle = len(batch) // 2
            self._send(transactions, progress, batch[:middle])
            self._send(transactions, progress, batch[middle:])
            return
        refused = f"was refused by topic {self._source_topic} ({transactions.refusal})"
        skipped = [self._pass(step.letter, refused) if step.record is not None else step for step in batch]
        self._send(transactions, progress, skipped)


def replay_group(group_id: str) -> str:
    """Return the name of the consumer group and of the transactional id that a replay uses. group_id: the workers'."""
    return f"{group_id}.dlq-replay"


def _batches(steps: Iterator[_Step]) -> Iterator[list[_Step]]:
    """Give the steps in batches, of which each fits into a transaction."""
    batch: list[_Step] = []
    letters = size = 0
    for step in steps:
        if step.record is not None:
            added = record_bytes(step.record)
            if batch and (letters >= BATCH_LETTERS or size + added > TRANSACTION_BYTES):
                yield batch
                batch, letters, size = [], 0, 0
            letters += 1
            size += added
        elif batch and batch[-1].record is None and batch[-1].letter.partition == step.letter.partition:
            # Of letters that are skipped one after the other, the progress needs only the last.
            batch.pop()
        batch.append(step)
    if batch:
        yield batch
