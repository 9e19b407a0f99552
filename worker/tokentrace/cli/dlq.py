"""`tokentrace dlq`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tokentrace.cli.options import config_option

if TYPE_CHECKING:
    from tokentrace.tools.dlq import DeadLetterRecord, DeadLetters


@click.group()
def command() -> None:
    """List or replay dead letters."""


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

    with _dead_letters(config_path) as letters:
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
        topic, partition, offset = record.source
        truncated = "" if record.length is None else f"  truncated: a reference to a value of {record.length:,} bytes"
        line = f"{record.partition}:{record.offset}  {topic}/{partition}@{offset}  {record.reason}  {record.error}"
        click.echo(line + truncated)
    total = sum(reasons.values())
    click.echo(f"{total:,} dead letters" + "".join(f"; {count:,} {name}" for name, count in reasons.most_common()))


@command.command()
@config_option
@click.option("--reason", help="Only this reason.")
@click.option("--all", "again", is_flag=True, help="Include messages already replayed or skipped.")
@click.option("--dry-run", is_flag=True, help="Only print what would be sent.")
def replay(config_path: Path, reason: str | None, again: bool, dry_run: bool) -> None:
    """Send dead letters back to their topic, after their cause is fixed."""
    with _dead_letters(config_path) as letters:
        sent = letters.replay(lambda record: reason in (None, record.reason), again=again, dry_run=dry_run)
    verb = "Would send" if dry_run else "Sent"
    for topic, count in sent.items():
        click.echo(f"{verb} {count:,} messages back to {topic}.")
    if not sent:
        click.echo("Nothing to replay." + ("" if again else " Use --all to replay messages again."))


@contextmanager
def _dead_letters(config_path: Path) -> Iterator[DeadLetters]:
    from tokentrace.config import load_config
    from tokentrace.runtime import log
    from tokentrace.runtime.wiring import kafka_clients
    from tokentrace.tools.dlq import DeadLetters

    config = load_config(config_path)
    log.set_up("warning", "text")
    letters = DeadLetters(kafka_clients(config), config.kafka.dead_letters, config.kafka.group_id)
    try:
        yield letters
    finally:
        letters.close()


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
        **reference,
    }
