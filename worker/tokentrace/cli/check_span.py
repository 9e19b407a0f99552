"""`tokentrace check-span`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from tokentrace.cli.options import place_of
from tokentrace.cli.output import echo

if TYPE_CHECKING:
    from tokentrace.config import Config
    from tokentrace.model.messages import Envelope

#: Most offsets of a partition that are read for its newest message: those at the end may be markers of transactions.
_NEWEST = 10


class _Framing(click.ParamType):  # type: ignore[type-arg]
    """A framing, by the name that `kafka.framing` has for it; the names are looked up when one is given."""

    name = "framing"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from tokentrace.decode.framing import Framing, OtlpFraming

        names: tuple[str, ...] = (*get_args(Framing), *get_args(OtlpFraming))
        if value not in names:
            self.fail(f"{value!r} is not one of {', '.join(names)}.", param, ctx)
        return value


@click.command()
@click.argument("file", required=False)
@click.option("--topic", "from_topic", is_flag=True, help="Take the newest message of kafka.topic instead of a file.")
@click.option("--at", metavar="PARTITION:OFFSET", help="Take this message of kafka.topic.")
@click.option("--hex", "is_hex", is_flag=True, help="The file is hexadecimal text.")
@click.option("--header", "headers", multiple=True, metavar="NAME=HEX", help="Header of the record; repeatable.")
@click.option("--framing", type=_Framing(), help="Framing to read it with, instead of kafka.framing.")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Configuration file; ./tokentrace.yml where there is one, else the defaults.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def command(
    file: str | None,
    from_topic: bool,
    at: str | None,
    is_hex: bool,
    headers: tuple[str, ...],
    framing: str | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Explain what a worker makes of a message: framing, schema, fields, price, repairs.

    FILE has the bytes of the message's value; `-` is the standard input. Nothing is counted and nothing committed. The
    exit code is 1 for a message that is not counted.
    """
    from tokentrace.config import Config, load_config
    from tokentrace.errors import UsageError
    from tokentrace.runtime import log
    from tokentrace.runtime.schema_sources import writer_schemas
    from tokentrace.tools.explain import Explainer
    from tokentrace.tools.explain_text import as_json as to_json
    from tokentrace.tools.explain_text import lines_of

    if (file is not None) + from_topic + (at is not None) != 1:
        raise UsageError("Give one of FILE, --topic and --at PARTITION:OFFSET.")
    if config_path is None and Path("tokentrace.yml").is_file():
        config_path = Path("tokentrace.yml")
    config = Config() if config_path is None else load_config(config_path)
    log.set_up("error", "text")
    message = _from_file(file, is_hex, headers) if file is not None else _from_topic(config, at)
    found = Explainer(config, writer_schemas(config), framing).explain(message)  # type: ignore[arg-type]
    if as_json:
        click.echo(json.dumps(to_json(found)))
    else:
        size = "no value" if message.value is None else f"{len(message.value):,} bytes"
        where = f"{message.topic}/{message.partition}@{message.offset}, " if file is None else ""
        for line in (f"Message    {where}{size}", *lines_of(found)):
            echo(line)
    sys.exit(0 if found.counted else 1)


def _from_file(file: str, is_hex: bool, headers: tuple[str, ...]) -> Envelope:
    from tokentrace.errors import UsageError
    from tokentrace.model.messages import Envelope

    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror}).") from error
    if is_hex:
        data = _bytes_of(data.decode("ascii", "replace"), file)
    pairs = []
    for header in headers:
        name, equals, value = header.partition("=")
        if not name or not equals:
            raise UsageError(f"--header: {header!r} is not NAME=HEX, such as __value_schema_id=0000000005.")
        pairs.append((name, _bytes_of(value, "--header")))
    return Envelope("", 0, 0, None, data, tuple(pairs), None)


def _bytes_of(text: str, name: str) -> bytes:
    from tokentrace.errors import UsageError

    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise UsageError(f"{name} is not hexadecimal text ({error}).") from error


def _from_topic(config: Config, at: str | None) -> Envelope:
    from tokentrace.errors import UsageError
    from tokentrace.kafka.batch import envelope_of
    from tokentrace.kafka.reader import TopicReader
    from tokentrace.runtime.wiring import kafka_clients

    kafka = config.kafka
    reader = TopicReader(kafka_clients(config), kafka.topic, kafka.group_id)
    if not reader.exists():
        raise UsageError(f"Topic {kafka.topic!r} does not exist at {kafka.bootstrap_servers}. Check kafka.topic.")
    partitions = list(range(reader.partition_count()))
    if at is None:
        starts = {partition: max(end - _NEWEST, 0) for partition, end in reader.end_offsets(partitions).items()}
        newest = max(reader.read_to_end(starts), key=lambda one: (one.timestamp()[1], one.offset()), default=None)
        if newest is None:
            raise UsageError(f"Topic {kafka.topic!r} has no messages.")
        return envelope_of(newest)
    partition, offset = place_of(at, "--at")
    if partition in partitions:
        for message in reader.read_to_end({partition: offset}):
            if message.offset() == offset:
                return envelope_of(message)
            break
    raise UsageError(f"Topic {kafka.topic!r} has no message at {at}.")
