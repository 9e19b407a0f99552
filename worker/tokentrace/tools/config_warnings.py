"""Warnings of a configuration check: what is right by itself, and rarely what its writer means."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Final

from tokentrace.config import Config
from tokentrace.config.document import KeyPath
from tokentrace.config.problems import Problem
from tokentrace.config.reading import Reading, in_order
from tokentrace.kafka.topics import ROLLUPS_RETENTION_S
from tokentrace.model.durations import format_duration
from tokentrace.runtime.topic_setup import rollups_retention_s
from tokentrace.tools.config_check import MEASURES, Found

if TYPE_CHECKING:
    from tokentrace.pricing.genai_prices import GenaiPrices

#: Least time without heartbeats that a broker accepts by default, group.min.session.timeout.ms.
_LEAST_SESSION_S: Final = 6.0
#: Latencies below it are hardly in milliseconds.
_LEAST_LATENCY_MS: Final = 20.0
#: A last bound up to it is of seconds.
_LEAST_LAST_BOUND_MS: Final = 60.0
#: Least price that anybody asks for a million tokens, in USD, and the factor by which prices of one model differ.
_LEAST_USD: Final = Decimal("0.001")
_UNLIKELY: Final = 100
#: Metrics that are bad when they are high.
_BAD: Final = frozenset({"error_rate", "error_count", "timeout_rate"})


def warnings(reading: Reading) -> list[Problem]:
    """Return the warnings by line, and those that depend on Kafka last."""
    wrong = {problem.path for problem in reading.problems}
    checks = (_session, _verification, _buckets, _rules, _prices, _discounts)
    found = [
        reading.problem(path, what) for check in checks for path, what in check(reading.config) if path not in wrong
    ]
    return in_order(found) + [reading.problem(path, what) for path, what in _windows(reading.config)]


def _session(config: Config) -> Found:
    if config.worker.session_timeout < _LEAST_SESSION_S:
        yield ("worker", "session_timeout"), "brokers accept 6s or more, unless group.min.session.timeout.ms is less"


def _verification(config: Config) -> Found:
    name = "enable.ssl.certificate.verification"
    if str(config.kafka.properties.get(name, "true")).lower() == "false":
        yield (
            ("kafka", "properties", name),
            "the brokers' certificates are not verified, so that anybody between can read and answer; "
            "set ssl.ca.location instead",
        )


def _buckets(config: Config) -> Found:
    for name in ("latency_ms", "ttft_ms"):
        last: float = getattr(config.metrics.buckets, name)[-1]
        if last <= _LEAST_LAST_BOUND_MS:
            yield ("metrics", "buckets", name), f"the bounds are in milliseconds, and the last one is {last:g}"


def _rules(config: Config) -> Found:
    for index, rule in enumerate(config.alerts):
        latency = MEASURES.get(rule.metric, "").endswith("_ms")
        if latency and 0 < rule.threshold < _LEAST_LATENCY_MS:
            what = f"{rule.metric} is in milliseconds, so {rule.threshold:g} is {rule.threshold / 1000:g} seconds"
            yield ("alerts", index, "threshold"), what
        up, quality = rule.op in ("gt", "gte"), rule.metric == "quality_score"
        if quality == up and (quality or latency or rule.metric in _BAD):
            direction, other = ("high", "lt") if up else ("low", "gt")
            what = f"the rule fires while {rule.metric} is {direction}, which is good; write {other}?"
            yield ("alerts", index, "op"), what


def _prices(config: Config) -> Found:
    models = config.pricing.models
    if isinstance(models, Mapping):
        for glob, rates in models.items():
            path: KeyPath = ("pricing", "models", glob)
            prices = {"prompt": rates.prompt_per_1m, "completion": rates.completion_per_1m}
            yield from _unlikely(glob, "", {(*path, f"{unit}_per_1m"): (unit, usd) for unit, usd in prices.items()})
            if rates.cached_prompt_per_1m is not None and rates.cached_prompt_per_1m > rates.prompt_per_1m:
                what = f"cached tokens cost more than the {rates.prompt_per_1m:f} of others"
                yield (*path, "cached_prompt_per_1m"), what
        return
    for index, rule in enumerate(models):
        path = ("pricing", "models", index, "rates")
        provider = "" if rule.provider == "*" else rule.provider
        prices = {unit: usd for unit, usd in rule.rates.items() if unit in ("prompt", "completion")}
        yield from _unlikely(rule.model, provider, {(*path, unit): (unit, usd) for unit, usd in prices.items()})


def _unlikely(glob: str, provider: str, prices: Mapping[KeyPath, tuple[str, Decimal]]) -> Found:
    """Yield the prices that are for another quantity than a million tokens, by those of the table or by their size."""
    model = glob.removesuffix("*")
    plain = not any(sign in model + provider for sign in "*?[")
    match = _table().find(model, provider) if model and plain and any(usd for _, usd in prices.values()) else None
    for path, (unit, usd) in prices.items():
        row = None if match is None else match.plan[0].tiers[0].rates
        usual = Decimal(0) if row is None else Decimal(row.rate(unit)) / row.per_nano / 1000
        if usd and usual and not usual / _UNLIKELY < usd < usual * _UNLIKELY:
            what = f"{usd:f} is far from the {usual.normalize():f} of the built-in table"
            yield path, f"prices are in USD per million tokens; {what}"
        elif 0 < usd < _LEAST_USD and not usual:
            yield path, f"prices are in USD per million tokens, and {usd:f} is less than any"


@cache
def _table() -> GenaiPrices:
    from tokentrace.pricing.genai_prices import GenaiPrices  # Takes a third of a second.

    return GenaiPrices()


def _discounts(config: Config) -> Found:
    for index, discount in enumerate(config.pricing.discounts):
        if discount.percent < 1:
            what = f"{discount.percent:f} is less than one percent; an eighth is 12.5"
            yield ("pricing", "discounts", index, "percent"), what


def _windows(config: Config) -> Found:
    needed_ms = round(rollups_retention_s(config) * 1000)
    for index, rule in enumerate(config.alerts):
        if rule.window >= ROLLUPS_RETENTION_S:
            yield (
                ("alerts", index, "window"),
                f"{format_duration(rule.window)} requires that topic {config.kafka.rollups_topic!r} retains that much; "
                f"a worker creates it so, and an existing one needs retention.ms={needed_ms}",
            )
