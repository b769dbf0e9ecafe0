"""Lanes: many images optimized in lockstep by one program, over all devices of this host.

Each lane has its own objective, optimizer state, line search and end. No operation mixes lanes,
so one that stops or fails does not affect the others, and the next job takes its slot.
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
"""Total pixels of a device's lanes above which more lanes no longer pay off."""


class _Lane:
    """A running job."""

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
    """Run every job, yielding its position and its result when it ends.

    Args:
        params: from `prepare_params`; copied to all devices unless already there.
        jobs: functions that make a job each, called when a lane is free. All jobs have the same
            shapes, so that they differ only in data. A `JaxstyleError` raised by one is its result.
        config: names the optimizer; with a learning-rate schedule, jobs must have equal budgets.
        lanes: jobs at a time on each device, or on each group of `space` devices; by default as
            many as fit in memory, but no more than pay off. If memory runs out nevertheless, they
            are halved, down to one.
        devices: devices of this host; all by default.
        space: number of devices that share the rows of each image; must divide them evenly.
        balance: number of jobs to share out evenly, by default `len(jobs)`. A resumed run passes
            the interrupted run's number, to get the same program.
        on_evaluations: called with the number of evaluations read since the last call.
    """
    total = balance or len(jobs)
    # On a CPU, a device without a job would keep the others from working.
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
            # A job that cannot be made beside the running ones may fit before them. Running jobs
            # then start over, so do this only once, unless the lanes cannot be reduced.
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
    """Jobs waiting, running (by slot) and done: no interruption loses a job."""

    def __init__(self, jobs: Sequence[Callable[[], Job]]) -> None:
        self.queue = collections.deque(enumerate(jobs))
        self.active: dict[int, _Lane] = {}
        self.making = False
        """Whether an exception was raised while a job was being made."""
        self.done: collections.deque[tuple[int, Result | JaxstyleError]] = collections.deque()

    def take(self) -> _Lane | None:
        """Make the next job that can be made; those that cannot are done, with their error."""
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
        """Return the job that `take` will return next."""
        lane = self.take()
        if lane is None:
            return None
        self.queue.appendleft((lane.index, lambda: lane.job))
        return lane.job

    def put_back(self) -> None:
        """Requeue the running jobs, to start from their beginning."""
        again = [(lane.index, lambda job=lane.job: job) for lane in self.active.values()]
        self.queue.extendleft(reversed(again))
        self.active.clear()

    def first_alone(self) -> None:
        """Requeue the running jobs behind the first waiting one, which is then made alone."""
        first = self.queue.popleft()
        self.put_back()
        self.queue.appendleft(first)

    def give_up(self, error: JaxstyleError) -> None:
        """End the running jobs, or else the first one in the queue, with `error`."""
        indices = [lane.index for lane in self.active.values()] or [self.queue.popleft()[0]]
        self.active.clear()
        self.done.extend((index, error) for index in indices)

    def outcomes(self) -> Iterator[tuple[int, Result | JaxstyleError]]:
        while self.done:
            yield self.done.popleft()


def _lockstep(
    work: _Work, program: Program, on_evaluations: Callable[[int], None] | None
) -> Iterator[tuple[int, Result | JaxstyleError]]:
    """Work through the queue with one program."""
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
            if not active:  # free memory, also for making the next jobs
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
        # The device is busy with its next step while the caller uses the images.
        yield from work.outcomes()
        if not active:
            return
        # A lane's last evaluation is known without reading; wait for its result.
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
    """Return the largest number of lanes that pays off on `space` devices, given `shape`."""
    pixels = space * _PIXELS.get(devices[0].platform, _PIXELS_ELSEWHERE)
    return max(1, pixels // (shape[0] * shape[1]))


def _evenly(most: int, jobs: int, groups: int) -> int:
    """Return lanes per device group, up to `most`, that make the last round as full as others."""
    rounds = -(-jobs // (most * groups))
    return -(-jobs // (rounds * groups))
