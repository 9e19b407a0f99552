"""Health check: ask the worker of a configuration, on this machine, whether it is alive or ready.

It follows the configured address, path and TLS, so that a container needs no other settings for it.
"""

from __future__ import annotations

import http.client
import ssl
from typing import Final

from tokentrace.config.http_server import HttpServer
from tokentrace.errors import FatalError

TIMEOUT_S: Final = 4.0
#: Addresses on which a server listens for every address.
_ANY: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


def check(server: HttpServer, ready: bool) -> str:
    """Return what the worker answers. ready: ask whether it is ready, too. Raises FatalError where it is not well."""
    if not server.enabled:
        return "http_server.enabled is false, so there is nothing to ask."
    path = f"{server.health_path}/{'ready' if ready else 'live'}"
    host = server.addr.host.strip("[]")
    host = _ANY.get(host, host)
    connection = _connection(server, host)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        said = response.read().decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        asks = server.tls is not None and server.tls.client_ca is not None
        if asks and not ready and isinstance(error, (ssl.SSLError, ConnectionResetError)):
            # It says no more to a client that has none.
            return "The worker asks for a certificate of the client, so it is alive."
        raise FatalError(f"The worker at {host}:{server.addr.port} does not answer {path}: {error}.") from error
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK:
        raise FatalError(f"The worker answers {path} with HTTP {response.status}: {said}")
    return said


def _connection(server: HttpServer, host: str) -> http.client.HTTPConnection:
    if server.tls is None:
        return http.client.HTTPConnection(host, server.addr.port, timeout=TIMEOUT_S)
    # It asks the process beside it, whose certificate names how others reach it.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(host, server.addr.port, timeout=TIMEOUT_S, context=context)
