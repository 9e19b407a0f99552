"""Random writer schemas, random datums of them, and random damage; all from one `random.Random`.

The bytes are written by hand, so that they contain what is valid but rarely written: numbers with padding bytes,
blocks that declare their size, many small blocks, repeated keys, strings that are not UTF-8.
"""

from __future__ import annotations

import random
import struct
from typing import Any, Final

from tests.decode.helpers import zigzag

PRIMITIVES: Final = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
WORDS: Final = (
    "",
    "ok",
    "error",
    "timeout",
    "OK",
    "gpt-4o",
    "modèle-été",
    "claude-sonnet-4-20250514",
    "eval.score",
    "team",
    "é",
)
INTEGERS: Final = (0, 1, -1, 63, 64, -64, -65, 8191, 8192, 2**27, 2**40, 2**55 - 1, -(2**55), 2**55, 2**62, -(2**63))
REALS: Final = (0.0, -0.0, 0.5, 1.0, float("inf"), float("nan"), 1e300)
STAMPS: Final = [f"{prefix}timestamp-{unit}" for prefix in ("", "local-") for unit in ("millis", "micros", "nanos")]

INT_COLUMNS: Final = ("prompt_tokens", "completion_tokens", "total_tokens", "cached_prompt_tokens", "reasoning_tokens")
REAL_COLUMNS: Final = ("latency_ms", "ttft_ms")
COST_COLUMNS: Final = ("cost_usd", "cost")
TEXT_COLUMNS: Final = ("model", "provider", "caller", "span_id", "service_tier")
COLUMN_KINDS: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(INT_COLUMNS, ("int", "long")),
    **dict.fromkeys(REAL_COLUMNS, ("int", "long", "float", "double")),
    **dict.fromkeys(COST_COLUMNS, ("int", "long", "float", "double", "decimal", "decimal fixed")),
    **dict.fromkeys(TEXT_COLUMNS, ("string", "bytes", "enum")),
    "status": ("string", "bytes", "enum"),
    "started_at": ("long", "stamp"),
    "ended_at": ("int", "long", "stamp"),
    "attributes": ("map",),
}


class Generator:
    """Generates schemas and datums from one random source."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._defined: list[str] = []
        self._open: list[str] = []
        self._names = 0

    def schema(self, recursive: bool = False) -> dict[str, Any]:
        """Return a record with fields for some columns and other fields. recursive: types may contain themselves."""
        while True:
            schema = self._schema(recursive)
            # A definition may have gone with a branch that its union already had.
            if _is_closed(schema, set()):
                return schema

    def _schema(self, recursive: bool) -> dict[str, Any]:
        rng = self._rng
        self._defined, self._open, self._names = [], ["Root"] if recursive else [], 0
        names = rng.sample(sorted(COLUMN_KINDS), rng.randrange(len(COLUMN_KINDS)))
        if "cost" in names and "cost_usd" in names:
            names.remove("cost")
        fields = [(name, self._column_kinds(name)) for name in names]
        for number in range(rng.choice((0, 1, 2, 3, 8))):
            fields.insert(rng.randint(0, len(fields)), (f"x{number}", None))
        # Made in the order of writing: a name has to be defined before it is used.
        made = [{"name": name, "type": self._type(3) if kind is None else self._made(kind)} for name, kind in fields]
        return {"type": "record", "name": "Root", "fields": made}

    def _column_kinds(self, name: str) -> list[str]:
        """Return the kinds of a field that fills a column; more than one kind is a union."""
        rng = self._rng
        kinds = [rng.choice(COLUMN_KINDS[name])]
        if rng.random() < 0.5:
            kinds.append("null")
        while rng.random() < 0.2:
            kinds.append(rng.choice((*COLUMN_KINDS[name], *PRIMITIVES, "array", "fixed", "record")))
        rng.shuffle(kinds)
        return kinds

    def _made(self, kinds: list[str]) -> Any:
        branches = self._distinct([self._kind(kind, 2) for kind in kinds])
        if len(branches) == 1 and self._rng.random() < 0.9:
            return branches[0]
        return branches

    def _type(self, depth: int) -> Any:
        rng = self._rng
        kinds = PRIMITIVES if depth == 0 else (*PRIMITIVES, "fixed", "enum", "array", "map", "record", "union", "union")
        roll = rng.random()
        if self._defined and roll < 0.15:
            return rng.choice(self._defined)
        if self._open and roll < 0.3:
            return rng.choice([["null", self._open[-1]], {"type": "array", "items": rng.choice(self._open)}])
        return self._kind(rng.choice(kinds), depth)

    def _kind(self, kind: str, depth: int) -> Any:
        rng = self._rng
        if kind == "stamp":
            return {"type": "long", "logicalType": rng.choice(STAMPS)}
        if kind.startswith("decimal"):
            decimal = {"logicalType": "decimal", "precision": 60, "scale": rng.choice((0, 2, 9, 10, 12, 27, 28, 60))}
            if kind == "decimal":
                return {"type": "bytes", **decimal}
            return {"type": "fixed", "name": self._name(), "size": rng.choice((1, 7, 8, 9, 15, 16, 17)), **decimal}
        if kind in PRIMITIVES:
            logical = {"int": "date", "long": "timestamp-millis", "bytes": "decimal", "string": "uuid"}.get(kind)
            if logical is None or rng.random() < 0.8:
                return kind
            return {"type": kind, "logicalType": logical, "precision": 4}
        if kind == "array":
            return {"type": "array", "items": self._type(depth - 1)}
        if kind == "map":
            return {"type": "map", "values": self._type(max(depth - 1, 0))}
        if kind == "union":
            return self._distinct([self._type(depth - 1) for _ in range(rng.choice((1, 2, 2, 3, 5)))])
        name = self._name()
        if kind == "fixed":
            made: dict[str, Any] = {"type": "fixed", "name": name, "size": rng.choice((0, 1, 5, 16, 300))}
        elif kind == "enum":
            symbols = [
                "ok",
                "error",
                "timeout",
                "other",
                *(f"s{number}" for number in range(rng.choice((0, 1, 70, 150)))),
            ]
            rng.shuffle(symbols)
            made = {"type": "enum", "name": name, "symbols": symbols[: rng.randint(1, len(symbols))]}
        else:
            if recursive := bool(self._open):
                self._open.append(name)
            fields = [{"name": f"f{n}", "type": self._type(depth - 1)} for n in range(rng.randrange(4))]
            if recursive:
                self._open.remove(name)
            made = {"type": "record", "name": name, "fields": fields}
        self._defined.append(name)
        return made

    def _distinct(self, branches: list[Any]) -> list[Any]:
        """A union has no unions inside and holds each unnamed type once."""
        flat = [type_ for branch in branches for type_ in (branch if isinstance(branch, list) else [branch])]
        kept: dict[str, Any] = {}
        for type_ in flat:
            kind = type_ if isinstance(type_, str) else type_["type"]
            name = type_["name"] if isinstance(type_, dict) and "name" in type_ else kind
            # A cost takes a decimal, and not the bytes that it is made of.
            if name not in kept or (isinstance(type_, dict) and "scale" in type_):
                kept[name] = type_
        return list(kept.values())

    def _name(self) -> str:
        self._names += 1
        return f"N{self._names}"

    # Data.

    def datum(self, schema: Any, wild: bool = False) -> bytes:
        """A datum of a schema. wild: with odd but sound encodings, and values that some columns cannot take."""
        return Encoder(self._rng, schema, wild).value(schema, 0)

    def damage(self, data: bytes, others: list[bytes]) -> bytes:
        """The datum with some bytes changed, cut, put in or added."""
        rng = self._rng
        out = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 4))):
            at = rng.randint(0, len(out))
            roll = rng.randrange(7)
            if roll == 0 and at < len(out):
                out[at] ^= 1 << rng.randrange(8)
            elif roll == 1 and at < len(out):
                out[at] = rng.choice((0, 1, 2, 3, 0x7F, 0x80, 0x81, 0xFE, 0xFF))
            elif roll == 2:
                del out[at:]
            elif roll == 3:
                out[at:at] = rng.choice(
                    (b"\0", b"\x80", b"\xff" * 9 + b"\1", b"\x80" * 9, zigzag(rng.choice(INTEGERS)))
                )
            elif roll == 4:
                del out[at : at + rng.choice((1, 1, 2, 8))]
            elif roll == 5:
                out += rng.choice((b"\0", *others))
            else:
                out[at:at] = out[at : at + rng.randrange(12)]
        return bytes(out)


def _is_closed(schema: Any, known: set[str]) -> bool:
    """Tell if every name is defined before it is used."""
    if isinstance(schema, list):
        return all(_is_closed(branch, known) for branch in schema)
    if isinstance(schema, str):
        return schema in known or schema in PRIMITIVES
    if "name" in schema:
        known.add(schema["name"])
    inside = [schema[key] for key in ("items", "values") if key in schema]
    return all(_is_closed(child, known) for child in (*inside, *(field["type"] for field in schema.get("fields", ()))))


class Encoder:
    """Writes random values of one schema."""

    def __init__(self, rng: random.Random, schema: Any, wild: bool) -> None:
        self._rng = rng
        self._wild = wild
        self._named: dict[str, Any] = {}
        self._learn(schema)

    def _learn(self, schema: Any) -> None:
        if isinstance(schema, list):
            for branch in schema:
                self._learn(branch)
        elif isinstance(schema, dict):
            if "name" in schema:
                self._named[schema["name"]] = schema
            for key in ("items", "values"):
                self._learn(schema.get(key))
            for field in schema.get("fields", ()):
                self._learn(field["type"])

    def value(self, schema: Any, depth: int) -> bytes:
        rng = self._rng
        if isinstance(schema, list):
            branch = rng.randrange(len(schema))
            # Deep down a null, where there is one, so that a recursive value ends.
            if depth > 6 and "null" in schema:
                branch = schema.index("null")
            return self._long(branch) + self.value(schema[branch], depth + 1)
        if isinstance(schema, str) and schema in self._named:
            return self.value(self._named[schema], depth)
        kind = schema if isinstance(schema, str) else schema["type"]
        if kind == "null":
            return b""
        if kind == "boolean":
            return rng.choice((b"\0", b"\1"))
        if kind in ("int", "long"):
            return self._long(rng.choice((rng.choice(INTEGERS), rng.randrange(300), rng.randrange(10**16))))
        if kind in ("float", "double"):
            real = rng.choice(REALS)
            return struct.pack("<f", 0.1 if real == 1e300 else real) if kind == "float" else struct.pack("<d", real)
        if isinstance(schema, dict) and schema.get("logicalType") == "decimal" and "scale" in schema:
            return self._decimal(schema.get("size"))
        if kind in ("string", "bytes"):
            return self._text()
        if kind == "fixed":
            return rng.randbytes(schema["size"])
        if kind == "enum":
            return self._long(rng.randrange(len(schema["symbols"])))
        if kind in ("array", "map"):
            return self._blocks(schema, kind, depth)
        return b"".join(self.value(field["type"], depth + 1) for field in schema["fields"])

    def _blocks(self, schema: Any, kind: str, depth: int) -> bytes:
        rng = self._rng
        out = b""
        for _ in range(rng.choice((0, 1, 1, 2)) if depth < 6 else 0):
            count = rng.choice((1, 1, 2, 3, 7, 40 if depth < 3 else 1))
            items = b""
            for _ in range(count):
                if kind == "map":
                    key = rng.choice(("eval.score", "eval.scorf", "user", "", "k" * 70))
                    items += self._long(len(key)) + key.encode()
                items += self.value(schema["items" if kind == "array" else "values"], depth + 1)
            out += zigzag(-count) + self._long(len(items)) + items if rng.random() < 0.2 else self._long(count) + items
        return out + self._long(0)

    def _text(self) -> bytes:
        rng = self._rng
        data = rng.choice((rng.choice(WORDS), rng.choice(WORDS) * rng.choice((1, 3, 9, 40)))).encode()
        if self._wild and rng.random() < 0.1:
            data += rng.choice((b"\xff", b"\xc3", b"\xed\xa0\x80"))
        return self._long(len(data)) + data

    def _decimal(self, size: int | None) -> bytes:
        rng = self._rng
        length = rng.choice((0, 1, 3, 7, 8, 9, 12, 16, 17, 40)) if size is None else size
        digits = rng.choice((0, 1, min(length, 5), length))
        sign = rng.choice((b"\0", b"\xff"))
        data = (sign * length + rng.randbytes(digits))[-length:] if length else b""
        return data if size is not None else self._long(length) + data

    def _long(self, value: int) -> bytes:
        data = zigzag(value)
        if self._wild and len(data) < 9 and self._rng.random() < 0.03:
            more = self._rng.randint(1, 9 - len(data))
            data = data[:-1] + bytes([data[-1] | 0x80]) + b"\x80" * (more - 1) + b"\0"
        return data
