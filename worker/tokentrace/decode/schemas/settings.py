"""Settings of the clients of a schema registry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """Address and credentials of the registry.

    credentials: `user:password`. ca, certificate, key: paths of PEM files. timeout_s: for one request, in seconds.
    ids: what Apicurio's ids number, where a message does not say it.
    """

    url: str
    credentials: str | None = None
    bearer_token: str | None = None
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    timeout_s: float = 5.0
    ids: Literal["content", "global"] = "content"

    def client_config(self) -> dict[str, Any]:
        """Return the properties of SchemaRegistryClient."""
        config: dict[str, Any] = {"url": self.url, "timeout": self.timeout_s, "max.retries": 0}
        optional = {
            "basic.auth.user.info": self.credentials,
            "ssl.ca.location": self.ca,
            "ssl.certificate.location": self.certificate,
            "ssl.key.location": self.key,
        }
        config |= {key: value for key, value in optional.items() if value is not None}
        if self.bearer_token is not None:
            config |= {
                "bearer.auth.credentials.source": "STATIC_TOKEN",
                "bearer.auth.token": self.bearer_token,
                # The client requires a cluster and a pool, which only Confluent Cloud uses.
                "bearer.auth.logical.cluster": "none",
                "bearer.auth.identity.pool.id": "none",
            }
        return config
