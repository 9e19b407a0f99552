"""Header keys: the writer schemas that headers of records name, where the value is a bare datum.

Confluent's `__value_schema_id`: 00 and an id of 4 bytes, or 01 and the schema's GUID of 16. Apicurio's
`apicurio.value.globalId` and `apicurio.value.contentId`: an id of 8 bytes. All are big-endian.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.decode.schema_key import ApicurioId, SchemaKey
from tokentrace.model.messages import APICURIO_CONTENT_ID, APICURIO_GLOBAL_ID, CONFLUENT_SCHEMA_ID

Column = Sequence[bytes | str | None]


@dataclass(frozen=True, slots=True)
class HeaderKeys:
    """Schema keys in the headers of n messages.

    keys: the distinct schema keys. key: int32[n], index into keys, -1 for a message without such a header, and
    -2 for one whose header names no schema. problems: row -> what is wrong with that header.
    """

    keys: tuple[SchemaKey, ...]
    key: NDArray[np.int32]
    problems: Mapping[int, str]


def header_keys(headers: Mapping[str, Column], names: Sequence[str], n: int) -> HeaderKeys | None:
    """Return the schema keys in the headers of n messages; None if no message has such a header.

    headers: name of a header -> n values. names: the headers to look at, the first that a message has counts.
    """
    columns = [(name, headers[name]) for name in names if name in headers]
    if not columns:
        return None
    keys: list[SchemaKey] = []
    key = np.full(n, -1, np.int32)
    problems: dict[int, str] = {}
    for name, column in columns:
        codes: dict[bytes | str | None, int] = {}
        code = np.fromiter((codes.setdefault(value, len(codes)) for value in column), np.int32, n)
        for value, number in codes.items():
            if value is None:
                continue
            rows = np.flatnonzero((code == number) & (key == -1))
            try:
                keys.append(_PARSERS[name](value if isinstance(value, bytes) else value.encode()))
            except ValueError as error:
                key[rows] = -2
                problems.update(dict.fromkeys(rows.tolist(), f"Its header {name} {error}."))
            else:
                key[rows] = len(keys) - 1
    return HeaderKeys(tuple(keys), key, problems)


def _confluent(value: bytes) -> SchemaKey:
    if value[:1] == b"\0" and len(value) == 5:
        return SchemaKey("id", int.from_bytes(value[1:], "big"))
    if value[:1] == b"\x01" and len(value) == 17:
        return SchemaKey("guid", uuid.UUID(bytes=value[1:]))
    raise ValueError(f"is neither 00 and 4 bytes nor 01 and 16 bytes, but {_shown(value)}")


def _content(value: bytes) -> SchemaKey:
    return SchemaKey("apicurio", ApicurioId(_eight_bytes(value), "content"))


def _global(value: bytes) -> SchemaKey:
    return SchemaKey("apicurio", ApicurioId(_eight_bytes(value), "global"))


def _eight_bytes(value: bytes) -> int:
    if len(value) != 8:
        raise ValueError(f"has no 8 bytes, but {_shown(value)}")
    return int.from_bytes(value, "big")


def _shown(value: bytes) -> str:
    return f"{len(value)}: {value[:20].hex()}" if value else "none"


_PARSERS: Final[dict[str, Callable[[bytes], SchemaKey]]] = {
    CONFLUENT_SCHEMA_ID: _confluent,
    APICURIO_CONTENT_ID: _content,
    APICURIO_GLOBAL_ID: _global,
}
