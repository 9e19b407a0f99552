"""Ways into an answer: reads JSON and the objects of providers' SDKs alike, many places at once.

A way is the names that lead from an object to a value. Ways are grouped once by their first name, because most of them
begin alike and lead nowhere: an object is asked once for each name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

#: Field of the span, and ways to it, of which the first that is there counts.
Ways = tuple[str, tuple[tuple[str, ...], ...]]
#: A first step of ways, the field of a way that ends there, and (next step, further steps, field) of those that go on.
Group = tuple[str, str, tuple[tuple[str, tuple[str, ...], str], ...]]


def grouped(*ways: Ways) -> tuple[Group, ...]:
    """Ways by their first step, the preferred ones of each field first, so that an object is asked once for each."""
    by_rank: dict[tuple[int, str], list[tuple[tuple[str, ...], str]]] = {}
    for field, places in ways:
        for rank, (head, *rest) in enumerate(places):
            by_rank.setdefault((rank, head), []).append((tuple(rest), field))
    return tuple(
        (
            head,
            next((field for rest, field in entries if not rest), ""),
            tuple((rest[0], rest[1:], field) for rest, field in entries if rest),
        )
        for (_, head), entries in sorted(by_rank.items(), key=lambda item: item[0][0])
    )


class Either:
    """Reader of names that are camelCase in JSON and snake_case in an SDK's objects."""

    def __init__(self, of: Any) -> None:
        self._of = of

    def get(self, name: str) -> Any:
        value = value_of(self._of, name)
        return value_of(self._of, snake(name)) if value is None else value


def snake(name: str) -> str:
    """Return a name in camelCase as snake_case."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def value_of(of: Any, name: str) -> Any:
    """The entry of a mapping or the attribute of an object, None where there is neither."""
    if isinstance(of, dict):
        return of.get(name)
    value = getattr(of, name, None)
    if value is None and isinstance(of, Mapping):
        return of.get(name)
    return None if callable(value) else value


def value_at(of: Any, way: Iterable[str]) -> Any:
    for name in way:
        if of is None:
            return None
        of = value_of(of, name)
    return of


def items_of(of: Any, name: str) -> Iterable[Any]:
    value = value_of(of, name)
    return value if isinstance(value, (list, tuple)) else ()


def count_of(value: Any) -> int | float | None:
    """A quantity, None for what cannot be one."""
    if type(value) is int:
        return value if value >= 0 else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if value >= 0 else None


def scan(of: Any, ways: Sequence[Group], accepted: Callable[[Any], Any]) -> dict[str, Any]:
    """Return field -> value of the first of its ways that leads to a value which is accepted (not None)."""
    found: dict[str, Any] = {}
    get = of.get if type(of) is dict else partial(value_of, of)
    for head, leaf, inside in ways:
        value = get(head)
        if value is None:
            continue
        if leaf and leaf not in found and (taken := accepted(value)) is not None:
            found[leaf] = taken
        if inside:
            inner = value.get if type(value) is dict else partial(value_of, value)
            for name, further, field in inside:
                if field not in found:
                    item = inner(name)
                    if (
                        item is not None
                        and (taken := accepted(value_at(item, further) if further else item)) is not None
                    ):
                        found[field] = taken
    return found


def word_of(value: Any) -> str | None:
    """A word of an answer, which SDKs have as members of an enumeration too."""
    value = getattr(value, "value", value)
    return value if isinstance(value, str) and value else None
