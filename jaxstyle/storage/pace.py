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
        self._last: float | None = None

    def due(self) -> bool:
        """Return whether a save is due."""
        now = self._clock()
        if self._last is None:
            self._last = now
        return now - self._last >= self._interval

    def call(self, save: Callable[[], None]) -> None:
        """Call `save` and schedule the next one."""
        began = self._clock()
        save()
        self._last = self._clock()
        took = self._last - began
        self._interval = max(min(2 * self._interval, self._most), took / _SHARE)
