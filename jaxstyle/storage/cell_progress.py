"""The progress of a grid's cells on disk, for cells that take long."""

import time
import warnings
from collections.abc import Callable

from etils import epath

from jaxstyle.config import FileError
from jaxstyle.engine import Progress, State
from jaxstyle.storage.checkpoints import Checkpoints

_SHARE = 0.05
"""Largest part of the time that is spent on saving."""


class CellProgress:
    """The checkpoint of one cell, there only until the cell is done; a `Keeper`.

    A killed grid loses little more than `seconds` of a cell, and the cells that take less than that
    write nothing.
    """

    def __init__(
        self,
        folder: epath.Path,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._seconds, self._clock = folder, seconds, clock
        self._checkpoints: Checkpoints | None = None
        self._saved: float | None = None

    def restore(self, like: Callable[[int], State]) -> Progress | None:
        """Return the progress to resume from, or None; a checkpoint that is damaged is none."""
        try:
            return self._open().restore(like)
        except FileError as error:
            warnings.warn(f"{error}; the cell starts anew", stacklevel=2)
            self.remove()
            return None

    def wants(self, evaluation: int) -> bool:
        """Return whether enough time has passed; see `Keeper`."""
        del evaluation
        if self._saved is None:  # time counts from the first evaluation on
            self._saved = self._clock()
        return self._clock() - self._saved >= self._seconds

    def keep(self, progress: Progress) -> None:
        """Save the progress; see `Keeper`."""
        began = self._clock()
        self._open().save(progress)
        self._saved = self._clock()
        self._seconds = max(self._seconds, (self._saved - began) / _SHARE)

    def save(self, progress: Progress) -> None:
        """Save nothing at once: an earlier checkpoint leads to every later scale."""

    def _open(self) -> Checkpoints:
        if self._checkpoints is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._checkpoints = Checkpoints(self._folder / "checkpoint", kept=1)
        return self._checkpoints

    def remove(self) -> None:
        """Delete the checkpoint."""
        self.close()
        if self._folder.exists():
            self._folder.rmtree()

    def close(self) -> None:
        """Wait until the checkpoint is written."""
        checkpoints, self._checkpoints = self._checkpoints, None
        if checkpoints is not None:
            checkpoints.close()
