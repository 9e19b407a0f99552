"""Once: what has been said of a bounded number of names, so that it is said of each once."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Once(Generic[T]):
    """Tells the first time of a name, of the first `most` names. full: whether no name is a first time any more."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen: set[T] = set()

    @property
    def full(self) -> bool:
        return len(self._seen) >= self._most

    def first(self, name: T) -> bool:
        """Return whether the name is new, and remember it."""
        if name in self._seen or self.full:
            return False
        self._seen.add(name)
        return True
