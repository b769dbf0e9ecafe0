"""Layouts: how many images are optimized at a time, and on which devices.

The only engine module that maps over lanes and shards states. Several images are lanes: leaves
have a leading axis, and no operation mixes lanes. One image alone has no such axis, since a unit
axis costs memory and time and makes the compiler sum in another order.

Rows of an image that several devices share are sharded, and XLA's partitioner derives the halos of
convolutions and the sums of Gram matrices by itself (Xu et al. 2021). The program only avoids
flattening rows, which would gather them. Where rows do not divide evenly, states are stored with
rows of zeros below the image. The objective sees the image's own rows only, so the others'
derivatives are zero.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.experimental import layout as memory_layout, multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding
from jaxtyping import Float, PyTree

from jaxstyle.engine import stored
from jaxstyle.engine.compiling import (
    Signature,
    cached,
    dtype_of,
    needed_memory,
    quick_options,
    thrifty_options,
)
from jaxstyle.engine.memory import USABLE, Device, device_memory
from jaxstyle.engine.update import Info, State, init, outcome, state_shapes, update
from jaxstyle.objective import Objective
from jaxstyle.optim import StepInfo

_PROGRAMS_KEPT = 16
"""Number of compiled programs of each kind kept for later runs of the same shapes."""

_KEPT_SIZE = 2**20
"""Elements of an array, about those of an image of 600² pixels, up to which memory for another is
less of a price than copying it."""

LANES, SPACE = "lanes", "space"
"""Names of the mesh axes over which lanes, and the rows of each lane's image, are sharded."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """Groups of devices, each of which optimizes a number of images at a time."""

    devices: tuple[Device, ...]
    lanes: int = 1
    """Number of images at a time in each group."""
    space: int = 1
    """Number of devices in a group; they share the rows of its images."""

    @classmethod
    def of(
        cls, devices: Sequence[Device], *, lanes: int = 1, space: int = 1, jobs: int = 1
    ) -> "Layout":
        """Return a layout for a number of images.

        Args:
            devices: those to use. If they are of several processes, all of them share the rows of
                one image at a time.
            lanes: largest number of images at a time in each group.
            space: number of devices that share the rows of an image.
            jobs: number of images in all, to share out evenly.
        """
        if len({device.process_index for device in devices}) > 1:
            return cls(tuple(devices), space=len(devices))
        # On a CPU, a device without a job would keep the others from working.
        groups = max(1, min(len(devices) // space, jobs))
        rounds = max(1, -(-jobs // (lanes * groups)))
        # As few lanes as make the last round as full as the others.
        evenly = max(1, -(-jobs // (rounds * groups)))
        return cls(tuple(devices[: groups * space]), evenly, space)

    @property
    def groups(self) -> int:
        """Number of groups of devices."""
        return len(self.devices) // self.space

    @property
    def slots(self) -> int:
        """Number of images at a time."""
        return self.lanes * self.groups

    @property
    def mesh(self) -> Mesh:
        """The devices by group, and within each group if rows are shared."""
        if self.space == 1:
            return Mesh(np.asarray(self.devices), (LANES,))
        return Mesh(np.reshape(self.devices, (self.groups, self.space)), (LANES, SPACE))

    def sharding(self, *axes: str | None) -> Sharding:
        """Return the sharding of an array by the mesh axes of its own axes."""
        if len(self.devices) == 1:
            return SingleDeviceSharding(self.devices[0])
        return NamedSharding(self.mesh, PartitionSpec(*axes))

    def place(self, tree: Any) -> Any:
        """Copy the arrays of `tree` to every device, unless they are there already."""
        return _placed(tree, jax.tree.map(lambda _: self.sharding(), tree))

    def padded_rows(self, rows: int) -> int:
        """Round a number of rows up to a multiple of `space`."""
        return -(-rows // self.space) * self.space

    def padded(self, image: PyTree) -> PyTree:
        """Return an image, or its shape, with rows of zeros that make the devices' shares even."""
        if self.space == 1:
            return image
        return _resized(image, (self.padded_rows(image.shape[0]), *image.shape[1:]))

    def start(self, optimizer: optax.GradientTransformation, image: PyTree) -> State:
        """Return the state of one image before its first evaluation, padded.

        No device ever holds more than its part of it.
        """
        rows = self.sharding(SPACE) if self.space > 1 else self.sharding()
        image = self.padded(_parameters(image))
        image = _placed(image, jax.tree.map(lambda _: rows, image))
        return _starting(self, optimizer, Signature.of(image))(image)


def _resized(leaf: Any, shape: tuple[int, ...]) -> Any:
    """Crop or zero-pad each axis at its end, so that the array has the given shape."""
    if leaf.shape == shape:
        return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(shape, leaf.dtype)
    cropped = np.asarray(leaf)[tuple(map(slice, shape))]
    missing = [(0, wanted - size) for wanted, size in zip(shape, cropped.shape, strict=True)]
    return np.pad(cropped, missing) if any(map(any, missing)) else cropped


def _parameters(image: PyTree) -> PyTree:
    """Return the leaves in at least float32."""

    def wide(leaf: Any) -> Any:
        dtype = jnp.promote_types(dtype_of(leaf), np.float32)
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(leaf.shape, dtype)
        leaf = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
        return leaf.astype(dtype)

    return jax.tree.map(wide, image)


def _placed(tree: Any, where: Any) -> Any:
    def placed(leaf: Any, sharding: Sharding) -> jax.Array:
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        if isinstance(leaf, jax.Array) and leaf.sharding.is_equivalent_to(sharding, leaf.ndim):
            return leaf
        # Each process has the whole array; `device_put` would compare it with all others'.
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, sharding, whole.__getitem__)

    return jax.tree.map(placed, tree, where)


def _ordered(leaf: Any, wanted: memory_layout.Format) -> Any:
    """Copy an array into the order of dimensions that a program wants, if it wants another."""
    same = wanted.layout is None or wanted.layout == leaf.format.layout
    return leaf if same else jax.device_put(leaf, wanted)


def _state_rows(layout: Layout, optimizer: optax.GradientTransformation, state: State) -> State:
    """Return the mesh axes of the state's arrays: those of the image's size are sharded by rows."""
    nowhere = jax.tree.map(lambda _: PartitionSpec(), state)
    if layout.space == 1:
        return nowhere

    def rows(leaf: Any) -> PartitionSpec:
        # A history has flat images, one a row.
        return PartitionSpec(None, SPACE) if leaf.ndim == 2 else PartitionSpec(SPACE)

    image, best = (jax.tree.map(rows, tree) for tree in (state.image, state.best_image))
    inner = optax.tree.map_params(
        optimizer, rows, state.optimizer, transform_non_params=lambda _: PartitionSpec()
    )
    return nowhere._replace(image=image, best_image=best, optimizer=inner)


def _objective_rows(layout: Layout, objective: Any) -> Any:
    """Return the mesh axes of an objective's arrays: those with a layer's rows are sharded."""
    if layout.space == 1 or not isinstance(objective, Objective):
        return jax.tree.map(lambda _: PartitionSpec(), objective)

    def rows(leaf: Any, layered: bool) -> PartitionSpec:
        even = layered and leaf.shape[0] % layout.space == 0
        return PartitionSpec(SPACE) if even else PartitionSpec()

    return jax.tree.map(rows, objective, objective.has_rows)


class Packed(NamedTuple):
    """Measurements packed into one vector per lane, since every copy to the host costs time."""

    numbers: Float[Array, "*lanes n"]
    structure: PyTree[None]
    """The measurements' structure, with None in the place of each number."""


class Executable(NamedTuple):
    """Compiled functions on a batch of lanes."""

    program: jax.stages.Compiled
    update: Callable[[Any, Any, State], tuple[State, Packed]]
    """The program as a function of the lanes' data, shared parameters and states."""
    shared: Any
    """Formats of the parameters that all lanes share."""
    empty: Callable[[], Any]
    put: Callable[..., Any]
    lane: Any
    """Shardings of one lane's data (objective and hyperparameters) and state."""


@cached(_PROGRAMS_KEPT)
def _starting(
    layout: Layout, optimizer: optax.GradientTransformation, image: Signature
) -> Callable[[PyTree], State]:
    start = functools.partial(init, optimizer)
    state = state_shapes(optimizer, image.shapes)
    where = jax.tree.map(lambda axes: layout.sharding(*axes), _state_rows(layout, optimizer, state))
    return jax.jit(start, out_shardings=where)


@cached(_PROGRAMS_KEPT)
def _compiled(
    layout: Layout,
    optimizer: optax.GradientTransformation,
    data: Signature,
    image: Signature,
    shared: Signature,
    quick: bool,
    identity: str | None,
) -> Executable:
    def update_lane(given: Any, shared: Any, large: list[Array]) -> tuple[Any, ...]:
        (objective, hyperparameters), small = given
        state = joined(small, large)
        dtype = state.best_loss.dtype
        numbers = {name: number.astype(dtype) for name, number in hyperparameters.items()}
        evaluate = bound(objective, shared)
        if padded != image.shapes:
            evaluate = functools.partial(_evaluate_rows, evaluate, image.shapes.shape[0])
        state, info = update(optimizer, evaluate, state, **numbers)
        # Containers of Python's own, which programs can be stored with.
        measured, structure = jax.tree.flatten({**info._asdict(), "step": info.step._asdict()})
        packed = jnp.stack([number.astype(dtype) for number in measured])
        return parted(state), packed, structure.unflatten([None] * len(measured))

    padded = layout.padded(image.shapes)
    state = state_shapes(optimizer, padded)
    shapes, state_structure = jax.tree.flatten(state)

    # L-BFGS's history is donated, and so is all that is large. GPUs would copy what is still needed
    # of donated images and scalars, a kernel for each.
    most = min(_KEPT_SIZE, max(leaf.size for leaf in jax.tree.leaves(padded)))
    donated = [like.size > most for like in shapes]

    def parted(state: Any) -> tuple[list[Any], list[Any]]:
        leaves = list(zip(donated, jax.tree.leaves(state), strict=True))
        small, large = ([leaf for own, leaf in leaves if own == given] for given in (False, True))
        return small, large

    def joined(small: Sequence[Any], large: Sequence[Any]) -> Any:
        of = {False: iter(small), True: iter(large)}
        return state_structure.unflatten(next(of[each]) for each in donated)

    objective, hyperparameters = data.shapes
    one = data.shapes, state
    nowhere = jax.tree.map(lambda _: PartitionSpec(), hyperparameters)
    rows = _objective_rows(layout, objective), nowhere
    axes = rows, _state_rows(layout, optimizer, state)
    lead, lanes = ((LANES,), (layout.slots,)) if layout.slots > 1 else ((), ())

    def sharded(axes: Any, *lead: str) -> Any:
        return jax.tree.map(lambda own: layout.sharding(*lead, *own), axes)

    where = sharded(axes, *lead)
    batch = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct((*lanes, *x.shape), x.dtype, sharding=sharding),
        one,
        where,
    )
    # The compiler chooses the order of dimensions in memory: convolutions on GPUs want outputs of a
    # kernel first, and would transpose each kernel in every evaluation.
    chosen = memory_layout.Format(memory_layout.Layout.AUTO, layout.sharding())
    held = objective.activations if isinstance(objective, Objective) else "kept"
    options = (thrifty_options() if held != "kept" else {}) | (quick_options() if quick else {})
    (small, large), (small_where, large_where) = parted(batch[1]), parted(where[1])
    program = stored.lowered(
        _over_lanes(layout, update_lane),
        ((batch[0], small), shared.shapes, large),
        identity,
        donate_argnums=2,
        in_shardings=(
            (where[0], small_where),
            jax.tree.map(lambda _: chosen, shared.shapes),
            large_where,
        ),
        out_shardings=((small_where, large_where), layout.sharding(*lead), None),
    ).compile(options)

    def update_all(data: Any, shared: Any, states: State) -> tuple[State, Packed]:
        small, large = parted(states)
        state, *measured = program((data, small), shared, large)
        return joined(*state), Packed(*measured)

    return Executable(
        program,
        update_all,
        program.input_formats[0][1],
        jax.jit(
            lambda: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), batch),
            out_shardings=where,
        ),
        jax.jit(
            lambda batch, lane, slot: jax.tree.map(
                lambda whole, one: whole.at[slot].set(one), batch, lane
            ),
            donate_argnums=0,
            out_shardings=where,
        ),
        sharded(axes),
    )


def _evaluate_rows(objective: Any, rows: int, image: Array) -> Any:
    return objective(image[:rows])


def bound(objective: Any, shared: Any) -> Any:
    """Return the objective with the parameters that all lanes share, if there are any."""
    return objective if shared is None else dataclasses.replace(objective, params=shared)


def _over_lanes(layout: Layout, function: Callable[..., Any]) -> Callable[..., Any]:
    """Map `function(data, shared, state)` over the lanes of data and states."""
    if layout.slots == 1:
        return function
    lanes = jax.vmap(function, in_axes=(0, None, 0))
    if layout.groups == 1:
        return lanes

    def alone(data: Any, shared: Any, state: State) -> Any:
        squeezed = jax.tree.map(lambda leaf: leaf[0], (data, state))
        results = function(squeezed[0], shared, squeezed[1])
        return jax.tree.map(lambda leaf: leaf[None], results)

    # The compiler partitions the rows of each lane.
    return jax.shard_map(
        lanes if layout.lanes > 1 else alone,
        mesh=layout.mesh,
        in_specs=(PartitionSpec(LANES), PartitionSpec(), PartitionSpec(LANES)),
        out_specs=PartitionSpec(LANES),
        axis_names={LANES},
        check_vma=False,
    )


def compile_update(
    layout: Layout,
    optimizer: optax.GradientTransformation,
    objective: Any,
    image: PyTree,
    shared: Any = None,
    *,
    hyperparameters: Mapping[str, Any] = MappingProxyType({}),
    quick: bool = False,
    shrink: bool = False,
    keep: bool = True,
    identity: str | None = None,
) -> tuple[Layout, Executable]:
    """Compile one update of all lanes; return it with the layout that it is for.

    Args:
        layout: how many lanes there are, and where.
        optimizer: any optax transformation.
        objective: the objective of a lane; those of the others differ only in data.
        image: the image of a lane, or its shapes.
        shared: parameters that the objectives lack, since all lanes share them.
        hyperparameters: extra arguments of a lane's optimizer.
        quick: whether compiling matters more than running; see `quick_options`.
        shrink: whether to take fewer lanes than `layout` has if they would not fit in memory.
        keep: whether to keep the compiled program for the next run of such objectives.
        identity: what tells this optimizer and this kind of objective from any other, for a program
            to be stored; see `stored.lowered`.
    """
    compiled = _compiled if keep else _compiled.__wrapped__
    data, start = Signature.of((objective, dict(hyperparameters))), Signature.of(_parameters(image))
    while True:
        executable = compiled(layout, optimizer, data, start, Signature.of(shared), quick, identity)
        fewer = _fitting_lanes(layout, executable, shared) if shrink else layout.lanes
        if fewer == layout.lanes:
            return layout, executable
        layout = dataclasses.replace(layout, lanes=fewer)


class Program:
    """One update of all lanes, and the lanes themselves, on the devices of a layout."""

    def __init__(
        self,
        layout: Layout,
        optimizer: optax.GradientTransformation,
        objective: Any,
        image: PyTree,
        shared: Any = None,
        **options: Any,
    ) -> None:
        """Compile; see `compile_update` for the arguments."""
        started = time.perf_counter()
        self.optimizer = optimizer
        self.shared = layout.place(shared)
        self.layout, self._executable = compile_update(
            layout, optimizer, objective, image, self.shared, **options
        )
        self.shared = jax.tree.map(_ordered, self.shared, self._executable.shared)
        self.compile_seconds = time.perf_counter() - started
        self._shapes = state_shapes(optimizer, _parameters(image))
        self._lanes: Any = None

    def put(
        self,
        slot: int,
        objective: Any,
        hyperparameters: Mapping[str, Any],
        image: PyTree,
        state: State | None,
    ) -> None:
        """Put one image into a slot, at its start or in the given state.

        If all slots are empty, the others are filled likewise, with numbers to compute with.
        """
        if state is None:
            state = self.layout.start(self.optimizer, image)
        elif self.layout.space > 1:
            padded = self.layout.padded(self._shapes.image)
            state = _with_shapes(state, state_shapes(self.optimizer, padded))
        lane = _placed(((objective, dict(hyperparameters)), state), self._executable.lane)
        if self.layout.slots == 1:
            self._lanes = lane
            return
        slots: Sequence[int] = [slot]
        if self._lanes is None:
            self._lanes = self._executable.empty()
            slots = range(self.layout.slots)
        for each in slots:
            self._lanes = self._executable.put(self._lanes, lane, np.int32(each))

    def clear(self) -> None:
        """Free the memory of all slots."""
        self._lanes = None

    def step(self) -> Packed:
        """Dispatch one update of all slots, and return its measurements on the devices."""
        data, state = self._lanes
        self._lanes = None
        state, packed = self._executable.update(data, self.shared, state)
        self._lanes = data, state
        return packed

    def info_of(self, slot: int, packed: Packed) -> Info:
        """Return one slot's measurements from those of all on the host."""
        numbers = packed.numbers if self.layout.slots == 1 else packed.numbers[slot]
        structure = jax.tree.structure(packed.structure, is_leaf=lambda node: node is None)
        info = structure.unflatten(numbers)
        return Info(**info | {"step": StepInfo(**info["step"])})

    def state_of(self, slot: int) -> State:
        """Return one slot's state: on the host or, if it is the only one, valid until `step`.

        If it is spread over processes, all must ask for it.
        """
        state = self._lanes[1]
        if self.layout.slots == 1:
            return whole(state, self._shapes)
        return _with_shapes(jax.tree.map(functools.partial(_lane, slot), state), self._shapes)

    def outcome_of(self, slot: int) -> PyTree[np.ndarray]:
        """Return one slot's result; if it is spread over processes, all must ask for it."""
        read = fetch if self.layout.slots == 1 else functools.partial(_lane, slot)
        return _with_shapes(jax.tree.map(read, outcome(self._lanes[1])), self._shapes.image)


def _fitting_lanes(layout: Layout, executable: Executable, shared: Any) -> int:
    """Return the number of lanes, at most the layout's, that its first device's memory holds."""
    usage = executable.program.memory_analysis()
    assert usage is not None
    need = needed_memory(executable.program)
    fixed = sum(leaf.nbytes for leaf in jax.tree.leaves(shared))
    fixed = min(fixed, usage.argument_size_in_bytes)
    # While a lane is put into its slot, it is there twice.
    if layout.slots > 1:
        need += (usage.argument_size_in_bytes - fixed) // layout.lanes
    room = USABLE * device_memory(layout.devices[0])
    if need <= room:
        return layout.lanes
    return max(1, min(layout.lanes - 1, int(layout.lanes * (room - fixed) / (need - fixed))))


def _lane(slot: int, leaf: jax.Array) -> np.ndarray:
    """Copy one lane of an array to the host, from the devices that have a part of it."""
    whole = np.empty(leaf.shape[1:], leaf.dtype)
    for shard in leaf.addressable_shards:
        lanes, *rest = shard.index
        position = slot - (lanes.start or 0)
        if not 0 <= position < shard.data.shape[0]:
            continue
        if shard.device.platform == "cpu" or shard.data.shape[0] == 1:
            one = np.asarray(shard.data)[position]
        else:  # do not copy the others
            index = np.int32(position)  # not part of the program
            one = jax.lax.dynamic_index_in_dim(shard.data, index, keepdims=False)
        whole[tuple(rest)] = one
    return whole


def whole(state: State, shapes: State) -> State:
    """Return a state without padding, in `shapes`.

    Arrays that are spread over processes are copied to the host; all must call.
    """
    local = jax.tree.map(lambda leaf: leaf if leaf.is_fully_addressable else fetch(leaf), state)
    return _with_shapes(local, shapes)


def _with_shapes(tree: Any, shapes: Any) -> Any:
    return jax.tree.map(lambda leaf, like: _resized(leaf, like.shape), tree, shapes)


def fetch(array: jax.Array) -> np.ndarray:
    """Copy a whole array to the host, wherever its parts are; all of its processes must call."""
    if array.is_fully_addressable:
        return np.array(array)
    if array.is_fully_replicated:
        return np.array(array.addressable_data(0))
    if array.ndim == 2:  # a history: a device has room for one of its images, but not for all
        return np.stack([fetch(array[np.int32(row)]) for row in range(len(array))])
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
