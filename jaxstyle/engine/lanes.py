"""Lanes: many images optimized in lockstep by one program, over all devices of this host.

Each lane has its own objective, optimizer state, line search and end. No operation mixes lanes,
so one that stops or fails leaves the others as they are, and its place goes to the next job.
"""

import collections
import warnings
from collections.abc import Callable, Iterator, Sequence

import jax
from jax.sharding import NamedSharding, PartitionSpec

from jaxstyle.config import Config, JaxstyleError, is_out_of_memory
from jaxstyle.engine.lane_program import (
    AXIS,
    Batch,
    Job,
    Program,
    filled,
    fitting_program,
    lane_mesh,
)
from jaxstyle.engine.loop import IN_FLIGHT, outcome
from jaxstyle.engine.memory import Device
from jaxstyle.engine.optimizers import make_optimizer
from jaxstyle.engine.records import REASONS, Journal, Result, UpdateInfo
from jaxstyle.engine.waiting import Reader
from jaxstyle.imaging import Image
from jaxstyle.network import Params
from jaxstyle.optim import RUNNING

_PIXELS = {"cpu": 2**17}
_PIXELS_ELSEWHERE = 2**23
"""Pixels of all lanes of a device, above which more lanes no longer pay."""


class _Lane:
    """A job under way."""

    def __init__(self, index: int, job: Job) -> None:
        self.index, self.job, self.journal = index, job, Journal(job.before)
        self.dispatched = 0

    @property
    def ended(self) -> bool:
        spent = self.journal.evaluations == self.job.budget
        return spent or self.journal.status != RUNNING

    def result(self, image: Image) -> Result:
        reason = REASONS.get(self.journal.status, "budget")
        return self.journal.result(image, self.job.objective, reason)


def optimize_lanes(
    params: Params,
    jobs: Sequence[Callable[[], Job]],
    config: Config,
    *,
    lanes: int | None = None,
    devices: Sequence[Device] | None = None,
    space: int = 1,
    balance: int | None = None,
    on_evaluations: Callable[[int], None] | None = None,
) -> Iterator[tuple[int, Result | JaxstyleError]]:
    """Run every job and yield its position and its result when it ends.

    Args:
        params: from `prepare_params`; put on all devices, if they are not there already.
        jobs: make a job each, when a lane is free for it; all of the same shapes, so that what
            differs is data. One that raises a `JaxstyleError` has that for a result.
        config: names the optimizer, `lbfgs` or `adam`; with a schedule of its learning rate, jobs
            have equal budgets.
        lanes: jobs at a time on each device, or on each `space` devices; if not given, as many as
            memory has room for, but no more than pay. Where memory runs out all the same they are
            halved, down to one.
        devices: of this host; all if not given.
        space: devices that share the rows of each image, which they must divide evenly.
        balance: how many jobs to share out evenly, if not these: what a run that goes on where
            another was cut off had, so that it gets the same program.
        on_evaluations: called with the number of evaluations read since the last call.
    """
    total = balance or len(jobs)
    # A device without a job would keep those of a CPU from working.
    devices = tuple(jax.local_devices() if devices is None else devices)[: max(1, total) * space]
    mesh = lane_mesh(devices, space)
    params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    work = _Work(jobs)
    most, crowded = lanes, False
    while work.queue:
        wanted = 1
        try:
            first = work.look()
            if first is None:
                break
            most_here = most or paying_lanes(first.image.shape, devices, space)
            wanted = _evenly(most_here, total, mesh.shape[AXIS])
            optimizer = make_optimizer(config, first.budget)
            program = fitting_program(params, first, optimizer, wanted, mesh, most is None)
            wanted = program.lanes
            yield from _lockstep(work, program, on_evaluations)
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_memory(error):
                raise
            # What there is no room for beside others may do before them. Once, unless fewer lanes
            # are no way out: those under way begin anew.
            if work.making and work.active and (wanted == 1 or not crowded):
                crowded = True
                work.first_alone()
            elif work.active and wanted == 1 and not crowded:
                crowded = True
                work.put_back()
            elif wanted == 1:
                work.give_up(JaxstyleError("out of memory; try a smaller size"))
            else:
                most = wanted // 2
                warnings.warn(
                    f"out of memory with {wanted} lanes; going on with {most}", stacklevel=2
                )
                work.put_back()
        yield from work.outcomes()
    yield from work.outcomes()


class _Work:
    """Jobs waiting, under way by slot, and done: nothing is lost whatever is interrupted."""

    def __init__(self, jobs: Sequence[Callable[[], Job]]) -> None:
        self.queue = collections.deque(enumerate(jobs))
        self.active: dict[int, _Lane] = {}
        self.making = False
        """Whether it was while a job was made that something was raised."""
        self.done: collections.deque[tuple[int, Result | JaxstyleError]] = collections.deque()

    def take(self) -> _Lane | None:
        """The next job that can be made."""
        while self.queue:
            index, make = self.queue[0]
            self.making = True
            try:
                job = make()
            except JaxstyleError as error:
                self.making = False
                self.done.append((index, error))
                self.queue.popleft()
                continue
            self.making = False
            self.queue.popleft()
            return _Lane(index, job)
        return None

    def look(self) -> Job | None:
        """What `take` will give."""
        lane = self.take()
        if lane is None:
            return None
        self.queue.appendleft((lane.index, lambda: lane.job))
        return lane.job

    def put_back(self) -> None:
        """Let the jobs under way wait again, to start from their beginning."""
        again = [(lane.index, lambda job=lane.job: job) for lane in self.active.values()]
        self.queue.extendleft(reversed(again))
        self.active.clear()

    def first_alone(self) -> None:
        """Let the job whose turn it is be made before those under way are begun again."""
        first = self.queue.popleft()
        self.put_back()
        self.queue.appendleft(first)

    def give_up(self, error: JaxstyleError) -> None:
        """End the jobs under way, or the one whose turn it is, with `error`."""
        indices = [lane.index for lane in self.active.values()] or [self.queue.popleft()[0]]
        self.active.clear()
        self.done.extend((index, error) for index in indices)

    def outcomes(self) -> Iterator[tuple[int, Result | JaxstyleError]]:
        while self.done:
            yield self.done.popleft()


def _lockstep(
    work: _Work, program: Program, on_evaluations: Callable[[int], None] | None
) -> Iterator[tuple[int, Result | JaxstyleError]]:
    """Work the queue off with one program."""
    batch: Batch | None = None
    begun, reader = False, Reader()
    pending: collections.deque[tuple[UpdateInfo, dict[int, _Lane]]] = collections.deque()
    active = work.active
    while True:
        ended = {slot: lane for slot, lane in active.items() if lane.ended}
        if ended:
            assert batch is not None
            images = reader.get(outcome(batch.state), "finished images")
            for slot, lane in ended.items():
                work.done.append((lane.index, lane.result(images[slot].copy())))
                del active[slot]
            if not active:  # make room, for what jobs are made of as well
                batch = None
        fresh: dict[int, _Lane] = {}
        for slot in range(program.slots):
            lane = None if slot in active else work.take()
            if lane is not None:
                active[slot] = fresh[slot] = lane
        if fresh:
            seconds = 0.0 if begun else program.compile_seconds
            begun = True
            if len(fresh) == len(active):
                batch = None
            batch = filled(program, batch, {slot: lane.job for slot, lane in fresh.items()})
            for lane in fresh.values():
                lane.journal.start(compile_seconds=seconds)
        if active:
            assert batch is not None
            batch, info = _updated(program, batch)
            pending.append((info, dict(active)))
            for lane in active.values():
                lane.dispatched += 1
        # The device has its next step: the time for whatever the caller does with the images.
        yield from work.outcomes()
        if not active:
            return
        # Who has done its last evaluation is known without reading, and waited for.
        due = any(lane.dispatched == lane.job.budget for lane in active.values())
        while len(pending) > (0 if due else IN_FLIGHT):
            info, lanes = pending.popleft()
            host = reader.get(info, "an evaluation of a batch")
            running = {slot: lane for slot, lane in lanes.items() if not lane.ended}
            for slot, lane in running.items():
                lane.journal.read(jax.tree.map(lambda values, slot=slot: values[slot], host))
            if on_evaluations is not None:
                on_evaluations(len(running))


def _updated(program: Program, batch: Batch) -> tuple[Batch, UpdateInfo]:
    state, info = program.update(batch.objectives, program.params, batch.state)
    return batch._replace(state=state), info


def paying_lanes(shape: tuple[int, ...], devices: Sequence[Device], space: int = 1) -> int:
    """Lanes of `space` devices, above which more do not pay, for images of `shape`."""
    pixels = space * _PIXELS.get(devices[0].platform, _PIXELS_ELSEWHERE)
    return max(1, pixels // (shape[0] * shape[1]))


def _evenly(most: int, jobs: int, groups: int) -> int:
    """Lanes a group of devices, at most `most`, so that the last round is as full as others."""
    rounds = -(-jobs // (most * groups))
    return -(-jobs // (rounds * groups))
