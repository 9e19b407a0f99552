"""`tokentrace schema show`, `tokentrace schema header`, and `tokentrace schema NAME` of every bundled schema."""

from __future__ import annotations

from pathlib import Path

import click

from tokentrace.cli.options import FullSummaries


class _Schemas(FullSummaries):
    """Group that has a command of the name of every schema that ships, such as `span`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *_bundled()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = super().get_command(ctx, cmd_name)
        text = None if found is not None else _bundled().get(cmd_name)
        if text is None:
            return found
        return click.Command(
            cmd_name, callback=lambda: click.echo(text, nl=False), help=f"Print schemas/{cmd_name}.avsc."
        )


def _bundled() -> dict[str, str]:
    """Return name of a schema -> its text."""
    from pathlib import PurePosixPath

    from tokentrace.tools.assets import SCHEMAS, assets

    files = assets((f"{SCHEMAS}/",))
    return {PurePosixPath(path).stem: text.decode() for path, text in files.items() if path.endswith(".avsc")}


@click.group(cls=_Schemas)
def command() -> None:
    """Print an Avro schema, or the first bytes of a span's messages, for producers in other languages."""


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
