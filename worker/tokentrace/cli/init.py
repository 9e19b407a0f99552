"""`tokentrace init`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import click

#: Option -> (setting, question, default).
_SETTINGS: Final = {
    "bootstrap_servers": ("kafka.bootstrap_servers", "Kafka brokers, host:port,host:port", "127.0.0.1:9092"),
    "topic": ("kafka.topic", "Topic with the spans", "llm-spans"),
    "group_id": ("kafka.group_id", "Consumer group of the workers", "tokentrace"),
    "registry_url": ("schema_registry.url", "Schema registry URL, empty without one", ""),
}
_PROTOCOLS: Final = ("plaintext", "ssl", "sasl_plaintext", "sasl_ssl")
_MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path())
@click.option("--bootstrap-servers", help="Kafka brokers, host:port,host:port.")
@click.option("--topic", help="Topic with the spans.")
@click.option("--group-id", help="Consumer group of the workers.")
@click.option("--registry-url", help="URL of the schema registry, if there is one.")
@click.option("--security-protocol", type=click.Choice(_PROTOCOLS), help="How the brokers are reached.")
@click.option("--sasl-mechanism", type=click.Choice(_MECHANISMS), default="SCRAM-SHA-512", show_default=True)
@click.option("--kubernetes", is_flag=True, help="Also write deploy/kubernetes, a Kustomize base with overlays.")
@click.option("--compose", is_flag=True, help="Also write deploy/compose.yaml, with Kafka, Prometheus and Grafana.")
@click.option("--yes", is_flag=True, help="Ask nothing: defaults for what no option sets.")
@click.option("--force", is_flag=True, help="Replace files that differ.")
def command(folder: Path, kubernetes: bool, compose: bool, yes: bool, force: bool, **options: Any) -> None:
    """Write a commented tokentrace.yml into a folder, after asking on a terminal, or by the options."""
    from tokentrace.tools import assets

    ask = sys.stdin.isatty() and not yes
    settings = {}
    for option, (setting, question, default) in _SETTINGS.items():
        value = options[option]
        if value is None and ask:
            value = click.prompt(question, default=default, show_default=bool(default))
        if value is not None and value != default:
            settings[setting] = value
    security = options["security_protocol"]
    if security is None:
        security = (
            click.prompt("Security protocol", type=click.Choice(_PROTOCOLS), default="plaintext")
            if ask
            else "plaintext"
        )
    text = assets.configuration(settings, security, options["sasl_mechanism"])
    _check(text)
    schema = f"{assets.SCHEMAS}/{assets.EDITOR_SCHEMA}"
    files = {assets.CONFIGURATION: text.encode(), assets.EDITOR_SCHEMA: assets.assets((schema,))[schema]}
    files |= assets.assets(assets.KUBERNETES) if kubernetes else {}
    files |= assets.assets(assets.COMPOSE) if compose else {}
    written = assets.write(folder, files, replace=force)
    for path in written[:2]:
        click.echo(f"Wrote {path}.")
    if len(written) > 2:
        click.echo(f"Wrote {len(written) - 2:,} files below {folder / 'deploy'}.")
    _next_steps(folder / assets.CONFIGURATION, security, kubernetes, compose)


def _check(text: str) -> None:
    """Raise ConfigError for a configuration that the answers make invalid."""
    import tempfile

    from tokentrace.config import load_config

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokentrace.yml"
        path.write_text(text)
        load_config(path, {"KAFKA_USERNAME": "user", "KAFKA_PASSWORD": "password"})


def _next_steps(path: Path, security: str, kubernetes: bool, compose: bool) -> None:
    option = "" if path == Path("tokentrace.yml") else f" --config {path}"
    if security.startswith("sasl"):
        click.echo("Set KAFKA_USERNAME and KAFKA_PASSWORD in the environment. Then:")
    else:
        click.echo("Next:")
    click.echo(f"  tokentrace config check --connect{option}    try the brokers, rights, topics and the registry")
    click.echo(f"  tokentrace produce --count 100{option}       publish some synthetic spans")
    click.echo(f"  tokentrace worker{option}                    count, and serve the metrics")
    if kubernetes:
        click.echo("  kubectl apply --kustomize deploy/kubernetes/overlays/development    see deploy/kubernetes")
    if compose:
        click.echo("  docker compose --file deploy/compose.yaml up    TOKENTRACE_IMAGE names the image")
