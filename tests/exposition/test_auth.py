"""Tokens: those of files follow their files; the read token reads, the administrator's does all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from tests.harness import Clock
from tokentrace.errors import UsageError
from tokentrace.exposition.http.auth import LOOK_S, Token, Tokens, require_tokens

READ, ADMIN = "read-token", "admin-token"


def statuses(tokens: Tokens, token: str | None) -> tuple[int, int, int]:
    """Answers to a public GET, to another one, and to a POST."""
    page = PlainTextResponse("page")
    routes = [Route(path, lambda _: page, methods=["GET", "POST"]) for path in ("/health", "/metrics")]
    client = TestClient(require_tokens(Starlette(routes=routes), tokens, {"/health"}))
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    public, read = (client.get(path, headers=headers).status_code for path in ("/health", "/metrics"))
    return public, read, client.post("/metrics", headers=headers).status_code


@pytest.mark.parametrize(
    ("tokens", "token", "expected"),
    [
        (Tokens(), None, (200, 200, 403)),
        (Tokens(Token(READ)), None, (200, 401, 401)),
        (Tokens(Token(READ)), "wrong", (200, 401, 401)),
        (Tokens(Token(READ)), READ, (200, 200, 403)),
        (Tokens(Token(READ), Token(ADMIN)), READ, (200, 200, 403)),
        (Tokens(Token(READ), Token(ADMIN)), ADMIN, (200, 200, 200)),
        (Tokens(Token(READ), Token(ADMIN)), "", (200, 401, 401)),
        (Tokens(admin=Token(ADMIN)), None, (200, 200, 403)),
        (Tokens(admin=Token(ADMIN)), ADMIN, (200, 200, 200)),
    ],
)
def test_reading_and_acting_are_two_rights(tokens: Tokens, token: str | None, expected: tuple[int, int, int]) -> None:
    assert statuses(tokens, token) == expected


def test_a_token_follows_its_file(tmp_path: Path) -> None:
    clock = Clock(0.0)
    path = tmp_path / "token"
    path.write_text("first\n")
    token = Token(path=path, clock=clock)
    assert token.matches(b"first")
    # As Kubernetes changes a Secret: another file takes the name.
    (tmp_path / "new").write_text("second\n")
    os.replace(tmp_path / "new", path)
    clock.now_s += LOOK_S
    assert [token.matches(value) for value in (b"second", b"first", b"")] == [True, False, False]


@pytest.mark.parametrize("content", [None, b"", b" \n"], ids=["removed", "empty", "blank"])
def test_a_token_whose_file_becomes_useless_still_holds(
    tmp_path: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock(0.0)
    path = tmp_path / "token"
    path.write_text("first\n")
    token = Token(path=path, clock=clock)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    clock.now_s += LOOK_S
    assert [token.matches(value) for value in (b"first", b"")] == [True, False]
    assert f"The token file {path} cannot be used" in caplog.text
    path.write_text("third")
    clock.now_s += LOOK_S
    assert token.matches(b"third")


@pytest.mark.parametrize("content", [None, b"", b" \n"], ids=["missing", "empty", "blank"])
def test_a_useless_file_is_named_at_the_start(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"the token file .*/token cannot be used"):
        Token(path=path)
