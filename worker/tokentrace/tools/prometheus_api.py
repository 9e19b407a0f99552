"""HTTP API of Prometheus, and of those that answer like it: instant queries."""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from urllib.parse import urlencode, urlsplit

from tokentrace.errors import UsageError
from tokentrace.model.text import printable
from tokentrace.tools.http_get import NoAnswer, get

#: Environment variables with its credentials. Those of the replicas are never sent to it.
TOKEN: Final = "TOKENTRACE_PROMETHEUS_TOKEN"
USER: Final = "TOKENTRACE_PROMETHEUS_USER"
PASSWORD: Final = "TOKENTRACE_PROMETHEUS_PASSWORD"


class Series(NamedTuple):
    """One series of an answer."""

    labels: Mapping[str, str]
    value: float
    at_s: float


@dataclass(frozen=True, slots=True)
class PrometheusApi:
    """Address of a Prometheus, and the value of the Authorization header that it wants, if any."""

    url: str
    authorization: str = field(default="", repr=False)

    @classmethod
    def at(cls, address: str, environment: Mapping[str, str]) -> PrometheusApi:
        """Return that of an address as a user types it, with the credentials of the environment. Raises UsageError."""
        url = (address if "://" in address else f"http://{address}").rstrip("/")
        parts = urlsplit(url)
        if "@" in parts.netloc:
            raise UsageError(f"--prometheus takes no password in its URL; set {USER} and {PASSWORD}.")
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
            raise UsageError(f"--prometheus: {address!r} is not the URL of a Prometheus, such as http://host:9090.")
        return cls(url, _authorization(environment))

    def query(self, expression: str, at_s: float | None = None) -> list[Series]:
        """Return the series of an expression. at_s: Unix time, None for the server's now. Raises NoAnswer."""
        parameters = {"query": expression} | ({} if at_s is None else {"time": f"{at_s:.3f}"})
        try:
            body = get(f"{self.url}/api/v1/query?{urlencode(parameters)}", self.authorization)
        except NoAnswer as error:
            raise NoAnswer(f"{error.problem}{_explained(error)}", error.status) from error
        try:
            return [
                Series(series["metric"], float(series["value"][1]), float(series["value"][0]))
                for series in json.loads(body)["data"]["result"]
            ]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise NoAnswer("its answer is not of Prometheus's API") from error


def _authorization(environment: Mapping[str, str]) -> str:
    token, user, password = (environment.get(name, "") for name in (TOKEN, USER, PASSWORD))
    if token and (user or password):
        raise UsageError(f"{TOKEN} and {USER} are both set; unset one of them.")
    if bool(user) != bool(password):
        raise UsageError(f"{USER} and {PASSWORD} belong together; set both.")
    if user:
        return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"
    return f"Bearer {token}" if token else ""


def _explained(error: NoAnswer) -> str:
    """Return what to do, or what the server says about an expression that it refused."""
    if error.status in (401, 403):
        return f"; set {TOKEN}, or {USER} and {PASSWORD}, to what it accepts"
    if error.location:
        return "; give that URL, if it is the Prometheus'"
    if error.status == 404:
        return "; give the address of its own page, with its prefix"
    try:
        return f": {printable(str(json.loads(error.body)['error']))}"
    except (ValueError, KeyError, TypeError):
        return ""


def window(seconds: float) -> str:
    """Return a range of that length, as PromQL has it."""
    return f"{math.ceil(seconds * 1000)}ms"
