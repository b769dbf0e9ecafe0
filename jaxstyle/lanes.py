"""Lanes: many images optimized in lockstep by one program, over all devices of this host.

Each lane has its own objective, optimizer state, line search and end. No operation mixes lanes,
so one that stops or fails leaves the others as they are, and its place goes to the next job.
"""

import collections
import dataclasses
import functools
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Bool, Float

from jaxstyle import lbfgs
from jaxstyle.config import Config
from jaxstyle.errors import JaxstyleError, is_out_of_memory
from jaxstyle.loop import IN_FLIGHT, LoopState, init_state, outcome, update
from jaxstyle.memory import USABLE, device_memory, thrifty_options
from jaxstyle.objective import Objective
from jaxstyle.optimizers import make_optimizer
from jaxstyle.records import REASONS, Journal, Record, Result, UpdateInfo
from jaxstyle.space import AXIS as SPACE, shardings
from jaxstyle.types import Device, Image, Params

AXIS = "lanes"
"""Name of the mesh axis that lanes are sharded over."""

_PIXELS = {"cpu": 2**17}
_PIXELS_ELSEWHERE = 2**23
"""Pixels of all lanes of a device, above which more lanes no longer pay."""


class Job(NamedTuple):
    """What one lane does: minimize `objective` from `image` within `budget` evaluations."""

    objective: Objective
    """Without its parameters, which all lanes share."""
    image: Image
    budget: int
    before: Sequence[Record] = ()
    """Records of the scales before this one, which the new ones count on from."""


class _Lane:
    """A job under way."""

    def __init__(self, index: int, job: Job) -> None:
        self.index, self.job, self.journal = index, job, Journal(job.before)
        self.dispatched = 0

    @property
    def ended(self) -> bool:
        spent = self.journal.evaluations == self.job.budget
        return spent or self.journal.status != lbfgs.RUNNING

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
    progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[int, Result | JaxstyleError]]:
    """Run every job and yield its position and its result when it ends.

    Args:
        params: from `prepare_params`; put on all devices, if they are not there already.
        jobs: make a job each, when a lane is free for it; all of the same shapes, so that what
            differs is data. One that raises a `JaxstyleError` has that for a result.
        config: names the optimizer, `lbfgs` or `adam`; with a schedule of its learning rate, jobs
            have equal budgets.
        lanes: jobs at a time on each device; if not given, as many as memory has room for, but
            no more than pay. Where memory runs out all the same they are halved, down to one.
        devices: of this host; all if not given.
        space: devices that share the rows of each image, which they must divide evenly.
        balance: how many jobs to share out evenly, if not these: what a run that goes on where
            another was cut off had, so that it gets the same program.
        progress: called with the number of evaluations read since the last call.
    """
    total = balance or len(jobs)
    # A device without a job would keep those of a CPU from working.
    devices = tuple(jax.local_devices() if devices is None else devices)[: max(1, total) * space]
    mesh = _mesh(devices, space)
    params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    work = _Work(jobs)
    most = lanes
    while work.queue:
        wanted = 1
        try:
            first = work.look()
            if first is None:
                break
            most_here = most or paying_lanes(first.image.shape, devices)
            wanted = _evenly(most_here, total, mesh.shape[AXIS])
            optimizer = make_optimizer(config, first.budget)
            program = _fitting(params, first, optimizer, wanted, mesh, most is None)
            wanted = program.lanes
            yield from _lockstep(work, program, progress)
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if wanted == 1:
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
        self.done: collections.deque[tuple[int, Result | JaxstyleError]] = collections.deque()

    def take(self) -> _Lane | None:
        """The next job that can be made."""
        while self.queue:
            index, make = self.queue[0]
            try:
                job = make()
            except JaxstyleError as error:
                self.done.append((index, error))
                self.queue.popleft()
                continue
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

    def give_up(self, error: JaxstyleError) -> None:
        """End the jobs under way, or the one whose turn it is, with `error`."""
        indices = [lane.index for lane in self.active.values()] or [self.queue.popleft()[0]]
        self.active.clear()
        self.done.extend((index, error) for index in indices)

    def outcomes(self) -> Iterator[tuple[int, Result | JaxstyleError]]:
        while self.done:
            yield self.done.popleft()


def replicate(params: Params, devices: Sequence[Device]) -> Params:
    """`params` on every one of `devices`; nothing to do where they are."""
    return jax.device_put(params, NamedSharding(_mesh(devices, 1), PartitionSpec()))


def _mesh(devices: Sequence[Device], space: int) -> Mesh:
    groups = len(devices) // space
    if space == 1:
        return Mesh(np.asarray(devices), (AXIS,))
    return Mesh(np.reshape(devices[: groups * space], (groups, space)), (AXIS, SPACE))


def _lockstep(
    work: _Work, program: "_Program", progress: Callable[[int], None] | None
) -> Iterator[tuple[int, Result | JaxstyleError]]:
    """Work the queue off with one program."""
    batch: _Batch | None = None
    pending: collections.deque[tuple[UpdateInfo, dict[int, _Lane]]] = collections.deque()
    active = work.active
    while True:
        ended = {slot: lane for slot, lane in active.items() if lane.ended}
        if ended:
            assert batch is not None
            images = np.asarray(outcome(batch.state))
            for slot, lane in ended.items():
                work.done.append((lane.index, lane.result(images[slot].copy())))
                del active[slot]
        fresh: dict[int, _Lane] = {}
        for slot in range(program.slots):
            lane = None if slot in active else work.take()
            if lane is not None:
                active[slot] = fresh[slot] = lane
        if fresh:
            seconds = program.compile_seconds if batch is None else 0.0
            batch = _filled(program, batch, {slot: lane.job for slot, lane in fresh.items()})
            for lane in fresh.values():
                lane.journal.start(compile_seconds=seconds)
        if active:
            assert batch is not None
            state, info = program.update(batch.objectives, program.params, batch.state)
            batch = batch._replace(state=state)
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
            host = jax.device_get(info)
            running = {slot: lane for slot, lane in lanes.items() if not lane.ended}
            for slot, lane in running.items():
                lane.journal.read(jax.tree.map(lambda values, slot=slot: values[slot], host))
            if progress is not None:
                progress(len(running))


class _Batch(NamedTuple):
    """What is on the devices, with a leading axis of lanes; the objectives without parameters."""

    objectives: Objective
    state: LoopState


class _Program(NamedTuple):
    """One update of all lanes, compiled."""

    lanes: int
    mesh: Mesh
    optimizer: optax.GradientTransformationExtraArgs
    params: Params
    compile_seconds: float
    update: Callable[[Objective, Params, LoopState], tuple[LoopState, UpdateInfo]]

    @property
    def slots(self) -> int:
        return self.lanes * self.mesh.shape[AXIS]


def _filled(program: _Program, batch: _Batch | None, jobs: dict[int, Job]) -> _Batch:
    """The batch with `jobs` in their slots; in a first one, idle slots repeat some job."""
    some = next(iter(jobs.values()))
    each = [jobs.get(slot, some) for slot in range(program.slots)]

    def stacked(*leaves: Array | np.ndarray) -> np.ndarray:
        return np.stack([np.asarray(leaf) for leaf in leaves])

    pairs = jax.tree.map(stacked, *((job.objective, job.image) for job in each))
    where = shardings(pairs, some.image.shape, program.mesh, AXIS)
    objectives, images = jax.device_put(pairs, where)
    new = _Batch(objectives, _init(program.optimizer, program.mesh, images))
    if batch is None:
        return new
    sharding = NamedSharding(program.mesh, PartitionSpec(AXIS))
    taken = jax.device_put(np.asarray([slot in jobs for slot in range(program.slots)]), sharding)
    return _replaced(program.mesh, taken, new, batch)


def _sharded(mesh: Mesh, function: Callable[..., Any], *, shared: Sequence[int] = ()) -> Any:
    """`function` of each device's lanes, vmapped; arguments numbered in `shared` have no lanes."""

    def call(*arguments: Any) -> Any:
        specs = [
            PartitionSpec() if i in shared else PartitionSpec(AXIS) for i in range(len(arguments))
        ]
        here = functools.partial(_each_lane, function, shared)
        # The rows are the compiler's to share out, lane by lane.
        return jax.shard_map(
            here,
            mesh=mesh,
            in_specs=tuple(specs),
            out_specs=PartitionSpec(AXIS),
            axis_names={AXIS},
            check_vma=False,
        )(*arguments)

    return call


def _each_lane(function: Callable[..., Any], shared: Sequence[int], *arguments: Any) -> Any:
    axes = [None if i in shared else 0 for i in range(len(arguments))]
    laned = [a for a, axis in zip(arguments, axes, strict=True) if axis == 0]
    if jax.tree.leaves(laned)[0].shape[0] > 1:
        return jax.vmap(function, in_axes=axes)(*arguments)
    # One lane alone is one run alone, bit for bit: a unit axis would change the compiler's mind
    # about the order of its sums.
    alone = [
        a if axis is None else jax.tree.map(lambda leaf: leaf[0], a)
        for a, axis in zip(arguments, axes, strict=True)
    ]
    return jax.tree.map(lambda leaf: leaf[None], function(*alone))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _init(
    optimizer: optax.GradientTransformationExtraArgs,
    mesh: Mesh,
    images: Float[Array, "lanes h w 3"],
) -> LoopState:
    state = _sharded(mesh, functools.partial(init_state, optimizer))(images)
    where = shardings(state, images.shape[1:], mesh, AXIS)
    return jax.lax.with_sharding_constraint(state, where)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=3)
def _replaced(mesh: Mesh, taken: Bool[Array, " lanes"], new: _Batch, old: _Batch) -> _Batch:
    def choose(taken: Bool[Array, ""], new: _Batch, old: _Batch) -> _Batch:
        return jax.tree.map(lambda a, b: jnp.where(taken, a, b), new, old)

    return _sharded(mesh, choose)(taken, new, old)


def paying_lanes(shape: tuple[int, ...], devices: Sequence[Device]) -> int:
    """Lanes a device, above which more do not pay, for images of `shape`."""
    pixels = _PIXELS.get(devices[0].platform, _PIXELS_ELSEWHERE)
    return max(1, pixels // (shape[0] * shape[1]))


def _evenly(most: int, jobs: int, groups: int) -> int:
    """Lanes a group of devices, at most `most`, so that the last round is as full as others."""
    rounds = -(-jobs // (most * groups))
    return -(-jobs // (rounds * groups))


def _fitting(
    params: Params,
    job: Job,
    optimizer: optax.GradientTransformationExtraArgs,
    lanes: int,
    mesh: Mesh,
    check: bool,
) -> _Program:
    """The program with that many lanes a device or, if `check`, as many as fit its memory."""
    room = USABLE * device_memory(mesh.devices.flat[0])
    shared = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    started = time.perf_counter()
    while True:
        signature = _Signature.of((job.objective, job.image)), _Signature.of(params)
        compiled = _compiled(optimizer, mesh, *signature, lanes)
        # Inputs that are donated are outputs as well.
        usage = compiled.memory_analysis()
        assert usage is not None
        need = usage.argument_size_in_bytes + usage.output_size_in_bytes
        need += usage.temp_size_in_bytes - usage.alias_size_in_bytes
        if not check or lanes == 1 or need <= room:
            seconds = time.perf_counter() - started
            return _Program(lanes, mesh, optimizer, params, seconds, compiled)
        fixed = min(shared, usage.argument_size_in_bytes)
        lanes = max(1, min(lanes - 1, int(lanes * (room - fixed) / (need - fixed))))


class _Signature(NamedTuple):
    """Structure, shapes and types of a pytree: what a compiled program is looked up by."""

    structure: Any
    leaves: tuple[tuple[tuple[int, ...], np.dtype], ...]

    @classmethod
    def of(cls, tree: Any) -> "_Signature":
        leaves, structure = jax.tree.flatten(tree)
        return cls(structure, tuple((leaf.shape, np.dtype(leaf.dtype)) for leaf in leaves))

    def shapes(self, *lanes: int) -> Any:
        """Shapes of the arrays, with a leading axis of `lanes` if given."""
        return self.structure.unflatten(
            jax.ShapeDtypeStruct((*lanes, *shape), dtype) for shape, dtype in self.leaves
        )


@functools.lru_cache(maxsize=16)
def _compiled(
    optimizer: optax.GradientTransformationExtraArgs,
    mesh: Mesh,
    lane: _Signature,
    params: _Signature,
    lanes: int,
) -> jax.stages.Compiled:
    def update_lane(
        objective: Objective, params: Params, state: LoopState
    ) -> tuple[LoopState, UpdateInfo]:
        return update(optimizer, dataclasses.replace(objective, params=params), state)

    objectives, images = lane.shapes(lanes * mesh.shape[AXIS])
    image = images.shape[1:]

    def placed(shapes: Any, where: Any) -> Any:
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes,
            where,
        )

    state = jax.eval_shape(functools.partial(_init, optimizer, mesh), images)
    objectives, state = (
        placed(shapes, shardings(shapes, image, mesh, AXIS)) for shapes in (objectives, state)
    )
    everywhere = NamedSharding(mesh, PartitionSpec())
    shared = params.shapes()
    shared = placed(shared, jax.tree.map(lambda _: everywhere, shared))
    program = jax.jit(
        _sharded(mesh, update_lane, shared=(1,)),
        donate_argnums=2,
        out_shardings=(jax.tree.map(lambda leaf: leaf.sharding, state), None),
    )
    options = thrifty_options() if objectives.activations != "kept" else None
    return program.lower(objectives, shared, state).compile(options)
