"""How often to save what takes time to save."""

import time
from collections.abc import Callable

_SHARE = 0.02
"""Largest part of the time that is spent on saving."""


class Pace:
    """The times at which to save: a process that is killed often still makes progress."""

    def __init__(
        self, first: float, most: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start the clock when it is first asked.

        Args:
            first: seconds to the first time; the following intervals are twice as long each.
            most: seconds of the longest interval, longer only if saving takes long.
            clock: counts seconds.
        """
        self._interval, self._most, self._clock = first, most, clock
        self._last: float | None = None

    def due(self) -> bool:
        """Return whether it is time to save."""
        now = self._clock()
        if self._last is None:
            self._last = now
        return now - self._last >= self._interval

    def call(self, save: Callable[[], None]) -> None:
        """Call `save` and set the next time."""
        began = self._clock()
        save()
        self._last = self._clock()
        took = self._last - began
        self._interval = max(min(2 * self._interval, self._most), took / _SHARE)
