"""Prices of `tokentrace bill --reprice`, `--what-if` and `tokentrace ledger correct`, from their options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from tokentrace.config import Config
    from tokentrace.ledger.period import Period
    from tokentrace.ledger.reprice import Repricing


def repricing_of(config: Config, prices: Path | None, swaps: Sequence[str], reported: bool) -> Repricing:
    """Return what prices the ledger again. prices: a configuration file with the section pricing, None for today's."""
    from tokentrace.config import load_config
    from tokentrace.ledger.reprice import Repricing, parse_swap
    from tokentrace.runtime.price_rules import pricer

    now = pricer(config)
    then = now if prices is None else pricer(load_config(prices))
    repricing = Repricing(now, then, [parse_swap(text) for text in swaps], reported=reported)
    repricing.require_priced()
    return repricing


def period_of(month: str | None, begin: str | None, end: str | None, zone: str) -> Period:
    """Return the period of the options. Raises click.UsageError unless they are one."""
    from tokentrace.ledger import period

    if month is not None and begin is None and end is None:
        return period.month(month, period.find_zone(zone))
    if month is None and begin is not None and end is not None:
        return period.between(begin, end, period.find_zone(zone))
    raise click.UsageError("Set --month, or --from and --to.")
