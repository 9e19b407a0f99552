"""Flood: while connections come in thousands, the server's thread has the interpreter sooner, and not for ever."""

from __future__ import annotations

import asyncio
import sys
from unittest import mock

from tokentrace.exposition.http import connection


def test_threads_take_turns_sooner_during_a_flood_and_for_a_while_after_it() -> None:
    usual = sys.getswitchinterval()

    async def flood() -> list[float]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, connection.EventLoop)
        loop.switch_sooner()
        loop.switch_sooner()
        during = sys.getswitchinterval()
        await asyncio.sleep(0.3)
        return [during, sys.getswitchinterval()]

    with mock.patch.object(connection, "FLOOD_S", 0.1), asyncio.Runner(loop_factory=connection.EventLoop) as runner:
        during, after = runner.run(flood())
    assert during < usual / 5
    assert after == usual
