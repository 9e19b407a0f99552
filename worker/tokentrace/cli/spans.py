"""`tokentrace spans`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokentrace.cli.options import config_option
from tokentrace.cli.output import echo

if TYPE_CHECKING:
    from tokentrace.tools.spans import ReadSpan


@click.command()
@config_option
@click.option(
    "--last", type=click.IntRange(1), default=20, show_default=True, help="Messages of each partition, the newest."
)
@click.option("--all", "everything", is_flag=True, help="All messages that the topic retains, instead of --last.")
@click.option("--where", multiple=True, metavar="FIELD=GLOB", help="Only spans whose field matches; repeatable.")
@click.option("--follow", is_flag=True, help="Go on with new spans, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print each span as one JSON object, with all of its fields.")
def command(
    config_path: Path, last: int, everything: bool, where: tuple[str, ...], follow: bool, as_json: bool
) -> None:
    """Read spans from kafka.topic: decoded, filtered, as text or JSON. It joins no group and commits nothing.

    For example: tokentrace spans --where status=error --where "model=gpt-*" --last 1000
    """
    from tokentrace.config import load_config
    from tokentrace.kafka.reader import TopicReader
    from tokentrace.runtime import log
    from tokentrace.runtime.schema_sources import writer_schemas
    from tokentrace.runtime.wiring import kafka_clients
    from tokentrace.tools.spans import SpanReader, matches, parse_conditions

    conditions = parse_conditions(where)
    config = load_config(config_path)
    log.set_up("warning", "text")
    kafka = config.kafka
    topic = TopicReader(kafka_clients(config), kafka.topic, kafka.group_id)
    reader = SpanReader(topic, writer_schemas(config), kafka.framing)
    starts = reader.newest(None if everything else last)
    shown = looked_at = others = 0
    try:
        for found in reader.follow(starts) if follow else reader.read(starts):
            if found.event:
                others += 1
                continue
            looked_at += 1
            if found.problem:
                echo(f"{found.partition}:{found.offset}  cannot be read: {found.problem}", err=True)
            elif matches(found.span, conditions):
                shown += 1
                _print(found, as_json)
    except KeyboardInterrupt:
        pass
    passed_over = f"; {others:,} other events passed over" if others else ""
    click.echo(f"{shown:,} of {looked_at:,} spans of {kafka.topic}{passed_over}.", err=True)


def _print(found: ReadSpan, as_json: bool) -> None:
    from tokentrace.tools import spans

    span = spans.as_json(found.span)
    if as_json:
        click.echo(json.dumps({"partition": found.partition, "offset": found.offset, **span}, ensure_ascii=True))
    else:
        echo(_line(found, span))


def _line(found: ReadSpan, span: dict[str, Any]) -> str:
    """Return a span in one line: place, time, labels, status, tokens, cost, latency, error."""
    from tokentrace.model.text import utc_text

    when = span.get("started_at") or span.get("ended_at")
    if not isinstance(when, str) and found.timestamp_ms is not None:
        when = utc_text(found.timestamp_ms / 1000)
    parts = [f"{found.partition}:{found.offset}", str(when or "no time")]
    parts += [str(span[name]) for name in ("status", "model", "provider", "caller") if span.get(name)]
    tokens = [str(span[name]) for name in ("prompt_tokens", "completion_tokens") if span.get(name) is not None]
    parts += [f"{'+'.join(tokens)} tokens"] if tokens else []
    for name, unit in (("cost_usd", " USD"), ("latency_ms", " ms")):
        parts += [f"{span[name]:g}{unit}"] if isinstance(span.get(name), (int, float)) else []
    return "  ".join([*parts, *([str(span["error"])] if span.get("error") else [])])
