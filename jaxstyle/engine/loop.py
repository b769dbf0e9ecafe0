"""The optimization loop: an objective, an image and an optimizer, driven from Python."""

import collections
import functools
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float

from jaxstyle.config import Config
from jaxstyle.engine import sharding
from jaxstyle.engine.memory import thrifty_options
from jaxstyle.engine.optimizers import make_optimizer
from jaxstyle.engine.records import REASONS, Callback, Journal, Record, Result, UpdateInfo
from jaxstyle.engine.waiting import Reader
from jaxstyle.imaging import Image
from jaxstyle.objective import Objective, Scalar
from jaxstyle.optim import NOT_FINITE, RUNNING, AverageState, StepInfo, find

IN_FLIGHT = 1
"""Evaluations by which the device may be ahead of the host, so that reading never stalls it."""


class LoopState(NamedTuple):
    """The state that one update passes to the next."""

    image: Float[Array, "h w 3"]
    optimizer: optax.OptState
    best_image: Float[Array, "h w 3"]
    best_loss: Scalar


def outcome(state: LoopState) -> Float[Array, "*lanes h w 3"]:
    """Return a run's image: the mean of the iterates if one is kept, else the best image."""
    mean = find(state.optimizer, AverageState)
    return state.best_image if mean is None else mean.average


@functools.partial(jax.jit, static_argnums=0)
def init_state(
    optimizer: optax.GradientTransformationExtraArgs, image: Float[Array, "h w 3"]
) -> LoopState:
    """Return the loop's state before its first evaluation."""
    return LoopState(
        # Copies, because the state's buffers are donated and the caller's must not be.
        image=jnp.array(image),
        # The dtypes that updates return: weak types would cause a second compilation.
        optimizer=jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), optimizer.init(image)),
        best_image=jnp.array(image),
        best_loss=jnp.full((), jnp.inf, jnp.promote_types(image.dtype, jnp.float32)),
    )


def update(
    optimizer: optax.GradientTransformationExtraArgs, objective: Objective, state: LoopState
) -> tuple[LoopState, UpdateInfo]:
    """Evaluate the objective once and apply the optimizer's update; pure and vmappable."""
    (loss, terms), grad = jax.value_and_grad(objective, has_aux=True)(state.image)
    updates, optimizer_state = optimizer.update(grad, state.optimizer, state.image, value=loss)
    info = UpdateInfo(
        loss=loss,
        terms=terms,
        gradient_norm=optax.tree.norm(grad),
        step=find(optimizer_state, StepInfo) or _unjudged(loss),
    )
    image = optax.apply_updates(state.image, updates)
    assert isinstance(image, Array)
    better = loss < state.best_loss
    advanced = LoopState(
        image=image,
        optimizer=optimizer_state,
        best_image=jnp.where(better, state.image, state.best_image),
        best_loss=jnp.where(better, loss, state.best_loss),
    )
    return advanced, info


def _unjudged(loss: Scalar) -> StepInfo:
    """Return what there is to tell of a step by an optimizer that tells nothing."""
    finite = jnp.isfinite(loss)
    unknown = jnp.full((), jnp.nan, loss.dtype)
    return StepInfo(unknown, finite, jnp.where(finite, RUNNING, NOT_FINITE))


class Progress(NamedTuple):
    """Everything needed to resume a run between two evaluations."""

    state: LoopState
    """State of the current scale."""
    history: tuple[Record, ...] = ()
    """Records of the current scale."""
    earlier: Result | None = None
    """Joint result of the earlier scales."""
    status: int = RUNNING
    compile_seconds: float = 0.0
    """Compilation time of the current scale."""

    @property
    def records(self) -> tuple[Record, ...]:
        """Records of all scales."""
        return (*(self.earlier.history if self.earlier else ()), *self.history)

    @property
    def evaluations(self) -> int:
        """Number of evaluations in all scales."""
        return self.records[-1].evaluation if self.records else 0

    @property
    def scale(self) -> int:
        """Position of the current scale, counted from the coarsest."""
        return self.earlier.history[-1].scale + 1 if self.earlier else 0


class Keeper(Protocol):
    """An observer that is shown a run's progress at chosen evaluations, for example to save it.

    Progress is shown once its evaluations are read and no other is under way. Its arrays are
    valid only until the call returns: the next update reuses their memory.
    """

    def wants(self, evaluation: int) -> bool:
        """Return whether to show the progress after `evaluation`, counted over all scales."""
        ...

    def keep(self, progress: Progress) -> None:
        """Receive the progress that `wants` asked for."""
        ...

    def save(self, progress: Progress) -> None:
        """Receive the progress of a new scale, or of a run that is stopped or ends."""
        ...


@functools.lru_cache
def _compiled(
    optimizer: optax.GradientTransformationExtraArgs,
    thrifty: bool,
    shape: tuple[int, ...],
    mesh: Mesh | None,
) -> Callable[[Objective, LoopState], tuple[LoopState, UpdateInfo]]:
    where = None
    if mesh is not None:
        where = _places(optimizer, shape, mesh), NamedSharding(mesh, PartitionSpec())
    return jax.jit(
        functools.partial(update, optimizer),
        donate_argnums=1,
        compiler_options=thrifty_options() if thrifty else None,
        out_shardings=where,
    )


def _places(
    optimizer: optax.GradientTransformationExtraArgs, shape: tuple[int, ...], mesh: Mesh
) -> LoopState:
    """Return the shardings on `mesh` of the state for images of `shape`."""
    return sharding.shardings(_shapes(optimizer, shape), shape, mesh)


def _shapes(optimizer: optax.GradientTransformationExtraArgs, shape: tuple[int, ...]) -> LoopState:
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(functools.partial(init_state, optimizer), image)


def optimize(
    objective: Objective,
    image: Image,
    config: Config,
    *,
    callback: Callback | None = None,
    budget: int | None = None,
) -> Result:
    """Minimize `objective` from `image`, driving one compiled update from Python.

    Args:
        objective: from `build_objective`, for images of this shape.
        image: the starting image, in sRGB.
        config: names the optimizer and the budget.
        callback: see `Callback`.
        budget: number of evaluations, at least 1; by default `config.evaluations`.
    """
    budget = config.evaluations if budget is None else budget
    return proceed(objective, begin(image, config), config, budget, callback=callback)[1]


def state_like(shape: tuple[int, ...], config: Config) -> LoopState:
    """Return the structure, shapes and dtypes of the state for float32 images of `shape`."""
    return _shapes(make_optimizer(config), shape)


def begin(
    image: Image, config: Config, earlier: Result | None = None, mesh: Mesh | None = None
) -> Progress:
    """Return the progress of a scale before its first evaluation.

    Args:
        image: the starting image.
        config: names the optimizer.
        earlier: joint result of the earlier scales.
        mesh: see `proceed`; no device then ever holds more than its part of the state.
    """
    optimizer = make_optimizer(config)
    if mesh is None:
        start = jnp.asarray(image)
        start = start.astype(jnp.promote_types(start.dtype, jnp.float32))
        return Progress(init_state(optimizer, start), earlier=earlier)
    shape = tuple(image.shape)
    start = sharding.spread(np.asarray(image, np.float32), shape, mesh)
    where = _places(optimizer, shape, mesh)
    state = jax.jit(functools.partial(init_state, optimizer), out_shardings=where)(start)
    return Progress(state, earlier=earlier)


def proceed(
    objective: Objective,
    progress: Progress,
    config: Config,
    budget: int,
    *,
    callback: Callback | None = None,
    keeper: Keeper | None = None,
    mesh: Mesh | None = None,
) -> tuple[Progress, Result]:
    """Continue a scale until its budget is spent, it ends, or the callback ends it.

    Args:
        objective: the objective of this scale.
        progress: from `begin`, or of an interrupted run; its arrays are invalid afterwards.
        config: names the optimizer.
        budget: evaluations of this scale, at least 1, including those of `progress`.
        callback: see `Callback`.
        keeper: see `Keeper`.
        mesh: devices that share the image's rows, from `sharding.row_mesh`; by default one device
            has them all.

    Returns:
        The progress of the scale, and its result. Neither depends on where the run was
        interrupted or on what was kept.
    """
    if budget < 1:
        raise ValueError(f"the budget must be at least 1 evaluation, not {budget}")
    optimizer = make_optimizer(config, budget)
    state = progress.state
    shape = state.image.shape
    thrifty = objective.activations != "kept"
    # The shape matters only for arrays on several devices.
    compiled = _compiled(optimizer, thrifty, () if mesh is None else shape, mesh)
    if mesh is None:
        state = jax.tree.map(jnp.asarray, state)
    else:
        objective, state = (sharding.spread(each, shape, mesh) for each in (objective, state))
    earlier = progress.earlier
    journal = Journal(earlier.history if earlier else (), progress.history)
    journal.status = progress.status
    spent = earlier.evaluations if earlier else 0
    compile_seconds = progress.compile_seconds
    pending: collections.deque[UpdateInfo] = collections.deque()
    reader = Reader()
    dispatched, stopped, first = journal.evaluations, False, True

    def reached() -> Progress:
        history = tuple(journal.history)
        return Progress(state, history, earlier, journal.status, journal.compile_seconds)

    journal.start(compile_seconds)
    while journal.status == RUNNING and not stopped and journal.evaluations < budget:
        if dispatched < budget:
            began = time.perf_counter()
            state, info = compiled(objective, state)
            pending.append(info)
            dispatched += 1
            if first:
                journal.start(compile_seconds + time.perf_counter() - began)
                first = False
        wanted = keeper is not None and keeper.wants(spent + dispatched)
        most = 0 if wanted or dispatched >= budget else IN_FLIGHT
        while len(pending) > most and journal.status == RUNNING:
            journal.read(
                reader.get(pending.popleft(), f"evaluation {spent + journal.evaluations + 1}")
            )
            stopped |= bool(callback is not None and callback(journal.history[-1]))
        if wanted and journal.status == RUNNING and not stopped:
            assert keeper is not None
            keeper.keep(reached())
    # An evaluation under way when the run was stopped is part of the state; one after the
    # optimizer's end does not change it.
    while pending and journal.status == RUNNING:
        journal.read(reader.get(pending.popleft(), "the last evaluation"))
    reason = "stopped" if stopped else REASONS.get(journal.status, "budget")
    return reached(), journal.result(sharding.fetch(outcome(state)), objective, reason)
