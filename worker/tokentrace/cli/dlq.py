"""`tokentrace dlq`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from tokentrace.cli.options import FullSummaries, config_option, place_of
from tokentrace.cli.output import echo

#: Most letters that a replay names, and most bytes of keys and values that a list shows.
SHOWN: Final = 20

if TYPE_CHECKING:
    from tokentrace.config import Config
    from tokentrace.tools.dlq import DeadLetterRecord, DeadLetters


@click.group(cls=FullSummaries)
def command() -> None:
    """List, show or replay dead letters."""


@command.command("list")
@config_option
@click.option("--reason", help="Only this reason.")
@click.option(
    "--limit", type=click.IntRange(1), default=50, show_default=True, help="Most dead letters to list; the newest."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line, with the message in hex.")
def list_(config_path: Path, reason: str | None, limit: int, as_json: bool) -> None:
    """List messages that could not be counted, with the reason and the source."""
    from collections import Counter, deque

    with _dead_letters(config_path) as (_, letters):
        newest: deque[DeadLetterRecord] = deque(maxlen=limit)
        reasons: Counter[str] = Counter()
        for record in letters.read():
            if reason is None or record.reason == reason:
                reasons[record.reason] += 1
                newest.append(record)
    if as_json:
        for record in newest:
            click.echo(json.dumps(_as_json(record)))
        return
    for record in newest:
        echo(_line(record))
    total = sum(reasons.values())
    echo(f"{total:,} dead letters" + "".join(f"; {count:,} {name}" for name, count in reasons.most_common()))


@command.command()
@config_option
@click.argument("place", metavar="[PARTITION:OFFSET]", required=False)
@click.option("--reason", help="The newest of this reason, without a place.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def show(config_path: Path, place: str | None, reason: str | None, as_json: bool) -> None:
    """Show a dead letter, decoded as far as it goes, with the field that it was rejected for; the newest by default.

    What is shown is what a worker would make of the message now: with the schemas and the configuration of today.
    """
    from tokentrace.errors import UsageError
    from tokentrace.model.messages import Envelope
    from tokentrace.runtime.schema_sources import writer_schemas
    from tokentrace.tools.explain import Explainer
    from tokentrace.tools.explain_text import as_json as to_json
    from tokentrace.tools.explain_text import lines_of

    with _dead_letters(config_path) as (config, letters):
        letter = _find(letters, place, reason)
        if letter is None:
            raise UsageError(f"{letters.topic} has no dead letter{f' at {place}' if place else ''}.")
        whole = letter if letter.length is None else letters.original(letter)
        if whole is None:
            raise UsageError(f"The message that the dead letter refers to is gone from {letter.source[0]}.")
        headers = tuple((name, value) for name, value in whole.headers if not name.startswith("tokentrace."))
        message = Envelope(*letter.source, whole.key, whole.value, headers, whole.timestamp_ms)
        found = Explainer(config, writer_schemas(config)).explain(message)
    if as_json:
        click.echo(json.dumps({"letter": _as_json(letter), "now": to_json(found)}))
        return
    echo(f"Letter     {_line(letter)}")
    for line in lines_of(found):
        echo(line)
    if found.counted:
        echo("A worker counts this message now: `tokentrace dlq replay` sends it again.")


def _find(letters: DeadLetters, place: str | None, reason: str | None) -> DeadLetterRecord | None:
    """Return the letter at a place, or the newest; None if there is none."""
    if place is None:
        matching = (record for record in letters.read() if reason in (None, record.reason))
        return max(matching, key=lambda record: (record.timestamp_ms or 0, record.offset), default=None)
    partition, offset = place_of(place, "dlq show")
    first = next(iter(letters.read({partition: offset})), None) if partition in letters.partitions() else None
    return first if first is not None and first.offset == offset else None


@command.command()
@config_option
@click.option("--reason", help="Only this reason.")
@click.option("--all", "again", is_flag=True, help="Include messages already replayed or skipped; counts them again.")
@click.option("--dry-run", is_flag=True, help="Only print what would be sent.")
def replay(config_path: Path, reason: str | None, again: bool, dry_run: bool) -> None:
    """Send dead letters back to their topic, after their cause is fixed.

    Each is sent at most once, also by a replay that is killed and run again.
    """
    from tokentrace.runtime.wiring import kafka_clients
    from tokentrace.tools.replay import Replay

    with _dead_letters(config_path) as (config, letters):
        kafka = config.kafka
        replay = Replay(kafka_clients(config), letters, source_topic=kafka.topic, group_id=kafka.group_id)
        report = replay.run(lambda record: reason in (None, record.reason), again=again, dry_run=dry_run)
    for group, count in report.others.items():
        echo(f"Left {count:,} dead letters to the group {group}: a replay with its configuration sends them.", err=True)
    for letter, why in report.passed[:SHOWN]:
        echo(f"Passed over: dead letter {letter.partition}:{letter.offset} {why}.", err=True)
    if len(report.passed) > SHOWN:
        click.echo(f"Passed over: {len(report.passed) - SHOWN:,} more.", err=True)
    if report.sent:
        click.echo(f"{'Would send' if dry_run else 'Sent'} {report.sent:,} messages back to {kafka.topic}.")
    elif not report.passed:
        click.echo("Nothing to replay." + ("" if again else " Use --all to replay messages again."))


@contextmanager
def _dead_letters(config_path: Path) -> Iterator[tuple[Config, DeadLetters]]:
    from tokentrace.config import load_config
    from tokentrace.runtime import log
    from tokentrace.runtime.wiring import kafka_clients
    from tokentrace.tools.dlq import DeadLetters
    from tokentrace.tools.replay import replay_group

    config = load_config(config_path)
    log.set_up("warning", "text")
    letters = DeadLetters(kafka_clients(config), config.kafka.dead_letters, replay_group(config.kafka.group_id))
    try:
        yield config, letters
    finally:
        letters.close()


def _line(record: DeadLetterRecord) -> str:
    """Return a dead letter in one line: place, time, source, reason, key, size and first bytes of the value, error."""
    from tokentrace.model.text import first_bytes, utc_text

    topic, partition, offset = record.source
    when = "no time" if record.timestamp_ms is None else utc_text(record.timestamp_ms / 1000)
    key = "no key" if record.key is None else f"key {first_bytes(record.key, SHOWN)}"
    value = "no value" if record.value is None else f"{len(record.value):,} bytes {first_bytes(record.value, SHOWN)}"
    if record.length is not None:
        value = f"truncated: a reference to a value of {record.length:,} bytes"
    place = f"{record.partition}:{record.offset}  {when}  {topic}/{partition}@{offset}"
    return f"{place}  {record.reason}  {key}  {value}  {record.error}"


def _as_json(record: DeadLetterRecord) -> dict[str, object]:
    topic, partition, offset = record.source
    reference = {} if record.length is None else {"truncated": {"length": record.length, "sha256": record.sha256}}
    return {
        "partition": record.partition,
        "offset": record.offset,
        "reason": record.reason,
        "error": record.error,
        "source": {"topic": topic, "partition": partition, "offset": offset},
        "key_hex": None if record.key is None else record.key.hex(),
        "value_hex": None if record.value is None else record.value.hex(),
        "timestamp_ms": record.timestamp_ms,
        **({"group": record.group} if record.group else {}),
        **reference,
    }
