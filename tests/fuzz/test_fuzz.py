"""The fuzz entry point itself: that it runs, and that it would find something."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from tests.fuzz import fuzz_decode
from tokentrace.decode.columnar.cursors import Cursors


def test_a_short_run_finds_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    before = dict(fuzz_decode.totals)
    fuzz_decode.plain(random.Random(7), [], seconds=1.0)
    assert fuzz_decode.totals["messages"] > before["messages"] + 100
    assert fuzz_decode.totals["rejected"] > before["rejected"]
    assert "executions" in capsys.readouterr().out


def test_a_decoder_that_goes_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Cursors.integer

    def wrong(cursors: Cursors, wide: bool = False) -> np.ndarray[Any, Any]:
        values = right(cursors, wide)
        return np.where(values == -64, 64, values)

    monkeypatch.setattr(Cursors, "integer", wrong)
    with pytest.raises(AssertionError):
        fuzz_decode.plain(random.Random(8), [], seconds=20.0)


@pytest.mark.parametrize("messages", [[], [b""], [b"a", b"", b"b" * 254], [b"a", b"c" * 255], [b"d" * 1000]])
def test_an_input_is_taken_apart_as_it_was_built(messages: list[bytes]) -> None:
    assert fuzz_decode.parse(fuzz_decode.build(1234, 2, messages)) == (1234, 2, messages)
