"""The progress of a grid's cells on disk, for cells that take long."""

import warnings
from collections.abc import Callable

from etils import epath

from jaxstyle.config import FileError
from jaxstyle.engine import Progress, State
from jaxstyle.imaging import files
from jaxstyle.storage.checkpoints import AccessError, Checkpoints
from jaxstyle.storage.pace import Pace


class CellProgress:
    """The checkpoint of one cell, there only until the cell is done; a `Keeper`.

    A killed grid loses little more than `seconds` of a cell, and the cells that take less than that
    write nothing.
    """

    def __init__(self, folder: epath.Path, seconds: float) -> None:
        self._folder, self._pace = folder, Pace(seconds, seconds)
        self._checkpoints: Checkpoints | None = None

    def restore(self, like: Callable[[int], State]) -> Progress | None:
        """Return the progress to resume from, or None; a checkpoint that is damaged is none.

        Raises:
            AccessError: see `Checkpoints.restore`.
        """
        try:
            return self._open().restore(like)
        except AccessError:
            raise
        except FileError as error:
            warnings.warn(f"{error}; the cell starts anew", stacklevel=2)
            self.remove()
            return None

    def wants(self, evaluation: int) -> bool:
        """Return whether enough time has passed; see `Keeper`."""
        del evaluation
        return self._pace.due()

    def keep(self, progress: Progress) -> None:
        """Save the progress; see `Keeper`."""
        self._pace.call(lambda: self._open().save(progress))

    def save(self, progress: Progress) -> None:
        """Save nothing at once: an earlier checkpoint leads to every later scale."""

    def _open(self) -> Checkpoints:
        if self._checkpoints is None:
            self._checkpoints = Checkpoints(files.make_folder(self._folder) / "checkpoint", kept=1)
        return self._checkpoints

    def remove(self) -> None:
        """Delete the checkpoint; if that fails, the next start of the grid does it."""
        self.close()
        try:
            if self._folder.exists():
                self._folder.rmtree()
        except OSError as error:
            warnings.warn(f"{self._folder}: cannot be removed ({error.strerror})", stacklevel=2)

    def close(self) -> None:
        """Wait until the checkpoint is written."""
        checkpoints, self._checkpoints = self._checkpoints, None
        if checkpoints is not None:
            checkpoints.close()
