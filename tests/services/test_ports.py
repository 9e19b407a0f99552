"""Ports of tests: tests in several processes are never given the same one."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests import services
from tests.services import PORTS, free_port

FEW = range(PORTS.start, PORTS.start + 40)
TEN_OF_FEW = """
from tests import services
services.PORTS = range({}, {})
print(*(services.free_port() for _ in range(10)))
"""


def test_a_port_is_given_to_one_process_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "PORTS", FEW)
    command = [sys.executable, "-c", TEN_OF_FEW.format(FEW.start, FEW.stop)]
    ours = {free_port() for _ in range(10)}
    assert len(ours) == 10
    for _ in range(5):
        theirs = {int(port) for port in subprocess.check_output(command, text=True, timeout=60).split()}
        assert len(theirs) == 10
        assert not ours & theirs
    for socket in services._taken[-10:]:
        socket.close()
