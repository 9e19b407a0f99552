"""AWS Glue's framing: `03`, a byte for the compression (00 none, 05 zlib), the UUID of the schema's version, the datum.

Compressed datums are expanded here, so that what follows sees messages without compression.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Final

GLUE_HEADER: Final = 18
GLUE_VERSION: Final = 3
NOT_COMPRESSED: Final = 0
ZLIB: Final = 5

#: Longest datum: FREE bytes, and FACTOR for each compressed byte. Spans compress to a third; far more is an attack.
FREE: Final = 16 * 1024
FACTOR: Final = 16


def expand(values: Sequence[bytes | None], rows: Sequence[int]) -> tuple[list[bytes | None], dict[int, str]]:
    """Return (the values, with the zlib-compressed messages at `rows` as they are without compression; problems).

    problems: row -> what is wrong with it, for those that stay as they are.
    """
    expanded, problems = list(values), {}
    for row in rows:
        value = values[row]
        assert value is not None
        most = FREE + FACTOR * len(value)
        decompressor = zlib.decompressobj()
        try:
            datum = decompressor.decompress(value[GLUE_HEADER:], most + 1)
        except zlib.error as error:
            problems[row] = f"Its header says that zlib has compressed it, but it cannot be decompressed ({error})."
            continue
        if len(datum) > most or not decompressor.eof:
            large = f"it has more than {most} bytes decompressed"
            what = large if len(datum) > most else "its compressed data is cut short"
            problems[row] = f"Its header says that zlib has compressed it, but {what}."
        elif decompressor.unused_data:
            problems[row] = "Bytes follow the end of its compressed data."
        else:
            expanded[row] = bytes((GLUE_VERSION, NOT_COMPRESSED)) + value[2:GLUE_HEADER] + datum
    return expanded, problems
