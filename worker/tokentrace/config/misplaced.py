"""Keys that are written where they are not: what belongs there instead, for those that operators write often."""

from __future__ import annotations

import re
from typing import Any, Final

from tokentrace.config.document import KeyPath

#: Path of a key, indexes and names of entries as * -> what to do.
_PLACES: Final = {
    "health.path": "did you mean http_server.health_path?",
    "metrics.path": "did you mean http_server.prometheus_path?",
    "metrics.port": "did you mean http_server.addr?",
    "metrics.addr": "did you mean http_server.addr?",
    "kafka.schema_registry_url": "did you mean schema_registry.url?",
    "kafka.registry": "did you mean schema_registry.url?",
    "worker.exactly_once": "write guarantee: exactly_once",
    "worker.at_least_once": "write guarantee: at_least_once",
    "limits.memory": "did you mean worker.memory_limit?",
    "limits.memory_limit": "did you mean worker.memory_limit?",
    "schema_registry.username": "did you mean schema_registry.auth.username?",
    "schema_registry.password": "did you mean schema_registry.auth.password?",
    "alerts.*.enabled": "a rule that is in the file is on; take it out, or put # before its lines",
    "alerts.*.delivery.topic": "type kafka writes to the topic GROUP.alerts",
    "alerts.*.delivery.method": "a webhook is always a POST",
    "budgets.*.currency": "amounts are in USD",
    "pricing.currency": "prices are in USD",
    "pricing.models.*.currency": "prices are in USD",
    "pricing.models.*.prompt_per_1m": "a rule of a list has its prices in rates: {prompt: 2.5, completion: 10}",
    "pricing.models.*.completion_per_1m": "a rule of a list has its prices in rates: {prompt: 2.5, completion: 10}",
    "pricing.discounts.*.model": "a discount is for all models of a provider; write rules in models for some",
    "http_server.tls.enabled": "the section alone turns HTTPS on; take it out to serve HTTP",
    "schema_registry.tls.verify": "a certificate is always verified; ca names the authority of your own",
}
#: Parts of the URL of the ledger's database, which are no keys.
_OF_LEDGER_URL: Final = frozenset({
    "host", "hostname", "port", "user", "username", "password", "database", "dbname", "path", "file", "driver",
})  # fmt: skip
#: Keys of `kafka` that are properties of the Kafka library, where their dots are written as _.
_OF_LIBRARY: Final = re.compile(r"(security|sasl|ssl|tls|socket|fetch|client|session|auto|enable|max|queued)\b.*")
_ACCESS: Final = frozenset({"username", "user", "password", "auth", "authentication", "security", "mechanism"})
_NO_MODELS: Final = frozenset({"model", "price", "prices", "rates", "discount", "modifier"})
_LABELS: Final = frozenset({"model", "provider", "caller"})


def misplaced(path: KeyPath, value: Any) -> str:
    """Return what to do about a key that the section does not have, empty if that is not known."""
    section, name = path[:-1], str(path[-1])
    if path[:2] == ("pricing", "models") and "1k" in name.lower():
        return "prices are per million tokens, a thousand times those per 1k: write prompt_per_1m and completion_per_1m"
    if hint := _PLACES.get(".".join("*" if isinstance(part, int) else part for part in path)):
        return hint
    if not section and name in ("apiVersion", "metadata"):
        return "the file is a manifest of Kubernetes, in which a tokentrace.yml is the text of a key below data"
    if section == ("ledger",) and name.lower() in _OF_LEDGER_URL:
        return "it is a part of url: postgresql://USER:PASSWORD@HOST:PORT/DATABASE, or sqlite:///FILE"
    if section == ("kafka",):
        if name.lower() in (*_ACCESS, "sasl", "ssl", "tls"):
            return "it is in kafka.properties: security.protocol, sasl.mechanism, sasl.username, ssl.ca.location, ..."
        if "." in name or _OF_LIBRARY.fullmatch(name.replace("_", ".")):
            return f"did you mean kafka.properties, with {name.replace('_', '.')} in it?"
    if section == ("pricing",) and isinstance(value, dict) and name.lower() not in _NO_MODELS:
        return f"did you mean pricing.models, with {name} in it?"
    if len(section) == 2 and section[0] in ("alerts", "budgets") and name in _LABELS:
        return f"write filter: {{{name}: GLOB}} for spans of some, or group_by: [{name}] for each apart"
    return ""
