"""Unread counts: numbers in a provider's usage that nothing here reads, so that a new unit does not go unseen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from tokentrace.publisher.ways import Group

#: Levels of a usage object that are looked at.
_MOST_DEPTH: Final = 3
#: Counts that are no usage of their own: sums of others, and parts that cost what the rest costs.
_IGNORED: Final = frozenset(
    {
        "total_tokens", "totalTokens", "totalTokenCount", "total_token_count", "total",
        "completion_tokens_details.accepted_prediction_tokens", "completion_tokens_details.rejected_prediction_tokens",
        "completion_tokens_details.text_tokens", "prompt_tokens_details.text_tokens",
        "prompt_cache_miss_tokens", "cost", "cost_details.upstream_inference_cost",
    }
)  # fmt: skip


def known_counts(groups: Sequence[Sequence[Group]], others: Sequence[str]) -> frozenset[str]:
    """Return the paths, with dots, of all counts that are read. groups: of every shape of usage. others: paths."""
    ways = {path for group in groups for path in _paths(group)}
    return frozenset({*ways, *others, *_IGNORED})


def _paths(group: Sequence[Group]) -> Iterator[str]:
    for head, leaf, inside in group:
        if leaf:
            yield head
        for name, further, _ in inside:
            yield ".".join((head, name, *further))


def unread_counts(usage: Any, known: frozenset[str]) -> list[str]:
    """Return the paths of the counts in a usage object that are above 0 and not known."""
    return list(_unread(usage, "", known, _MOST_DEPTH))


def _unread(of: Any, prefix: str, known: frozenset[str], depth: int) -> Iterator[str]:
    entries = _entries(of)
    for name in _to_look_at(tuple(entries), prefix, known):
        value = entries[name]
        if isinstance(value, (int, float)):
            if value > 0 and not isinstance(value, bool) and prefix + name not in known:
                yield prefix + name
        elif depth > 1 and value is not None and not isinstance(value, (str, list, tuple)):
            yield from _unread(value, f"{prefix}{name}.", known, depth - 1)


@lru_cache(maxsize=256)
def _to_look_at(names: tuple[Any, ...], prefix: str, known: frozenset[str]) -> tuple[str, ...]:
    """Return those of an object's names that are not known counts. Usage objects of a provider have the same names."""
    return tuple(
        name for name in names if isinstance(name, str) and not name.startswith("_") and prefix + name not in known
    )


def _entries(of: Any) -> Mapping[Any, Any]:
    """Return the entries of a mapping or the attributes of an object, also those that its class does not know."""
    if isinstance(of, Mapping):
        return of
    extra = getattr(of, "__pydantic_extra__", None)
    attributes: dict[str, Any] = getattr(of, "__dict__", {})
    return {**attributes, **extra} if extra else attributes
