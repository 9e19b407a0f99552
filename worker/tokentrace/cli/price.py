"""`tokentrace price`."""

from __future__ import annotations

import json
import time
from fractions import Fraction
from pathlib import Path

import click

from tokentrace.cli.output import echo


@click.command()
@click.argument("model")
@click.option("--provider", default="", help="Provider, as the span names it. Without it the model's name decides.")
@click.option("--at", help="Time of the call, such as 2026-11-26T12:00:00Z; now unless set.")
@click.option("--service-tier", default="", help="Service tier of the call, such as batch, flex or priority.")
@click.option("--inference-region", default="", help="Where the call ran, such as us or eu.")
@click.option("--speed", default="", help="Speed of the call, such as fast.")
@click.option("--usage", help="Usage of the call by unit, such as prompt=1000,cache_read=800,completion=200.")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Configuration file with the section pricing; ./tokentrace.yml where there is one.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object; amounts are decimal text.")
def command(
    model: str,
    provider: str,
    at: str | None,
    service_tier: str,
    inference_region: str,
    speed: str,
    usage: str | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Explain the price of a call: how the model's name is read, which price applies, its rates and the sum."""
    from tokentrace.config import load_config
    from tokentrace.errors import TokentraceError
    from tokentrace.pricing import Pricer
    from tokentrace.pricing.modifiers import Modifiers
    from tokentrace.runtime.price_rules import pricer
    from tokentrace.tools import price

    if config_path is None and Path("tokentrace.yml").is_file():
        config_path = Path("tokentrace.yml")
    found_pricer = Pricer({}) if config_path is None else pricer(load_config(config_path))
    at_us = price.parse_time(at) if at is not None else int(time.time() * 1e6)
    used = price.parse_usage(usage) if usage is not None else None
    call = Modifiers.of(service_tier, inference_region, speed)
    found = price.quote(found_pricer, model, provider, at_us, used, call)
    if found is None:
        of = f" of provider {provider!r}" if provider else ""
        then = f" at {at}" if at is not None else ""
        raise TokentraceError(f"No price for model {model!r}{of}{then}. Set pricing.models in the configuration.")
    if as_json:
        click.echo(json.dumps({"model": model, "provider": provider, **price.as_json(found)}))
        return
    echo(f"Price     {found.origin}")
    if found.reading:
        echo(f"Read as   {found.reading}")
    if found.validity:
        echo(f"Valid     {found.validity}")
    for modifier in found.modifiers:
        echo(f"Modifier  {modifier}")
    if found.estimated:
        echo(f"Estimated no price for {found.estimated}: the price without it applies")
    if found.discount:
        echo(f"Discount  {found.discount}")
    if found.tier:
        echo(f"Tier      {found.tier}")
    if found.call_usd:
        echo(f"Call      {price.decimal(found.call_usd)} USD")
    for one in found.prices:
        per = "per million" if one.per > 1 else "each"
        quantity = f"  {float(one.quantity):>14,.15g}" if one.quantity else ""
        echo(f"  {one.unit:<24}{price.decimal(one.usd):>12} USD {per:<12}{quantity}".rstrip())
    for unit in found.unpriced:
        echo(f"  {unit:<24}{'no price':>12}")
    if found.nano_usd is not None:
        echo(f"Cost      {price.decimal(Fraction(found.nano_usd, 10**9))} USD")
