"""Time-based schedule for saving checkpoints."""

import time
from collections.abc import Callable

_SHARE = 0.02
"""Largest share of the time spent on saving."""


class Pace:
    """Intervals between saves: short at first, so that a process often killed makes progress."""

    def __init__(
        self, first: float, most: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Create a schedule that starts with the first call of `due`.

        Args:
            first: seconds until the first save; each following interval is twice as long.
            most: longest interval in seconds, exceeded only if saving is slow.
            clock: returns the time in seconds.
        """
        self._interval, self._most, self._clock = first, most, clock
        self._least = 0.0
        self._last: float | None = None

    def due(self) -> bool:
        """Return whether a save is due."""
        now = self._clock()
        if self._last is None:
            self._last = now
        return now - self._last >= max(self._interval, self._least)

    def saved(self) -> None:
        """Schedule the next save."""
        self._last = self._clock()
        self._interval = min(2 * self._interval, self._most)

    def took(self, seconds: float) -> None:
        """Take into account how much of the machine's time a save took, also in the background."""
        self._least = seconds / _SHARE
