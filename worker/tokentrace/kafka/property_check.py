"""Check of librdkafka properties: every one that the library rejects, ignores or cannot use, without a connection.

The library says the first problem of a client and stops. So each property is tried alone, and then all of them in the
clients that a worker makes, without the one that the library names, until it makes them.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from confluent_kafka import KafkaException

from tokentrace.errors import UsageError
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.errors import error_of
from tokentrace.model.secrets import HIDDEN, public_property

#: Properties that operators set, for suggestions.
USUAL: Final = (
    "api.version.request", "broker.address.family", "client.dns.lookup", "client.rack", "connections.max.idle.ms",
    "debug", "enable.ssl.certificate.verification", "fetch.error.backoff.ms", "fetch.max.bytes",
    "fetch.message.max.bytes", "fetch.min.bytes", "fetch.wait.max.ms", "linger.ms", "max.partition.fetch.bytes",
    "max.poll.interval.ms", "message.timeout.ms", "metadata.max.age.ms", "queued.max.messages.kbytes",
    "queued.min.messages", "reconnect.backoff.max.ms", "reconnect.backoff.ms", "request.timeout.ms",
    "sasl.kerberos.keytab", "sasl.kerberos.principal", "sasl.kerberos.service.name", "sasl.mechanism",
    "sasl.mechanisms", "sasl.oauthbearer.client.id", "sasl.oauthbearer.client.secret", "sasl.oauthbearer.config",
    "sasl.oauthbearer.method", "sasl.oauthbearer.scope", "sasl.oauthbearer.token.endpoint.url", "sasl.password",
    "sasl.username", "security.protocol", "socket.connection.setup.timeout.ms", "socket.keepalive.enable",
    "socket.timeout.ms", "ssl.ca.location", "ssl.ca.pem", "ssl.certificate.location", "ssl.certificate.pem",
    "ssl.cipher.suites", "ssl.crl.location", "ssl.endpoint.identification.algorithm", "ssl.key.location",
    "ssl.key.password", "ssl.key.pem", "ssl.keystore.location", "ssl.keystore.password", "statistics.interval.ms",
)  # fmt: skip

#: Property -> its values, where the library does not list them.
_VALUES: dict[str, tuple[str, ...]] = {
    "security.protocol": ("plaintext", "ssl", "sasl_plaintext", "sasl_ssl"),
    "sasl.mechanism": ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"),
    "compression.type": ("none", "gzip", "snappy", "lz4", "zstd"),
    "ssl.endpoint.identification.algorithm": ("none", "https"),
    "broker.address.family": ("any", "v4", "v6"),
}

_VALUES |= {"sasl.mechanisms": _VALUES["sasl.mechanism"], "compression.codec": _VALUES["compression.type"]}

#: Names of the same property: the library reports the one on the right.
_ALIASES: Final = {
    "linger.ms": "queue.buffering.max.ms",
    "compression.type": "compression.codec",
    "sasl.mechanisms": "sasl.mechanism",
    "acks": "request.required.acks",
    "delivery.timeout.ms": "message.timeout.ms",
    "max.in.flight": "max.in.flight.requests.per.connection",
}

#: Properties that are nothing without one of some others.
_PAIRS: Final = (
    (("ssl.certificate.location", "ssl.certificate.pem"), ("ssl.key.location", "ssl.key.pem")),
    (("ssl.key.location", "ssl.key.pem"), ("ssl.certificate.location", "ssl.certificate.pem")),
    (("ssl.key.password",), ("ssl.key.location", "ssl.key.pem")),
    (("ssl.keystore.password",), ("ssl.keystore.location",)),
)

#: Words of the library for a client that it does not make, rather than for a property alone.
_CREATING: Final = re.compile(r"^Failed to create [\w ]+: ")
#: Words in the library's log for a property that has no effect.
_IGNORED: Final = re.compile(r"Configuration property `?([\w.]+)`? (only applies when .*)")
#: The name of a property at the beginning of its problem, which the reader has seen.
_NAME: Final = re.compile(r"^(Configuration property \"[\w.]+\" |[\w.]+ failed: )")
#: Addresses of help pages, and codes of OpenSSL, which say less than the words around them.
_NOISE: Final = re.compile(r" See https?://\S+ for more information\.|, see https?://\S+ for more information\.?")

#: Words of OpenSSL for what is not in PEM.
_NO_PEM: Final = re.compile("no certificate or crl found|no start line: Expecting: CERTIFICATE")

#: Beginnings of the properties of which none is right without the others.
_ACCESS: Final = ("sasl.", "security.protocol")

#: A key of the configuration that a client's problem is about, instead of a property: name in the problem -> key.
SESSION_TIMEOUT: Final = "session.timeout.ms"


def property_problems(
    properties: Mapping[str, Any], consumer_settings: Mapping[str, Any] | None = None
) -> Iterator[tuple[str, str]]:
    """Yield (name of a property, what is wrong with it); the name is empty for what no property of these explains.

    consumer_settings: those of a worker's membership, of which SESSION_TIMEOUT is named as if it were a property.
    """
    good = dict(properties)
    checks = (_alone, _not_a_number, _missing_file, _without_effect, _incomplete)
    for name, check in ((name, check) for name in properties for check in checks):
        if name in good and (what := check(name, properties)):
            del good[name]
            yield name, what
    if any(name.startswith("sasl.") for name in properties if name not in good):
        good = {name: value for name, value in good.items() if not name.startswith(_ACCESS)}
    yield from _together(good, consumer_settings or {})


def _missing_file(name: str, properties: Mapping[str, Any]) -> str:
    value = str(properties[name])
    if not name.endswith((".location", ".keytab")) or value == "probe" or not value:
        return ""
    path = Path(value)
    if not path.exists():
        beside = "" if path.is_absolute() else f", seen from the working folder {Path.cwd()}"
        return f"the file {value} does not exist{beside}"
    try:
        if path.is_file():
            path.open("rb").close()
    except OSError as error:
        return f"the file {value} cannot be read ({error.strerror})"
    return ""


def _without_effect(name: str, properties: Mapping[str, Any]) -> str:
    """Reject a property of TLS or SASL without the protocol that uses it: the connection would lack it in silence."""
    protocol = str(properties.get("security.protocol", "plaintext")).lower()
    if protocol not in _VALUES["security.protocol"]:
        return ""
    if name.startswith("ssl.") and "ssl" not in protocol:
        return f"has no effect with security.protocol {protocol}; set that to ssl or sasl_ssl"
    if name.startswith("sasl.") and "sasl" not in protocol:
        return f"has no effect with security.protocol {protocol}; set that to sasl_ssl or sasl_plaintext"
    return ""


def _not_a_number(name: str, properties: Mapping[str, Any]) -> str:
    """Reject text of which the library reads the digits at its beginning alone: 60s would be 60 milliseconds."""
    value = properties[name]
    if not isinstance(value, str) or not re.match(r"\s*[+-]?\d", value) or re.fullmatch(r"\s*[+-]?[\d.]+\s*", value):
        return ""
    if not _problem(lambda clients: clients.admin(), {name: "x"}).startswith("Invalid value"):
        return ""
    unit = " of milliseconds" if name.endswith(".ms") else " of bytes" if name.endswith("bytes") else ""
    return f"must be a number{unit}, not {value!r}, of which the library reads the beginning alone"


def _incomplete(name: str, properties: Mapping[str, Any]) -> str:
    """Reject what needs a second property, or contradicts one, and what the library does not say so of."""
    if name in ("sasl.mechanism", "sasl.mechanisms"):
        both = [properties.get(other) for other in ("sasl.mechanism", "sasl.mechanisms")]
        if name == "sasl.mechanisms" and None not in both and both[0] != both[1]:
            return f"is another name of sasl.mechanism, which is {both[0]}; leave one of them out"
        mechanism = str(properties[name])
        if mechanism not in _VALUES[name]:
            close = difflib.get_close_matches(mechanism.upper(), _VALUES[name], 1)
            hint = f'did you mean "{close[0]}"?' if close else f"use {', '.join(_VALUES[name])}"
            return f"{mechanism!r} is not a mechanism that the library has; {hint}"
        unsecured = str(properties.get("enable.sasl.oauthbearer.unsecure.jwt", "")).lower() == "true"
        if mechanism == "OAUTHBEARER" and properties.get("sasl.oauthbearer.method") != "oidc" and not unsecured:
            return (
                "OAUTHBEARER needs sasl.oauthbearer.method: oidc, with sasl.oauthbearer.token.endpoint.url, "
                "sasl.oauthbearer.client.id and sasl.oauthbearer.client.secret"
            )
        missing = [other for other in ("sasl.username", "sasl.password") if not str(properties.get(other) or "")]
        if missing and mechanism != "OAUTHBEARER" and "sasl" in str(properties.get("security.protocol", "")).lower():
            return f"{mechanism} needs {' and '.join(missing)}"
    for first, second in _PAIRS:
        if name in first and not any(properties.get(other) for other in second):
            return f"has no effect without {' or '.join(second)}"
    return ""


def _alone(name: str, properties: Mapping[str, Any]) -> str:
    """Return what the library says of a property by itself."""
    value = properties[name]
    problem = _problem(lambda clients: clients.admin(), {name: value})
    if not problem or _CREATING.match(problem):
        return ""
    if problem.startswith("No such configuration property"):
        close = difflib.get_close_matches(name.lower(), USUAL, 1, 0.75)
        return "is not a property of librdkafka" + (f'; did you mean "{close[0]}"?' if close else "")
    if problem.startswith("Invalid value"):
        shown = public_property(name, value)
        if isinstance(shown, bool):
            shown = str(shown).lower()
        choices = _VALUES.get(name)
        hint = f"; use {', '.join(choices[:-1])} or {choices[-1]}" if choices else ""
        meant = str(value).lower().replace("-", "_").replace("tls", "ssl")
        hint += f', here "{meant}"' if choices and meant in choices else ""
        return f"{shown!r} is not a valid value{hint}"
    return _plain(problem, properties)


def _together(good: dict[str, Any], consumer_settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the problems of the properties in the clients of a worker. good: properties that are right alone."""
    makers: tuple[Callable[[KafkaClients], object], ...] = (
        lambda clients: clients.consumer(group_id="check", settings=consumer_settings),
        lambda clients: clients.producer(),
        lambda clients: clients.transactional_producer("check"),
    )
    for make in makers:
        while problem := _problem(make, good):
            what = _plain(_CREATING.sub("", problem), good)
            name = _named(problem, good)
            if name.startswith(_ACCESS):
                good = {name: value for name, value in good.items() if not name.startswith(_ACCESS)}
            elif name:
                del good[name]
            elif SESSION_TIMEOUT in problem and SESSION_TIMEOUT in consumer_settings:
                name, consumer_settings = SESSION_TIMEOUT, {}
            yield name, what
            if not name:
                break
    yield from _ignored(good)


def _ignored(good: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the properties that the library says it ignores."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(f"{__name__}.ignored")
    logger.addHandler(handler)
    logger.propagate = False
    try:
        producer = KafkaClients(bootstrap_servers="", properties=good, logger=logger).producer()
        producer.poll(0)
    except UsageError:
        return
    finally:
        logger.removeHandler(handler)
    for line in lines:
        if (found := _IGNORED.search(line)) and found[1] in good:
            yield found[1], found[2].replace("`", "").rstrip(".")


def _problem(make: Callable[[KafkaClients], object], properties: Mapping[str, Any]) -> str:
    """Return what the library says against a client, empty if it makes it."""
    try:
        make(KafkaClients(bootstrap_servers="", properties=properties, logger=logging.getLogger(f"{__name__}.trial")))
    except UsageError as error:
        failure = error.__cause__
        return error_of(failure).str().strip() if isinstance(failure, KafkaException) else str(error)
    return ""


def _named(problem: str, properties: Mapping[str, Any]) -> str:
    """Return the property of these that a problem names, empty if none."""
    named = [name for name in properties if name in problem or _ALIASES.get(name, name) in problem]
    if "SASL mechanism" in problem:
        named += [name for name in ("sasl.mechanism", "sasl.mechanisms", "security.protocol") if name in properties]
    if "sasl.username and sasl.password" in problem:
        named = [name for name in ("sasl.mechanism", "sasl.mechanisms", "security.protocol") if name in properties]
    return max(named, key=lambda name: (name in problem, len(name)), default="")


def _plain(problem: str, properties: Mapping[str, Any]) -> str:
    """Return the library's words in one line, without secrets and addresses."""
    if problem.startswith("No provider for SASL mechanism GSSAPI"):
        return "needs a sasl.mechanism: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER"
    if problem.startswith("Java JAAS"):
        return "is of Java; write sasl.mechanism, sasl.username and sasl.password instead"
    if problem.startswith("Java TrustStore"):
        return "is of Java; write ssl.ca.location with a PEM file instead"
    text = " ".join(_NOISE.sub(".", _NAME.sub("", problem)).split()).rstrip(".")
    text = "must be true or false" if text.startswith("Expected bool value") else text
    text = "holds no certificate in PEM" if _NO_PEM.search(text) else text
    for name, value in properties.items():
        if str(value) and public_property(name, value) == HIDDEN:
            text = text.replace(str(value), HIDDEN)
    return text
