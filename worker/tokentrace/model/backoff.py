"""Back-off: growing pauses between tries of something that may succeed later."""

from __future__ import annotations

import random


class Backoff:
    """Pauses that double from `first_s` up to `longest_s`.

    jitter: the share of a pause that is random. With 0.5 a pause is between half of `pause_s` and all of it, so that
    clients that failed together do not try again together.
    """

    def __init__(
        self, first_s: float, longest_s: float, *, jitter: float = 0.0, rng: random.Random | None = None
    ) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._jitter = jitter
        self._rng = rng or random.Random()
        #: The longest that the next pause can be, seconds.
        self.pause_s = first_s

    def next(self) -> float:
        """Return the pause to make now, in seconds; the next one is twice as long."""
        pause_s = self.pause_s * self._rng.uniform(1.0 - self._jitter, 1.0)
        self.pause_s = min(2 * self.pause_s, self._longest_s)
        return pause_s

    def reset(self) -> None:
        """Begin again with the first pause: it succeeded."""
        self.pause_s = self._first_s
