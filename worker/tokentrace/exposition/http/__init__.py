"""The HTTP endpoint: `server` listens, `auth` checks the token, `endpoints` answer."""

from __future__ import annotations

from tokentrace.exposition.http.auth import Token, Tokens
from tokentrace.exposition.http.endpoints import HealthReport
from tokentrace.exposition.http.server import HttpServer, HttpSettings
from tokentrace.exposition.http.tls import TlsSettings

__all__ = ["HealthReport", "HttpServer", "HttpSettings", "TlsSettings", "Token", "Tokens"]
