"""The progress of a grid's cells on disk: checkpoints of those that take long, or whole runs."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from etils import epath

from jaxstyle.config import FileError
from jaxstyle.engine import Progress, Record, Result, State
from jaxstyle.imaging import files
from jaxstyle.storage.checkpoints import AccessError, Checkpoints, UnusableError
from jaxstyle.storage.pace import Pace
from jaxstyle.storage.runs import Run


class CellProgress:
    """The checkpoint of one cell, there only until the cell is done; a `Keeper`.

    A killed grid loses little more than `seconds` of a cell, and the cells that take less than that
    write nothing.
    """

    def __init__(
        self,
        folder: epath.Path,
        like: Callable[[int], State],
        seconds: float,
        is_interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        """Plan the checkpoint.

        Args:
            folder: the cell's folder.
            like: gives the expected structure and shapes of a scale's state.
            seconds: time between checkpoints.
            is_interrupted: whether the grid is being interrupted.
        """
        self.folder, self._like, self._pace = folder, like, Pace(seconds, seconds)
        self._is_interrupted = is_interrupted
        self._checkpoints: Checkpoints | None = None

    def restore(self) -> Progress | None:
        """Return the progress to resume from, or None; a checkpoint that is damaged is none.

        Raises:
            AccessError: see `Checkpoints.restore`.
        """
        return _restored(self, lambda: self._open().restore(self._like))

    def record(self, record: Record) -> None:
        """Do nothing: only runs have metrics."""

    def wants(self, evaluation: int) -> bool:
        """Return whether enough time has passed; see `Keeper`."""
        del evaluation
        return self._pace.due()

    def keep(self, progress: Progress) -> None:
        """Save the progress; see `Keeper`."""
        self._open().save(progress)
        self._pace.saved()

    def save(self, progress: Progress) -> None:
        """Save the progress of an interrupted cell; an earlier checkpoint leads to later scales."""
        if self._is_interrupted():
            self.keep(progress)

    def _open(self) -> Checkpoints:
        if self._checkpoints is None:
            folder = files.make_folder(self.folder) / "checkpoint"
            self._checkpoints = Checkpoints(folder, kept=1, on_written=self._pace.took)
        return self._checkpoints

    def finish(self, result: Result, summary: Mapping[str, Any], alpha: np.ndarray | None) -> None:
        """Do nothing: only runs have results."""

    def remove(self) -> None:
        """Delete the checkpoint of a cell that is done; if that fails, the next start does it."""
        self.close()
        _remove(self.folder)

    def close(self) -> None:
        """Wait until the checkpoint is written."""
        checkpoints, self._checkpoints = self._checkpoints, None
        if checkpoints is not None:
            checkpoints.close()


class CellRun:
    """A cell's folder in the form of a run's, which stays; a `Keeper`."""

    def __init__(
        self,
        folder: epath.Path,
        enter: Callable[[epath.Path], Run],
        like: Callable[[int], State],
    ) -> None:
        """Plan the folder, which is opened when the cell begins.

        Args:
            folder: the cell's folder.
            enter: opens it and returns the run.
            like: gives the expected structure and shapes of a scale's state.
        """
        self.folder, self._enter, self._like = folder, enter, like
        self._run: Run | None = None

    def restore(self) -> Progress | None:
        """Return the progress to resume from, or None; a run that is damaged starts anew."""
        run = self._run = self._enter(self.folder)
        return _restored(self, lambda: run.resume(self._like))

    def _opened(self) -> Run:
        if self._run is None:
            self._run = self._enter(self.folder)
            self._run.resume(self._like)
        return self._run

    def record(self, record: Record) -> None:
        """Append one evaluation to the metrics."""
        self._opened().record(record)

    def wants(self, evaluation: int) -> bool:
        """See `Run.wants`."""
        return self._opened().wants(evaluation)

    def keep(self, progress: Progress) -> None:
        """See `Run.keep`."""
        self._opened().keep(progress)

    def save(self, progress: Progress) -> None:
        """See `Run.save`."""
        self._opened().save(progress)

    def finish(self, result: Result, summary: Mapping[str, Any], alpha: np.ndarray | None) -> None:
        """Write the result; see `Run.finish`."""
        self._opened().finish(result, summary, alpha=alpha)

    def remove(self) -> None:
        """Keep the run of a cell that is done."""
        self.close()

    def close(self) -> None:
        """Wait until everything is written."""
        run, self._run = self._run, None
        if run is not None:
            run.close()


def _restored(
    keeper: CellProgress | CellRun, restore: Callable[[], Progress | None]
) -> Progress | None:
    """Return the progress; if it is damaged, remove the folder and return None."""
    try:
        return restore()
    except AccessError:
        raise
    except FileError as error:
        # What a user could do about it is done here.
        problem = error.problem if isinstance(error, UnusableError) else error
        warnings.warn(f"{problem}; the cell starts over", stacklevel=3)
        keeper.close()
        _remove(keeper.folder)
        return None


def _remove(folder: epath.Path) -> None:
    try:
        files.remove_folder(folder)
    except FileError as error:
        warnings.warn(str(error), stacklevel=3)
