"""The health check: it follows the configured address, path and TLS, and says what is wrong."""

from __future__ import annotations

import http.server
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_main import run
from tests.exposition.conftest import make_certificate
from tests.services import free_port
from tokentrace.config import Config
from tokentrace.errors import FatalError
from tokentrace.tools.health import check


class Worker(http.server.BaseHTTPRequestHandler):
    """A worker that is alive and not ready."""

    def do_GET(self) -> None:
        alive = self.path == "/state/live"
        self.send_response(200 if alive else 503)
        self.end_headers()
        self.wfile.write(b"alive" if alive else b"no broker answers")

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing."""


@pytest.fixture(params=["plain", "tls", "client"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """A server, and `http_server` for it. `client`: it asks for a certificate of the client."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Worker)
    section: dict[str, Any] = {"addr": f":{server.server_port}", "health_path": "/state"}
    if request.param != "plain":
        certificate, key = make_certificate(tmp_path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        section["tls"] = {"certificate": str(certificate), "key": str(key)}
        if request.param == "client":
            context.load_verify_locations(certificate)
            context.verify_mode = ssl.CERT_REQUIRED
            section["tls"]["client_ca"] = str(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield section
    server.shutdown()
    server.server_close()
    thread.join()


def test_check_follows_the_configured_address_path_and_tls(settings: dict[str, Any]) -> None:
    server = Config.model_validate({"http_server": settings}).http_server
    if "client_ca" in settings.get("tls", {}):
        assert check(server, ready=False) == "The worker asks for a certificate of the client, so it is alive."
        with pytest.raises(FatalError, match="does not answer /state/ready"):
            check(server, ready=True)
        return
    assert check(server, ready=False) == "alive"
    with pytest.raises(FatalError, match="answers /state/ready with HTTP 503: no broker answers"):
        check(server, ready=True)


def test_command_tells_by_its_exit_code(tmp_path: Path) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Worker)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    (tmp_path / "tokentrace.yml").write_text(f"http_server: {{addr: ':{server.server_port}', health_path: /state}}")
    try:
        done = run("health", folder=tmp_path)
        assert (done.returncode, done.stdout) == (0, "alive\n")
        done = run("health", "--ready", folder=tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert "HTTP 503: no broker answers" in done.stderr
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    done = run("health", folder=tmp_path)
    assert done.returncode == 1
    assert f"The worker at 127.0.0.1:{server.server_port} does not answer /state/live" in done.stderr


@pytest.mark.parametrize(("addr", "asked"), [("0.0.0.0", "127.0.0.1"), ("[::]", "::1"), ("localhost", "localhost")])
def test_a_worker_that_listens_everywhere_is_asked_on_this_machine(addr: str, asked: str) -> None:
    port = free_port()
    server = Config.model_validate({"http_server": {"addr": f"{addr}:{port}"}}).http_server
    with pytest.raises(FatalError, match=f"The worker at {asked}:{port} does not answer"):
        check(server, ready=False)


def test_without_an_endpoint_there_is_nothing_to_ask() -> None:
    server = Config.model_validate({"http_server": {"enabled": False}}).http_server
    assert "nothing to ask" in check(server, ready=False)
