"""The fuzz entry point itself: that it runs, and that it would find something."""

from __future__ import annotations

import random
from itertools import islice
from typing import Any

import numpy as np
import pytest

from tests.fuzz import fuzz_decode, fuzz_otlp
from tokentrace.decode.columnar.cursors import Cursors


def test_a_short_run_finds_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    before = dict(fuzz_decode.totals)
    for _ in islice(fuzz_decode.damaged(random.Random(7), []), 100):
        pass
    assert fuzz_decode.totals["executions"] == before["executions"] + 100
    assert fuzz_decode.totals["messages"] > before["messages"] + 100
    assert fuzz_decode.totals["rejected"] > before["rejected"]
    fuzz_decode.plain(random.Random(7), [], seconds=0.0)
    assert capsys.readouterr().out == f"{fuzz_decode.totals}\n"


@pytest.mark.nightly
def test_a_decoder_that_goes_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Cursors.integer

    def wrong(cursors: Cursors, wide: bool = False) -> np.ndarray[Any, Any]:
        values = right(cursors, wide)
        return np.where(values == -64, 64, values)

    monkeypatch.setattr(Cursors, "integer", wrong)
    with pytest.raises(AssertionError):
        for _ in islice(fuzz_decode.damaged(random.Random(8), []), 20_000):
            pass


@pytest.mark.parametrize("messages", [[], [b""], [b"a", b"", b"b" * 254], [b"a", b"c" * 255], [b"d" * 1000]])
def test_an_input_is_taken_apart_as_it_was_built(messages: list[bytes]) -> None:
    assert fuzz_decode.parse(fuzz_decode.build(1234, 2, messages)) == (1234, 2, messages)


def test_a_short_run_over_opentelemetry_finds_nothing() -> None:
    before = dict(fuzz_otlp.totals)
    for seed in range(60):
        fuzz_otlp.check(seed)
    assert all(fuzz_otlp.totals[name] > before[name] for name in before)
