"""One update of all lanes, compiled into one program over all devices of this host."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Bool, Float

from jaxstyle.engine.loop import LoopState, init_state, update
from jaxstyle.engine.memory import USABLE, Device, device_memory, thrifty_options
from jaxstyle.engine.records import Record, UpdateInfo
from jaxstyle.engine.sharding import AXIS as SPACE, shardings
from jaxstyle.imaging import Image
from jaxstyle.network import Params
from jaxstyle.objective import Objective

AXIS = "lanes"
"""Name of the mesh axis that lanes are sharded over."""


class Job(NamedTuple):
    """The work of one lane: minimize `objective` from `image` within `budget` evaluations."""

    objective: Objective
    """The objective without its parameters, which all lanes share."""
    image: Image
    budget: int
    before: Sequence[Record] = ()
    """Records of the earlier scales; the new records continue their counts."""


def replicate(params: Params, devices: Sequence[Device]) -> Params:
    """Copy `params` to each of `devices`; do nothing if they are already there."""
    return jax.device_put(params, NamedSharding(lane_mesh(devices, 1), PartitionSpec()))


def lane_mesh(devices: Sequence[Device], space: int) -> Mesh:
    """Return a mesh of groups of `space` devices that share the rows of their lanes' images."""
    groups = len(devices) // space
    if space == 1:
        return Mesh(np.asarray(devices), (AXIS,))
    return Mesh(np.reshape(devices[: groups * space], (groups, space)), (AXIS, SPACE))


class Batch(NamedTuple):
    """The arrays on the devices, with a leading lane axis; objectives have no parameters."""

    objectives: Objective
    state: LoopState


class Program(NamedTuple):
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


def filled(program: Program, batch: Batch | None, jobs: dict[int, Job]) -> Batch:
    """Return the batch with `jobs` in their slots; idle slots of a first batch repeat a job."""
    repeated = next(iter(jobs.values()))
    slot_jobs = [jobs.get(slot, repeated) for slot in range(program.slots)]

    def stacked(*leaves: Array | np.ndarray) -> np.ndarray:
        return np.stack([np.asarray(leaf) for leaf in leaves])

    pairs = jax.tree.map(stacked, *((job.objective, job.image) for job in slot_jobs))
    where = shardings(pairs, repeated.image.shape, program.mesh, AXIS)
    objectives, images = jax.device_put(pairs, where)
    new = Batch(objectives, _init(program.optimizer, program.mesh, images))
    if batch is None:
        return new
    sharding = NamedSharding(program.mesh, PartitionSpec(AXIS))
    taken = jax.device_put(np.asarray([slot in jobs for slot in range(program.slots)]), sharding)
    return _replaced(program.mesh, taken, new, batch)


def _sharded(mesh: Mesh, function: Callable[..., Any], *, shared: Sequence[int] = ()) -> Any:
    """Vmap `function` over each device's lanes; arguments numbered in `shared` have no lanes."""

    def call(*arguments: Any) -> Any:
        specs = [
            PartitionSpec() if i in shared else PartitionSpec(AXIS) for i in range(len(arguments))
        ]
        per_device = functools.partial(_each_lane, function, shared)
        # The compiler partitions the rows of each lane.
        return jax.shard_map(
            per_device,
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
    # A single lane equals a single run, bit for bit: a unit axis would make the compiler sum in
    # another order.
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
def _replaced(mesh: Mesh, taken: Bool[Array, " lanes"], new: Batch, old: Batch) -> Batch:
    def choose(taken: Bool[Array, ""], new: Batch, old: Batch) -> Batch:
        return jax.tree.map(lambda a, b: jnp.where(taken, a, b), new, old)

    return _sharded(mesh, choose)(taken, new, old)


def fitting_program(
    params: Params,
    job: Job,
    optimizer: optax.GradientTransformationExtraArgs,
    lanes: int,
    mesh: Mesh,
    check: bool,
) -> Program:
    """Compile the program for `lanes` lanes a device, fewer if `check` finds too little memory."""
    room = USABLE * device_memory(mesh.devices.flat[0])
    shared = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    started = time.perf_counter()
    while True:
        signature = _Signature.of((job.objective, job.image)), _Signature.of(params)
        compiled = _compiled(optimizer, mesh, *signature, lanes)
        # Donated inputs also count as outputs.
        usage = compiled.memory_analysis()
        assert usage is not None
        need = usage.argument_size_in_bytes + usage.output_size_in_bytes
        need += usage.temp_size_in_bytes - usage.alias_size_in_bytes
        fixed = min(shared, usage.argument_size_in_bytes)
        # While one of several lanes is refilled, a second batch exists for a moment.
        if lanes * mesh.shape[AXIS] > 1:
            need += usage.argument_size_in_bytes - fixed
        if not check or lanes == 1 or need <= room:
            seconds = time.perf_counter() - started
            return Program(lanes, mesh, optimizer, params, seconds, compiled)
        lanes = max(1, min(lanes - 1, int(lanes * (room - fixed) / (need - fixed))))


class _Signature(NamedTuple):
    """Structure, shapes and dtypes of a pytree: the key by which programs are cached."""

    structure: Any
    leaves: tuple[tuple[tuple[int, ...], np.dtype], ...]

    @classmethod
    def of(cls, tree: Any) -> "_Signature":
        leaves, structure = jax.tree.flatten(tree)
        return cls(structure, tuple((leaf.shape, np.dtype(leaf.dtype)) for leaf in leaves))

    def shapes(self, *lanes: int) -> Any:
        """Return the shapes of the arrays, with a leading axis of `lanes` if given."""
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
