"""UTF-8 check: which strings are not ASCII, and which are no UTF-8, at any place of the buffer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.decode.differential import fallback_rows
from tests.decode.helpers import record_schema, string
from tokentrace.decode.columnar.utf8 import NonAscii, invalid_utf8
from tokentrace.model.spans import Strings


@given(st.lists(st.text("aé", max_size=70), min_size=1, max_size=30), st.data())
def test_non_ascii_strings_are_found(texts: list[str], data: st.DataObject) -> None:
    names = [text.encode() for text in texts]
    buffer = np.frombuffer(b"\xff" * 9 + b"\xff".join(names) + b"\xff" * 9, np.uint8)
    length = np.array([len(name) for name in names])
    offset = 9 + np.cumsum(length + 1) - (length + 1)
    order = np.array(data.draw(st.permutations(range(len(names)))))
    last = int(offset[-1] + length[-1])
    found = NonAscii(buffer, 9, last).rows(Strings(offset[order], length[order]))
    sure = [place for place, row in enumerate(order) if not names[row].isascii()]
    unsure = [place for place, row in enumerate(order) if len(names[row]) > 57]
    assert found.tolist() == sorted({*sure, *unsure})


@pytest.mark.parametrize("shift", range(8))
def test_a_single_non_ascii_byte_is_found_at_any_position(shift: int) -> None:
    for length in range(1, 70):
        for place in {0, length // 2, length - 1}:
            data = b"x" * shift + b"x" * place + b"\xff" + b"x" * (length - 1 - place)
            bits = NonAscii(np.frombuffer(data + b"\xff" * 16, np.uint8), 0, len(data))
            assert bits.rows(Strings(np.array([shift]), np.array([length]))).tolist() == [0]


@given(st.lists(st.one_of(st.text(max_size=9).map(str.encode), st.binary(max_size=5)), max_size=20))
def test_invalid_utf8_is_found(names: list[bytes]) -> None:
    length = np.array([len(name) for name in names], np.int64)
    strings = Strings(np.cumsum(length) - length, length)
    found = invalid_utf8(np.frombuffer(b"".join(names) + bytes(16), np.uint8), strings)
    assert found == [row for row, name in enumerate(names) if name.decode(errors="replace").encode() != name]


def test_many_long_names_are_checked_one_by_one() -> None:
    names = ["é" * 20_000] * 30
    datums = [string(name) for name in names]
    datums[5] = string("é" * 20_000 + "x")[:-1] + b"\xff"
    assert fallback_rows(record_schema(model="string"), datums) == [5]
