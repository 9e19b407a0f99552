"""Hints: what the writer of a wrong key or value has probably meant, in the form that is right here."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

#: A number as people write it: a currency, digits with separators, and a unit.
_NUMBER: Final = re.compile(
    r"(?:[$€£]|usd|eur)?\s*(?P<digits>\d[\d,_' ]*(?:\.\d+)?(?:e\+?\d+)?)\s*(?P<unit>[a-z%$€]*)", re.IGNORECASE
)
_THOUSANDS: Final = re.compile(r"\d{1,3}([,_' ]\d{3})+(\.\d+)?")
#: Unit -> what it multiplies by; those of bytes and of money are understood where they stand alone.
_UNITS: Final = {
    "": 1, "$": 1, "€": 1, "usd": 1, "eur": 1, "b": 1, "bytes": 1, "ms": 1, "tokens": 1, "%": 1, "percent": 1,
    "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30,
    "s": 1000, "sec": 1000,
}  # fmt: skip

#: Another word for a key -> the keys that it may mean, whichever of them a section has.
_OTHER_WORDS: Final[dict[str, tuple[str, ...]]] = {
    key: tuple(meant.split())
    for words, meant in {
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
        "ca_file ca_cert cacert": "ca client_ca",
        "user login": "username",
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
    }.items()
    for key in words.split()
}  # fmt: skip

#: A variable as other programs write it.
_VARIABLES: Final = (
    (re.compile(r"\$([A-Z_][A-Z0-9_]*)"), "is the text {text!r}; a variable is written ${{{name}}}"),
    (re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)"), "is the text {text!r}; a variable is written ${{{name}}}"),
    (re.compile(r"%([A-Z_][A-Z0-9_]*)%"), "is the text {text!r}; a variable is written ${{{name}}}"),
    (re.compile(r"\$?\{\{(.*)\}\}"), "is the text of a template, {text!r}, which nothing has filled in"),
)


def number_meant(text: str, *, share: bool = False) -> str:
    """Return the number that a text such as 1GiB, 10,000 or $25 means, empty if it is none. share: % is a hundredth."""
    found = _NUMBER.fullmatch(text.strip())
    if found is None:
        return ""
    digits, unit = found["digits"].strip(), found["unit"].lower()
    separated = re.search(r"[,_' ]", digits) is not None
    if unit not in _UNITS or (separated and not _THOUSANDS.fullmatch(digits)):
        return ""
    try:
        number = Decimal(re.sub(r"[,_' ]", "", digits)) * _UNITS[unit]
    except ArithmeticError:
        return ""
    if share and unit in ("%", "percent"):
        number /= 100
    return f"{number.normalize():f}" if number < 10**18 else ""


def keys_meant(word: str, keys: list[str]) -> list[str]:
    """Return those of the keys for which this is another word."""
    return [key for key in _OTHER_WORDS.get(word.lower().replace("-", "_"), ()) if key in keys]


def variable_meant(text: str) -> str:
    """Return what is wrong with a text that is a variable in another program's spelling, empty if it is none."""
    for shape, problem in _VARIABLES:
        if found := shape.fullmatch(text.strip()):
            return problem.format(text=text.strip(), name=found[1].strip())
    return ""
