"""A run whose image is spread over several processes."""

from collections.abc import Callable, Sequence
from typing import Any

from jaxstyle.engine import Progress, State
from jaxstyle.storage import hosts
from jaxstyle.storage.pace import Schedule
from jaxstyle.storage.runs import Run


class SharedRun:
    """The run of several processes, the first of which has its folder; a `Keeper`.

    Whatever depends on a process's clock or signals is decided by all, an evaluation later, since
    one that did something else than the others would leave them waiting.
    """

    def __init__(self, run: Run | None, schedules: Sequence[Schedule] = ()) -> None:
        """Share a run.

        Args:
            run: the run's folder, on the first process and if there is one.
            schedules: evaluations at which something is written there, on every process.
        """
        self._run, self._schedules = run, schedules
        self._decision = hosts.Decision(2)
        self._due = False

    @staticmethod
    def same(
        progress: Progress | None, finished: Any, like: Callable[[int], State]
    ) -> tuple[Progress | None, Any]:
        """Return the progress and the result that the first process has.

        Args:
            progress: that progress; on other processes anything.
            finished: its result as JSON data, or None.
            like: gives the expected structure and shapes of a scale's state.
        """
        from jaxstyle.storage.checkpoints import from_arrays, to_arrays  # imports Orbax

        arrays, meta = ({}, None) if progress is None else to_arrays(progress)
        arrays, (meta, finished) = hosts.broadcast(arrays, [meta, finished])
        return None if meta is None else from_arrays(arrays, meta, like), finished

    def decide(self, signal: int) -> int:
        """Return the number of the signal that ends the run, or 0; called after each evaluation.

        Args:
            signal: the number of the signal that this process has received, or 0.
        """
        agreed, due = self._decision.latest()
        self._due = self._due or bool(due)
        own = self._run is not None and self._run.is_due and not self._due
        self._decision.propose(signal, own)
        return agreed

    def wants(self, evaluation: int) -> bool:
        """Return whether something is due at `evaluation`; see `Keeper`."""
        return self._due or any(each.has(evaluation) for each in self._schedules)

    def keep(self, progress: Progress) -> None:
        """Save what is due; see `Keeper`."""
        self._due = False
        if self._run is not None:
            self._run.keep(progress)

    def save(self, progress: Progress) -> None:
        """Save a checkpoint; see `Keeper`."""
        if self._run is not None:
            self._run.save(progress)
