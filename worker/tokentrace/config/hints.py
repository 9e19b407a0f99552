"""Hints: what the writer of a wrong key or value has probably meant, in the form that is right here."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Final

#: Least likeness of a word to what it is taken for.
_NEAR: Final = 0.65
#: A number as people write it: a currency, digits with separators, and a unit.
_NUMBER: Final = re.compile(
    r"(?:[$€£]|usd|eur)?\s*(?P<digits>\d[\d,_' ]*(?:\.\d+)?(?:e\+?\d+)?)\s*(?P<unit>[a-z%$€]*)", re.IGNORECASE
)
#: A number with a comma before its decimals.
_COMMA: Final = re.compile(r"\d+,\d{1,2}|\d{1,3}(\.\d{3})+,\d+")
_THOUSANDS: Final = re.compile(r"\d{1,3}([,_' ]\d{3})+(\.\d+)?")
#: Unit -> what it multiplies by; those of bytes and of money are understood where they stand alone.
_UNITS: Final = {
    "": 1, "$": 1, "€": 1, "usd": 1, "eur": 1, "b": 1, "bytes": 1, "ms": 1, "tokens": 1, "%": 1, "percent": 1,
    "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30,
    "s": 1000, "sec": 1000,
}  # fmt: skip


def _by_word(meanings: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Return word -> what it may mean. meanings: words with one meaning -> what they may mean, parted by spaces."""
    return {word: tuple(meant.split()) for words, meant in meanings.items() for word in words.split()}


#: Another word for a key -> the keys that it may mean, whichever of them a section has.
_OTHER_WORDS: Final = _by_word({
    "broker brokers server servers bootstrap bootstrap_server hosts": "bootstrap_servers",
    "group consumer_group consumer_group_id groupid": "group_id",
    "format encoding serialization": "framing",
    "offset offset_reset auto_offset_reset": "start",
    "config options settings librdkafka": "properties",
    "dlq dead_letters dlq_topic deadletter": "dead_letter_topic",
    "port host listen bind listen_address": "addr",
    "metrics_path path": "prometheus_path",
    "cert crt cert_file certificate_file": "certificate",
    "key_file private_key": "key",
    "ca ca_file ca_cert cacert": "ca client_ca",
    "user login": "username",
    "basic_auth_user_info": "auth",
    "auth authentication authorization basic_auth api_key api_token password": "auth_token",
    "memory mem max_memory": "memory_limit",
    "since start begin begins valid_from effective effective_from": "from",
    "to end ends valid_until valid_to expires before": "until",
    "tier": "service_tier",
    "region": "inference_region",
    "discount": "percent",
    "webhook_url": "url delivery",
    "attribute field header": "source",
    "allowed": "values",
    "token bearer": "bearer_token auth_token",
    "id pod": "replica_id name",
    "alert rule title": "name",
    "name model_name": "model",
    "expr query expression": "metric",
    "operator comparison condition": "op",
    "for duration range lookback": "window",
    "value level limit": "threshold amount",
    "budget usd max max_usd cost": "amount",
    "by groupby labels": "group_by",
    "where match selector matchers": "filter",
    "notify notification notifications receiver action webhook": "delivery url",
    "retries": "max_retries",
    "input input_per_1m input_tokens": "prompt prompt_per_1m",
    "output output_per_1m output_tokens": "completion completion_per_1m",
    "cached cached_input cache_hit": "cache_read cached_prompt_per_1m",
    "cache_creation cache_writes": "cache_write",
    "multiplier factor": "multiply",
    "http web endpoint": "http_server",
    "db database dsn uri": "ledger url",
    "log logging": "log_level",
    "dedup deduplication dedupe": "deduplicate",
    "prices costs": "pricing",
    "tags custom_labels": "dimensions",
    "files folder folders directory": "paths",
})  # fmt: skip

#: Another word for a value -> the values that it may mean, whichever of them a key has.
_OTHER_VALUES: Final = _by_word({
    "> above over more more_than greater greater_than exceeds": "gt",
    ">= ge at_least": "gte",
    "< below under less less_than": "lt",
    "<= le at_most": "lte",
    "page high error err crit fatal emergency critical": "critical error",
    "warn medium moderate": "warning",
    "low notice information informational": "info",
    "trace all verbose": "debug",
    "webhook slack teams discord pagerduty opsgenie https post": "http",
    "console log print": "stdout",
    "topic": "kafka",
    "beginning begin smallest oldest first": "earliest",
    "end largest newest last now": "latest",
    "avro": "auto",
    "registry schema_registry": "confluent",
    "otlp protobuf proto": "otlp_proto",
    "new next kip_848 kip848": "consumer",
    "old cooperative": "classic",
    "daily 1d 24h": "day",
    "weekly 1w 7d": "week",
    "monthly 1mo 30d 31d": "month",
    "eos exactly_once_v2 effectively_once": "exactly_once",
    "tlsv1.2 tls1.2 tls12": "1.2",
    "tlsv1.3 tls1.3 tls13": "1.3",
    "cost spend cost_usd cost_total usd": "total_cost",
    "avg_cost average_cost cost_per_call cost_per_request": "cost_per_span",
    "spans calls requests count request_count spans_total": "span_count",
    "errors failure_rate failures": "error_rate",
    "timeouts": "timeout_rate",
    "p50 median p50_latency latency_median": "latency_p50",
    "p95 p95_latency latency latency_ms duration": "latency_p95",
    "p99 p99_latency": "latency_p99",
    "ttft ttft_ms p95_ttft": "ttft_p95",
    "tokens tokens_total token_count": "total_tokens",
    "quality score eval_score": "quality_score",
    "text plain": "text",
})  # fmt: skip

#: Words for true and false that YAML reads as text.
_TRUE: Final = frozenset({"true", "yes", "y", "on", "t", "1", "enabled", "enable"})
_FALSE: Final = frozenset({"false", "no", "n", "off", "f", "0", "disabled", "disable", "none", "never"})

#: A variable as other programs write it.
_VARIABLES: Final = (
    (re.compile(r"\$([A-Z_][A-Z0-9_]*)"), "is the text {text!r}; a variable is written ${{{name}}}"),
    (re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)"), "is the text {text!r}; a variable is written ${{{name}}}"),
    (re.compile(r"%([A-Z_][A-Z0-9_]*)%"), "is the text {text!r}; a variable is written ${{{name}}}"),
    (re.compile(r"\$?\{\{(.*)\}\}"), "is the text of a template, {text!r}, which nothing has filled in"),
)


def number_meant(text: str, *, percent: Decimal | None = None) -> str:
    """Return the number that a text such as 1GiB, 10,000 or $25 means, empty if it is none.

    percent: what % is there: 1 in a key for percent, a hundredth in one for a share; None where it is nothing.
    """
    if _COMMA.fullmatch(text.strip()):
        return text.strip().replace(".", "").replace(",", ".")
    found = _NUMBER.fullmatch(text.strip())
    if found is None:
        return ""
    digits, unit = found["digits"].strip(), found["unit"].lower()
    separated = re.search(r"[,_' ]", digits) is not None
    if unit in ("%", "percent") and percent is None:
        return ""
    if unit not in _UNITS or (separated and not _THOUSANDS.fullmatch(digits)):
        return ""
    try:
        number = Decimal(re.sub(r"[,_' ]", "", digits)) * _UNITS[unit]
    except ArithmeticError:
        return ""
    if percent is not None and unit in ("%", "percent"):
        number *= percent
    return f"{number.normalize():f}" if number < 10**18 else ""


def value_meant(text: str, choices: Sequence[str]) -> str:
    """Return the one of a key's values that a text means, empty if none is near."""
    word = text.strip().lower()
    if word in choices:
        return word
    word = word.replace("-", "_").replace(" ", "_").removeprefix("tokentrace_")
    if meant := [choice for choice in _OTHER_VALUES.get(word, ()) if choice in choices]:
        return meant[0]
    # A version is not near another one.
    return "" if word[:1].isdigit() else next(iter(difflib.get_close_matches(word, choices, 1, _NEAR)), "")


def truth_meant(value: object) -> str:
    """Return true or false, whichever a value means, empty if neither."""
    word = str(value).strip().lower()
    return "true" if word in _TRUE else "false" if word in _FALSE else ""


def key_near(word: str, keys: Iterable[str], least: float = _NEAR) -> str:
    """Return the key of these that a word misspells, empty if none is near. least: likeness that counts as near."""
    word = word.lower().replace("-", "_")
    keys = list(keys)
    longer = [key for key in keys if key.startswith(f"{word}_")]
    return next(iter([*longer, *difflib.get_close_matches(word, keys, 1, least)]), "")


def keys_meant(word: str, keys: list[str]) -> list[str]:
    """Return those of the keys for which this is another word."""
    return [key for key in _OTHER_WORDS.get(word.lower().replace("-", "_"), ()) if key in keys]


def variable_meant(text: str) -> str:
    """Return what is wrong with a text that is a variable in another program's spelling, empty if it is none."""
    for shape, problem in _VARIABLES:
        if found := shape.fullmatch(text.strip()):
            return problem.format(text=text.strip(), name=found[1].strip())
    return ""
