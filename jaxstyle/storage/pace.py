"""When a run writes something: at given evaluations, or as time passes."""

import dataclasses
import re
import time
from collections.abc import Callable

from jaxstyle.config import ConfigError

_SHARE = 0.02
"""Largest share of the time spent on saving."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The evaluations, counted over all scales, at which something is written."""

    every: int | None = None
    at: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str | None, name: str) -> "Schedule":
        """Parse `N` or `N,N,…`, the value of the flag `name`; None is never.

        Raises:
            ConfigError: it is neither.
        """
        if text is None:
            return cls()
        plain = re.fullmatch(r"\d+(,\d+)*,?", text)
        parts = [int(number) for number in text.split(",") if number] if plain else [0]
        if min(parts) < 1:
            raise ConfigError(f"{name} must be N or N,N,…, each at least 1, not {text!r}")
        return cls(at=tuple(parts)) if "," in text else cls(every=parts[0])

    def has(self, evaluation: int) -> bool:
        """Return whether `evaluation` is one of them."""
        return evaluation in self.at or bool(self.every and evaluation % self.every == 0)


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
