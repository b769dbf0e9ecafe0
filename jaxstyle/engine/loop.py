"""The loop: jobs, each an objective and an image, driven from Python through one program.

Each lane has its own objective, optimizer state, line search and end, so one that stops or fails
does not affect the others, and the next job takes its slot. Results do not depend on when
measurements are read: the same jobs give the same bits.
"""

import collections
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import optax
from jaxtyping import PyTree

from jaxstyle.config import JaxstyleError, OutOfMemoryError, is_out_of_memory
from jaxstyle.engine.layout import Layout, Packed, Program
from jaxstyle.engine.records import ENDS, REASONS, Callback, Journal, Keeper, Progress, Result
from jaxstyle.engine.update import Info, State
from jaxstyle.engine.waiting import Reader
from jaxstyle.optim import RUNNING

IN_FLIGHT = 1
"""Evaluations by which the device may be ahead of the host, so that reading never stalls it."""


class Job(NamedTuple):
    """The work of one lane: minimize `objective` from `image`."""

    objective: Any
    """A pytree; without the parameters that all lanes share, if there are such."""
    image: PyTree
    budget: int
    """Evaluations of this scale, at least 1, including those of `resumed`."""
    earlier: Result | None = None
    """Joint result of the earlier scales, whose counts the new records continue."""
    resumed: Progress | None = None
    """Progress of this scale to go on from, in place of `image`."""
    final: bool = True
    """Whether no scale follows."""
    callback: Callback | None = None
    keeper: Keeper | None = None
    waited: float = 0.0
    """Seconds spent on waiting for programs that other threads compile."""
    hyperparameters: Mapping[str, Any] = MappingProxyType({})
    """Extra arguments of the optimizer, which are data like the objective."""


class _Lane:
    """A running job."""

    def __init__(self, index: int, job: Job) -> None:
        self.index, self.job = index, job
        self.journal = Journal(job.earlier, job.resumed)
        self.dispatched = self.journal.evaluations
        self.stopped = False

    @property
    def running(self) -> bool:
        """Whether the optimizer goes on."""
        return self.journal.status == RUNNING

    @property
    def ended(self) -> bool:
        spent = self.journal.evaluations >= self.job.budget
        return spent or self.stopped or not self.running

    @property
    def reason(self) -> str:
        return "stopped" if self.stopped else REASONS.get(self.journal.status, "budget")

    def read(self, info: Info) -> None:
        self.journal.read(info)
        if self.job.callback is not None and not self.stopped:
            self.stopped = bool(self.job.callback(self.journal.history[-1]))

    def wants_to_keep(self) -> bool:
        keeper = self.job.keeper
        return keeper is not None and keeper.wants(self.journal.spent + self.dispatched)

    def progress(self, state: State) -> Progress:
        journal = self.journal
        history = tuple(journal.history)
        return Progress(state, history, self.job.earlier, journal.status, journal.compile_seconds)

    def result(self, image: PyTree) -> Result:
        return self.journal.result(image, self.job.objective, self.reason)


def run(
    jobs: Sequence[Callable[[], Job] | None],
    optimizer: optax.GradientTransformation,
    layout_of: Callable[[int], Layout],
    lanes: int = 1,
    shared: Any = None,
    *,
    quick: bool = False,
    shrink: bool = False,
    keep: bool = True,
    identity: str | None = None,
    on_evaluations: Callable[[int], None] | None = None,
) -> Iterator[tuple[int, Result | JaxstyleError]]:
    """Run every job, yielding its position and its result when it ends.

    Args:
        jobs: functions that make a job each, called when its slot is free; None for one that is
            done already. Positions decide which slot a job has, so its bits do not depend on which
            others are done. All jobs have the same shapes, so that they differ only in data. A
            `JaxstyleError` raised by one is its result.
        optimizer: any optax transformation.
        layout_of: the layout for a largest number of lanes.
        lanes: that number at first. If memory runs out nevertheless, it is halved, down to one.
        shared: parameters that objectives lack because all share them.
        quick: see `compile_update`.
        shrink: whether to take fewer lanes at once if they would not fit in memory.
        keep: see `compile_update`.
        identity: see `compile_update`.
        on_evaluations: called with the number of evaluations read since the last call.
    """
    work = _Work(jobs)
    crowded = False
    while work.waiting:
        layout, trying = layout_of(lanes), 1
        try:
            first = work.look()
            if first is None:
                break
            trying = layout.lanes
            program = Program(
                layout,
                optimizer,
                first.objective,
                first.image,
                shared,
                hyperparameters=first.hyperparameters,
                quick=quick,
                shrink=shrink,
                keep=keep,
                identity=identity,
            )
            layout, trying = program.layout, program.layout.lanes
            try:
                yield from _lockstep(work, program, on_evaluations)
            finally:
                program.clear()
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_memory(error):
                raise
            # A job that cannot be made beside the running ones may fit before them. Running jobs
            # then start over, so do this only once, unless the lanes cannot be reduced.
            if work.making and work.active and (trying == 1 or not crowded):
                crowded = True
                work.first_alone()
            elif work.active and trying == 1 and layout.slots > 1 and not crowded:
                crowded = True
                work.put_back()
            elif trying == 1:
                work.give_up(OutOfMemoryError())
            else:
                lanes = trying // 2
                warnings.warn(
                    f"out of memory with {trying} lanes; continuing with {lanes}, which may round "
                    "differently",
                    stacklevel=2,
                )
                work.put_back()
        yield from work.outcomes()
    yield from work.outcomes()


class _Work:
    """Jobs waiting, running (by slot) and done: no interruption loses a job."""

    def __init__(self, jobs: Sequence[Callable[[], Job] | None]) -> None:
        self.waiting = [(index, make) for index, make in enumerate(jobs) if make is not None]
        self.active: dict[int, _Lane] = {}
        self.making: tuple[int, Callable[[], Job]] | None = None
        """The waiting job during whose making an exception was raised."""
        self.done: collections.deque[tuple[int, Result | JaxstyleError]] = collections.deque()

    def take(self, slot: int, slots: int) -> _Lane | None:
        """Make the next job of a slot that can be made; others are done, with their error."""
        for each in [each for each in self.waiting if each[0] % slots == slot]:
            self.making, (index, make) = each, each
            try:
                lane = _Lane(index, make())
            except JaxstyleError as error:
                lane = None
                self.done.append((index, error))
            self.making = None
            self.waiting.remove(each)
            if lane is not None:
                return lane
        return None

    def look(self) -> Job | None:
        """Return the job that one slot alone would take next."""
        lane = self.take(0, 1)
        if lane is None:
            return None
        self.waiting.insert(0, (lane.index, lambda: lane.job))
        return lane.job

    def put_back(self) -> None:
        """Let the running jobs wait again, to start from their beginning."""
        self.waiting[:0] = sorted(
            ((lane.index, lambda job=lane.job: job) for lane in self.active.values()),
            key=lambda each: each[0],
        )
        self.active.clear()

    def first_alone(self) -> None:
        """Let the running jobs wait behind the one being made, which is then made alone."""
        assert self.making is not None
        self.waiting.remove(self.making)
        self.put_back()
        self.waiting.insert(0, self.making)

    def give_up(self, error: JaxstyleError) -> None:
        """End the running jobs, or else the first waiting one, with `error`."""
        indices = [lane.index for lane in self.active.values()] or [self.waiting.pop(0)[0]]
        self.active.clear()
        self.done.extend((index, error) for index in indices)

    def outcomes(self) -> Iterator[tuple[int, Result | JaxstyleError]]:
        while self.done:
            yield self.done.popleft()


def _lockstep(
    work: _Work, program: Program, on_evaluations: Callable[[int], None] | None
) -> Iterator[tuple[int, Result | JaxstyleError]]:
    """Work through the jobs with one program."""
    slots, active, reader = program.layout.slots, work.active, Reader()
    compile_seconds = program.compile_seconds
    pending: collections.deque[tuple[Packed, dict[int, _Lane]]] = collections.deque()

    def read(most: int) -> None:
        """Read evaluations until at most `most` are under way."""
        while len(pending) > most:
            packed, lanes = pending.popleft()
            host = reader.get(packed, "an evaluation")
            # The state of a lane whose optimizer has ended changes no more.
            running = {slot: lane for slot, lane in lanes.items() if lane.running}
            for slot, lane in running.items():
                lane.read(program.info_of(slot, host))
            if on_evaluations is not None:
                on_evaluations(len(running))

    while True:
        if any(lane.ended for lane in active.values()):
            read(0)  # what is under way is part of the state
        ended = {slot: lane for slot, lane in active.items() if lane.ended}
        for slot, lane in ended.items():
            keeper = lane.job.keeper
            if keeper is not None and (lane.job.final or lane.reason in ENDS):
                keeper.save(lane.progress(program.state_of(slot)))
            work.done.append((lane.index, lane.result(program.outcome_of(slot))))
            del active[slot]
        if any(lane.stopped for lane in ended.values()):
            yield from work.outcomes()  # before the next jobs are made, which may not be wanted
        if not active:  # free memory, also for making the next jobs
            program.clear()
        fresh: dict[int, _Lane] = {}
        for slot in set(range(slots)) - set(active):
            lane = work.take(slot, slots)
            if lane is not None:
                active[slot] = fresh[slot] = lane
        for slot, lane in fresh.items():
            job = lane.job
            state = job.resumed.state if job.resumed is not None else None
            program.put(slot, job.objective, job.hyperparameters, job.image, state)
        for lane in fresh.values():
            lane.journal.start(compile_seconds + lane.job.waited)
        if fresh:
            compile_seconds = 0.0
        if any(lane.ended for lane in fresh.values()):  # resumed at its end
            continue
        if active:
            pending.append((program.step(), dict(active)))
            for lane in active.values():
                lane.dispatched += 1
        # The device is busy with its next step while the caller uses the images.
        yield from work.outcomes()
        if not active:
            return
        keeping = [(slot, lane) for slot, lane in active.items() if lane.wants_to_keep()]
        # A lane's last evaluation is known without reading; wait for its result.
        due = any(lane.dispatched >= lane.job.budget for lane in active.values())
        read(0 if due or keeping else IN_FLIGHT)
        for slot, lane in keeping:
            if lane.running and not lane.stopped:
                assert lane.job.keeper is not None
                lane.job.keeper.keep(lane.progress(program.state_of(slot)))
