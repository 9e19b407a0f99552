"""`tokentrace schema show` and `tokentrace schema header`."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def command() -> None:
    """Print the span's schema, or the first bytes of its messages, for producers in other languages."""


@command.command()
def show() -> None:
    """Print the schema of spans, as in schemas/span.avsc."""
    import json

    from tokentrace.model.bundled_schemas import bundled_schema

    click.echo(json.dumps(bundled_schema("span"), indent=2))


@command.command()
@click.option(
    "--schema",
    "path",
    type=click.Path(path_type=Path),
    help="An .avsc file of your own, which the workers need in schemas.paths; the bundled span schema if unset.",
)
def header(path: Path | None) -> None:
    """Print the 10 bytes that begin each message in single-object encoding, in hexadecimal.

    They are C3 01 and the CRC-64-AVRO fingerprint of the schema: a constant, so that a producer needs no checksum.
    """
    from tokentrace.decode.schemas.files import load_schema
    from tokentrace.model.bundled_schemas import bundled_schema, single_object_header

    schema = bundled_schema("span") if path is None else load_schema(path, "--schema")
    click.echo(single_object_header(schema).hex())
