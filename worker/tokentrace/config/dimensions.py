"""Section `dimensions`: labels of one's own, such as team, feature or user."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Annotated, Final

from pydantic import Field, SecretStr, StrictBool, StrictInt, field_validator, model_validator

from tokentrace.config.section import NonEmpty, Section, located
from tokentrace.model.dimensions import ATTRIBUTE, FIELD, HEADER, KEY, MAX_DIMENSIONS, OTHER
from tokentrace.model.families import CELL_FAMILIES, GLOBAL_FAMILIES, GROUP_LABELS, REVISION_LABEL, CounterFamily
from tokentrace.model.globs import covers
from tokentrace.model.reasons import MAX_LABEL_BYTES
from tokentrace.model.snapshot import BASE_LABELS

#: Fields of the span that have text, of which a dimension can be made.
_TEXT_FIELDS: Final = frozenset({*BASE_LABELS, "name", "parent_span_id", "error"})
#: Fields of the span that are ids, numbers, or labels of their own.
_OTHER_FIELDS: Final = frozenset({
    "trace_id", "span_id", "prompt_tokens", "completion_tokens", "total_tokens", "cached_prompt_tokens",
    "reasoning_tokens", "cost_usd", "latency_ms", "ttft_ms", "status", "started_at", "ended_at", "attributes", "usage",
})  # fmt: skip
#: Labels that series have already, or that Prometheus gives them.
RESERVED: Final = frozenset(
    {
        *GROUP_LABELS, REVISION_LABEL, "le", "quantile", "job", "instance", "replica", "minute", "budget",
        *(family.extra_label for family in CELL_FAMILIES if isinstance(family, CounterFamily)),
        *(label for family in GLOBAL_FAMILIES for label in family.labels),
    }
)  # fmt: skip
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")
#: Fewest characters of the key of a hash.
_LEAST_KEY: Final = 16


class DimensionSection(Section):
    """A label of one's own, and how spans get their value of it."""

    source: Annotated[NonEmpty, Field(examples=["attributes.team"])]
    """Place of the value: `attributes.<key>`, `span.<field>`, `header.<name>` of the message, or `key`."""
    default: str = ""
    """Value of spans without one."""
    max_length: Annotated[StrictInt, Field(ge=40, le=MAX_LABEL_BYTES)] = 100
    """Longest value, bytes of UTF-8; a longer one becomes its beginning, `~` and a hash of it."""
    limit: Annotated[StrictInt, Field(ge=1, le=1_000_000)] = 1000
    """Most distinct values; further ones are added to __overflow__ of this dimension."""
    map: dict[str, str] = {}
    """Values by glob over the span's value, the first match applies; what matches none stays as it is."""
    values: tuple[NonEmpty, ...] | None = None
    """Values that are allowed, after `map`; any if unset."""
    other: NonEmpty = OTHER
    """Value in place of those that are not allowed."""
    hash: StrictBool = False
    """Keep a keyed hash (HMAC-SHA-256, 32 digits) instead of the value."""
    hash_key: SecretStr | None = None
    """Key of the hash, at least 16 characters, from the environment: ${NAME}."""

    @field_validator("source")
    @classmethod
    def _known_source(cls, value: str) -> str:
        for prefix in (ATTRIBUTE, FIELD, HEADER):
            if value.startswith(prefix) and len(value) > len(prefix):
                break
        else:
            if value != KEY:
                raise ValueError(f"{value!r} is not a source; {_source_meant(value)}")
        if value.startswith(FIELD) and value.removeprefix(FIELD) in _OTHER_FIELDS:
            raise ValueError(
                f"{value} is not text, or has a value for nearly every span; of the span's own fields, dimensions take "
                f"{', '.join(sorted(_TEXT_FIELDS))}"
            )
        return value

    @field_validator("hash_key")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < _LEAST_KEY:
            raise ValueError(f"must have at least {_LEAST_KEY} characters: short keys are guessed")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> DimensionSection:
        if self.hash and (self.map or self.values is not None):
            raise ValueError("hash cannot be combined with map or values, which name values")
        if self.hash and self.hash_key is None:
            raise located((("hash",), "requires hash_key, for example ${TOKENTRACE_HASH_KEY}"))
        if self.hash_key is not None and not self.hash:
            raise located((("hash_key",), "has no effect without hash: true"))
        if useless := list(self._useless()):
            raise located(*useless)
        for value in (self.default, *self.map.values(), *(self.values or ()), self.other):
            if len(value.encode()) > self.max_length:
                raise ValueError(f"{value[:40]!r}... is longer than max_length ({self.max_length} bytes)")
        return self

    def _useless(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yield what can never apply, or is taken back at once."""
        earlier: list[str] = []
        for glob, value in self.map.items():
            if by := next((other for other in earlier if covers(other, glob)), None):
                yield ("map", glob), f"never applies: {by} applies first; move this one before it"
            elif self.values is not None and value not in (*self.values, self.other):
                yield ("map", glob), f"{value!r} is not one of values, so it would become {self.other!r}; add it there"
            earlier.append(glob)
        if self.values == ():
            yield ("values",), f"is empty, so that every value would become {self.other!r}; leave it out to allow all"
        if self.values is None and "other" in self.model_fields_set:
            yield ("other",), "has no effect without values, those that are allowed"


def _source_meant(value: str) -> str:
    """Return what to write instead of a source that is none."""
    if re.fullmatch(r"[A-Za-z][\w-]*", value):
        return f"write attributes.{value} for an attribute of the span"
    place, _, name = value.partition(".")
    near = {"attribute": ATTRIBUTE, "attrs": ATTRIBUTE, "headers": HEADER, "field": FIELD, "fields": FIELD}.get(place)
    return f"write {near}{name}" if near and name else "use attributes.<key>, span.<field>, header.<name> or key"


def name_problems(dimensions: Collection[str]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Give the path and the text of the problem of each name that is not a label, or is taken."""
    for number, name in enumerate(dimensions):
        if not _NAME.fullmatch(name):
            meant = re.sub(r"[^a-z0-9_]+", "_", name.lower()).strip("_")
            hint = f"; write {meant}" if _NAME.fullmatch(meant) and meant not in dimensions else ""
            yield ("dimensions", name), f"a name has lower-case letters, digits and _, and begins with a letter{hint}"
        elif name in RESERVED:
            yield ("dimensions", name), "is the name of a label that series have already; choose another name"
        elif number >= MAX_DIMENSIONS:
            yield ("dimensions", name), f"is one too many; there may be {MAX_DIMENSIONS} dimensions"
