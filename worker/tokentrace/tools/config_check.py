"""Check of a configuration beyond its file: the files that it names, the Kafka library's view of it, useless rules.

`config.reading` finds what the file itself shows, for every command. What is here would be wrong for a command that
runs elsewhere than the worker, where the worker's files are missing.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from tokentrace.config import Config, Kafka
from tokentrace.config.alerts import AlertRule
from tokentrace.config.document import KeyPath
from tokentrace.config.hints import number_meant
from tokentrace.config.problems import Problem
from tokentrace.config.reading import Reading, in_order
from tokentrace.config.schemas import RegistryTls
from tokentrace.decode.resolve import check_readable
from tokentrace.decode.schemas.files import load_folder, load_schema
from tokentrace.errors import ConfigError, SchemaError
from tokentrace.kafka.property_check import SESSION_TIMEOUT, property_problems
from tokentrace.model.durations import duration, format_duration
from tokentrace.runtime.schema_sources import registry
from tokentrace.runtime.settings import source_settings

Found = Iterator[tuple[KeyPath, str]]

#: Metrics between 0 and 1.
SHARES: Final = frozenset({"error_rate", "timeout_rate", "quality_score"})
#: Metrics that are quantiles -> the histogram that they are read from.
MEASURES: Final = {
    "latency_p50": "latency_ms", "latency_p95": "latency_ms", "latency_p99": "latency_ms", "ttft_p95": "ttft_ms",
    "prompt_token_p95": "prompt_tokens",
}  # fmt: skip
_REACHES: Final = {"gt": "above", "gte": "at or above", "lt": "below", "lte": "at or below"}


def every_problem(reading: Reading) -> list[Problem]:
    """Return the problems of a reading and of what its configuration refers to, by line."""
    problems = list(reading.problems)
    config = reading.config
    wrong = {problem.path for problem in problems}
    for check in (_properties, _server_files, _registry, _schemas, _rules, _ledger):
        for path, what in check(config):
            # What is below a wrong section is not what the file says.
            if not any(path[:length] in wrong for length in range(1, len(path) + 1)):
                problems.append(reading.problem(path, what))
    return in_order(problems)


def _properties(config: Config) -> Found:
    settings = source_settings(config)
    used = {**settings.fetch, **settings.consumer_settings()}
    for name, what in property_problems(config.kafka.properties, used):
        if name == SESSION_TIMEOUT:
            yield ("worker", "session_timeout"), what
        else:
            hint = _property_hint(name, config.kafka.properties.get(name), what)
            yield ("kafka", "properties", *([name] if name else [])), what + hint


def _property_hint(name: str, value: Any, what: str) -> str:
    """Return what to write instead of a property that the library cannot use, empty if that is not known."""
    if what == "is not a property of librdkafka" and name in Kafka.model_fields:
        return f"; {name} is a key of kafka: write it beside properties"
    if what.startswith("must be a number") and isinstance(value, str):
        meant = number_meant(value)
        if name.endswith(".ms"):
            with suppress(ValueError):
                meant = f"{duration(value) * 1000:.0f}"
        return f"; write {meant}" if meant else ""
    return ""


def _server_files(config: Config) -> Found:
    http = config.http_server
    for name in ("auth_token_file", "admin_token_file"):
        path: Path | None = getattr(http, name)
        if path is None:
            continue
        if what := _unreadable(path):
            yield ("http_server", name), what
        elif not path.read_bytes().strip():
            yield ("http_server", name), f"the file {path} is empty, which would disable authentication"
    if http.tls is not None:
        yield from _pair(("http_server", "tls"), http.tls.certificate, http.tls.key)
        if http.tls.client_ca is not None:
            yield from _authority(("http_server", "tls", "client_ca"), http.tls.client_ca)


def _registry(config: Config) -> Found:
    tls = config.schema_registry.tls
    if not config.schema_registry.url:
        used = {"auth": config.schema_registry.auth is not None, "tls": tls != RegistryTls()}
        yield from ((("schema_registry", name), "has no effect without url") for name, given in used.items() if given)
    found: list[tuple[KeyPath, str]] = []
    if config.schema_registry.auth is not None and "@" in urlsplit(config.schema_registry.url).netloc:
        found.append((("schema_registry", "auth"), "is set, and url has a user name too; leave one of them out"))
    if tls.ca is not None:
        found += _authority(("schema_registry", "tls", "ca"), tls.ca)
    if tls.certificate is not None:
        found += _pair(("schema_registry", "tls"), tls.certificate, tls.key or tls.certificate)
    yield from found
    if not found:
        try:
            registry(config)
        except ConfigError as error:
            for problem in error.problems:
                yield ("schema_registry",), problem.removeprefix("schema_registry: ")


def _schemas(config: Config) -> Found:
    for index, folder in enumerate(config.schemas.paths):
        path: KeyPath = ("schemas", "paths", index)
        try:
            schemas = load_folder(folder, "")
        except ConfigError as error:
            yield from ((path, problem.removeprefix(": ")) for problem in error.problems)
        else:
            if not schemas:
                yield path, f"{folder} has no .avsc files"
    files: list[tuple[KeyPath, Path]] = [
        (("schemas", "glue", version), path) for version, path in config.schemas.glue.items()
    ]
    if config.schemas.raw is not None:
        files.append((("schemas", "raw"), config.schemas.raw))
    for path, file in files:
        try:
            check_readable(load_schema(file, ""))
        except ConfigError as error:
            yield from ((path, problem.removeprefix(": ")) for problem in error.problems)
        except SchemaError as error:
            yield path, f"{file} is not a schema of spans: {error}"


def _rules(config: Config) -> Found:
    """Yield the rules that cannot fire, or fire at every evaluation."""
    for index, rule in enumerate(config.alerts):
        path: KeyPath = ("alerts", index, "threshold")
        share = rule.metric in SHARES
        low = rule.threshold < 0
        high = share and (rule.threshold > 1 or (rule.threshold == 1 and rule.op == "gt"))
        if share and (low or high):
            yield (
                path,
                f"{rule.metric} is between 0 and 1, so {rule.threshold:g} is never passed"
                + (f"; {rule.threshold:g} % is {rule.threshold / 100:g}" if 1 <= rule.threshold <= 100 else ""),
            )
        elif low or (rule.op == "lt" and rule.threshold == 0):
            yield (
                path,
                f"{rule.metric} is never below 0, so whether it is {_REACHES[rule.op]} {rule.threshold:g} is fixed",
            )
        elif what := _beyond_buckets(rule, config):
            yield path, what
        elif rule.metric == "span_count" and rule.threshold <= rule.min_spans - {"lt": 0, "lte": 1}.get(rule.op, 1e300):
            yield (
                ("alerts", index, "min_spans"),
                f"a rule on fewer spans than {rule.min_spans} does not fire, so this one never does; leave it out",
            )
        if rule.interval is not None and rule.interval > rule.window:
            yield (
                ("alerts", index, "interval"),
                f"is longer than the window {format_duration(rule.window)}, so spans between two windows are not seen",
            )


def _beyond_buckets(rule: AlertRule, config: Config) -> str:
    """Return what is wrong with a threshold above every value that a quantile can have, empty if it is not."""
    measure = MEASURES.get(rule.metric)
    if measure is None or rule.op not in ("gt", "gte"):
        return ""
    highest: float = getattr(config.metrics.buckets, measure)[-1]
    if rule.threshold < highest or (rule.op == "gte" and rule.threshold == highest):
        return ""
    return (
        f"{rule.metric} is at most {highest:g}, the last of metrics.buckets.{measure}, so {rule.threshold:g} is never "
        "passed; add a bound beyond it there"
    )


def _ledger(config: Config) -> Found:
    url = config.ledger.url or ""
    if url.startswith("sqlite:///"):
        file = Path(url.removeprefix("sqlite:///").partition("?")[0])
        if not file.parent.is_dir():
            yield ("ledger", "url"), f"the folder {file.parent} does not exist"


def _unreadable(path: Path) -> str:
    """Return why a file cannot be read, empty if it can."""
    if not path.exists():
        return f"the file {path} does not exist"
    if not path.is_file():
        return f"{path} is not a file"
    try:
        path.open("rb").close()
    except OSError as error:
        return f"the file {path} cannot be read ({error.strerror})"
    return ""


def _pair(section: KeyPath, certificate: Path, key: Path) -> Found:
    unreadable = [
        (name, what) for name, path in (("certificate", certificate), ("key", key)) if (what := _unreadable(path))
    ]
    yield from (((*section, name), what) for name, what in unreadable if name != "key" or key != certificate)
    if unreadable:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without a password, OpenSSL would ask for one on the terminal.
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None)
        if reason == "KEY_VALUES_MISMATCH":
            yield (*section, "key"), f"{key} is not the key of the certificate {certificate}"
        else:
            yield (
                (*section, "certificate"),
                f"{certificate} and {key} are not a certificate and its key in PEM ({_reason(error)})",
            )


def _authority(path: KeyPath, file: Path) -> Found:
    what = _unreadable(file)
    if not what:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
        except (OSError, ssl.SSLError) as error:
            what = f"{file} is not a certificate in PEM ({_reason(error)})"
    if what:
        yield path, what


def _reason(error: Exception) -> str:
    """Return the words of OpenSSL, without its codes and the line in its source."""
    return str(getattr(error, "reason", None) or error).replace("_", " ").lower()
