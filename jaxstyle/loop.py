"""The one loop: an objective, an image, an optimizer, driven from Python."""

import collections
import functools
import time
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Bool, Float, Int

from jaxstyle import lbfgs, space
from jaxstyle.config import Config
from jaxstyle.memory import thrifty_options
from jaxstyle.objective import GREY_LEVELS, Objective
from jaxstyle.preconditioner import smooth
from jaxstyle.types import Image, Scalar

FIRST_STEP = 4.0 / GREY_LEVELS
"""Root-mean-square change of the first L-BFGS step: large enough for float32 to see the
curvature along it."""

_LOSS_NOISE = {"float32": 1e-6, "tf32": 1e-4, "bfloat16": 1e-2}
_DEFAULT_HISTORY = 20
_DEFAULT_LEARNING_RATE, _DEFAULT_BETA2 = 0.02, 0.999
IN_FLIGHT = 1
"""Evaluations the device may be ahead of the host, so that reading never stalls it."""

REASONS = {lbfgs.CONVERGED: "converged", lbfgs.STALLED: "stalled", lbfgs.NOT_FINITE: "not finite"}
"""Why a run ended, by the optimizer's status, if not by its budget."""


class LoopState(NamedTuple):
    """All that one update needs and the next one gets."""

    image: Float[Array, "h w 3"]
    optimizer: optax.OptState
    best_image: Float[Array, "h w 3"]
    best_loss: Scalar
    evaluations: Int[Array, ""]


class UpdateInfo(NamedTuple):
    """What one update has seen; on the device until it is read."""

    evaluations: Int[Array, ""]
    loss: Scalar
    terms: dict[str, Scalar]
    gradient_norm: Scalar
    step_size: Scalar
    accepted: Bool[Array, ""]
    status: Int[Array, ""]


class Record(NamedTuple):
    """One evaluation as it is reported.

    `evaluation` counts from 1, `seconds`, without compilation, and `compile_seconds` from 0,
    over all scales.
    """

    evaluation: int
    loss: float
    terms: dict[str, float]
    gradient_norm: float
    step_size: float
    accepted: bool
    seconds: float
    compile_seconds: float
    scale: int


class Result(NamedTuple):
    """The best image of the last scale that was run, and how it came about."""

    image: Image
    """sRGB `[h, w, 3]`, not clipped (`save_image` clips), so that its loss is `loss`. Otherwise
    it is only where a run stopped at a coarse scale, which enlarges it, with `ema`, whose mean is
    not evaluated, and where `preserve_color` puts the content's colours back."""
    loss: float
    terms: dict[str, float]
    history: tuple[Record, ...]
    """One record an evaluation; an update for `optax-lbfgs`, whose updates take several."""
    evaluations: int
    reason: str
    """`budget`, `converged`, `stalled`, `not finite`, or `stopped` by the callback."""
    seconds: float
    """Wall time of the loop up to its last evaluation, compilation excluded."""
    compile_seconds: float
    convolution: Literal["direct", "winograd"]
    """What `config.convolution` came to, in all or some of the layers."""
    activations: Literal["kept", "recomputed", "tiled"]
    """What `config.activations` came to."""

    @property
    def rejected(self) -> int:
        """Evaluations whose trial the line search did not accept."""
        return sum(not record.accepted for record in self.history)


Callback = Callable[[Record], bool | None]
"""Called with each evaluation's record while the device does the next; a true result ends the
run, with one more evaluation under way, whose record is only in the history."""


def make_optimizer(
    config: Config, budget: int | None = None
) -> optax.GradientTransformationExtraArgs:
    """The optax transformation that `config` names; schedules reach over `budget` evaluations."""
    if config.optimizer == "adam":
        cosine = config.learning_rate_schedule == "cosine"
        return _adam(
            config.learning_rate or _DEFAULT_LEARNING_RATE,
            config.adam_beta2 or _DEFAULT_BETA2,
            budget or config.evaluations if cosine else None,
            config.ema,
        )
    history_size = config.history_size or _DEFAULT_HISTORY
    if config.optimizer == "optax-lbfgs":
        return _optax_lbfgs(history_size)
    noise = _LOSS_NOISE[config.precision]
    return _lbfgs(history_size, noise, config.history_precision, config.preconditioner != "none")


# Cached, because a compiled update is looked up by its functions' identity.
@functools.lru_cache
def _lbfgs(
    history_size: int, noise: float, stored: str | None, preconditioned: bool
) -> optax.GradientTransformationExtraArgs:
    dtype = jnp.dtype(jnp.bfloat16) if stored == "bfloat16" else None
    return lbfgs.lbfgs(
        history_size, FIRST_STEP, noise, dtype, *([smooth] if preconditioned else [])
    )


@functools.lru_cache
def _optax_lbfgs(history_size: int) -> optax.GradientTransformationExtraArgs:
    return optax.lbfgs(memory_size=history_size)


@functools.lru_cache
def _adam(
    learning_rate: float, beta2: float, decay_steps: int | None, ema: float | None
) -> optax.GradientTransformationExtraArgs:
    schedule = (
        learning_rate
        if decay_steps is None
        else optax.cosine_decay_schedule(learning_rate, decay_steps)
    )
    adam = optax.adam(schedule, b2=beta2)
    return optax.with_extra_args_support(
        adam if ema is None else optax.chain(adam, average_iterates(ema))
    )


class AverageState(NamedTuple):
    """State of `average_iterates`."""

    average: optax.Params
    iterates: Int[Array, ""]


def average_iterates(decay: float) -> optax.GradientTransformation:
    """Keep an exponential mean of the iterates, corrected for its start; updates pass through.

    The mean of n iterates weighs the one k before the last by decayᵏ(1 − decay)/(1 − decayⁿ), as
    Kingma and Ba (2015) correct their moments. It comes last in a chain.
    """

    def init(params: optax.Params) -> AverageState:
        return AverageState(params, jnp.zeros((), jnp.int32))

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        assert isinstance(state, AverageState)
        assert params is not None
        count = state.iterates + 1
        share = (1 - decay) / (1 - decay**count)

        def moved(mean: Array, iterate: Array) -> Array:
            # The last iterate of a run that ends for not being finite does not count.
            nearer = mean + (share * (iterate - mean)).astype(mean.dtype)
            return jnp.where(jnp.isfinite(iterate).all(), nearer, mean)

        iterates = optax.apply_updates(params, updates)
        return updates, AverageState(jax.tree.map(moved, state.average, iterates), count)

    return optax.GradientTransformation(init, update)


def outcome(state: LoopState) -> Float[Array, "*lanes h w 3"]:
    """The image that a run with this state comes to: the best one, or the mean if one is kept."""
    average = optax.tree.get(state.optimizer, "average")
    return state.best_image if average is None else average


@functools.partial(jax.jit, static_argnums=0)
def init_state(
    optimizer: optax.GradientTransformationExtraArgs, image: Float[Array, "h w 3"]
) -> LoopState:
    """The loop's state before its first evaluation."""
    return LoopState(
        # Copies, because the state's buffers are donated and the caller's are not.
        image=jnp.array(image),
        # With the types that updates give it: weaker ones would be compiled for once more.
        optimizer=jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), optimizer.init(image)),
        best_image=jnp.array(image),
        best_loss=jnp.full((), jnp.inf, jnp.promote_types(image.dtype, jnp.float32)),
        evaluations=jnp.zeros((), jnp.int32),
    )


def update(
    optimizer: optax.GradientTransformationExtraArgs, objective: Objective, state: LoopState
) -> tuple[LoopState, UpdateInfo]:
    """One evaluation of the objective and the optimizer's update; pure, and vmappable."""
    (loss, terms), grad = jax.value_and_grad(objective, has_aux=True)(state.image)
    updates, optimizer_state = optimizer.update(grad, state.optimizer, state.image, value=loss)
    get = optax.tree.get
    accepted = get(optimizer_state, "accepted", jnp.isfinite(loss))
    info = UpdateInfo(
        evaluations=state.evaluations + 1,
        loss=loss,
        terms=terms,
        gradient_norm=optax.tree.norm(grad),
        step_size=get(state.optimizer, "step_size", jnp.full((), jnp.nan, loss.dtype)),
        accepted=accepted,
        status=get(optimizer_state, "status", jnp.where(accepted, lbfgs.RUNNING, lbfgs.NOT_FINITE)),
    )
    image = optax.apply_updates(state.image, updates)
    return _advanced(state, state.image, image, optimizer_state, info), info


def baseline_update(
    optimizer: optax.GradientTransformationExtraArgs, objective: Objective, state: LoopState
) -> tuple[LoopState, UpdateInfo]:
    """One update of `optax.lbfgs`, whose line search takes several evaluations.

    The search's last value and gradient are reused, as optax advises, so its record is of the
    point it arrives at, and has no terms.
    """

    def loss_of(image: Float[Array, "h w 3"]) -> Scalar:
        return objective(image)[0]

    value, grad = optax.value_and_grad_from_state(loss_of)(state.image, state=state.optimizer)
    updates, optimizer_state = optimizer.update(
        grad, state.optimizer, state.image, value=value, grad=grad, value_fn=loss_of
    )
    get = optax.tree.get
    loss = jnp.asarray(get(optimizer_state, "value"))
    arrived = optax.apply_updates(state.image, updates)
    spent = get(optimizer_state, "num_linesearch_steps") + (state.evaluations == 0)
    finite, moved = jnp.isfinite(loss), optax.tree.norm(updates) > 0
    status = jnp.where(finite, jnp.where(moved, lbfgs.RUNNING, lbfgs.STALLED), lbfgs.NOT_FINITE)
    info = UpdateInfo(
        evaluations=state.evaluations + spent,
        loss=loss,
        terms={},
        gradient_norm=optax.tree.norm(get(optimizer_state, "grad")),
        step_size=get(optimizer_state, "learning_rate"),
        accepted=finite & moved,
        status=status,
    )
    return _advanced(state, arrived, arrived, optimizer_state, info), info


def _advanced(
    state: LoopState,
    evaluated: optax.Params,
    image: optax.Params,
    optimizer_state: optax.OptState,
    info: UpdateInfo,
) -> LoopState:
    assert isinstance(evaluated, Array)
    assert isinstance(image, Array)
    better = info.loss < state.best_loss
    return LoopState(
        image=image,
        optimizer=optimizer_state,
        best_image=jnp.where(better, evaluated, state.best_image),
        best_loss=jnp.where(better, info.loss, state.best_loss),
        evaluations=info.evaluations,
    )


class Journal:
    """The host's account of one scale of a run: what was read, and when."""

    def __init__(self, before: Sequence[Record] = (), history: Sequence[Record] = ()) -> None:
        last = before[-1] if before else None
        self._spent = last.evaluation if last else 0
        self._began = last.seconds if last else 0.0
        self._compiled = last.compile_seconds if last else 0.0
        self._scale = last.scale + 1 if last else 0
        self.history = list(history)
        self.status = lbfgs.RUNNING
        self.start()

    @property
    def evaluations(self) -> int:
        """Evaluations of this scale that were read."""
        return self.history[-1].evaluation - self._spent if self.history else 0

    @property
    def _elapsed(self) -> float:
        return self.history[-1].seconds if self.history else self._began

    def start(self, compile_seconds: float = 0.0) -> None:
        """Count time from now on, after so much of compilation."""
        self.compile_seconds = compile_seconds
        self._offset = self._elapsed - time.perf_counter()

    def read(self, info: UpdateInfo) -> None:
        """Add what one update has seen, once it is on the host."""
        self.history.append(
            Record(
                evaluation=self._spent + int(info.evaluations),
                loss=float(info.loss),
                terms={name: float(value) for name, value in info.terms.items()},
                gradient_norm=float(info.gradient_norm),
                step_size=float(info.step_size),
                accepted=bool(info.accepted),
                seconds=self._offset + time.perf_counter(),
                compile_seconds=self._compiled + self.compile_seconds,
                scale=self._scale,
            )
        )
        self.status = int(info.status)

    def result(self, image: Image, objective: Objective, reason: str) -> Result:
        """The scale as a whole, whose best image is `image`."""
        # Of no finite loss at all, the first: NaN compares false.
        best = min(self.history, key=lambda record: (not np.isfinite(record.loss), record.loss))
        return Result(
            image=image,
            loss=best.loss,
            terms=best.terms,
            history=tuple(self.history),
            evaluations=self.evaluations,
            reason=reason,
            seconds=self._elapsed - self._began,
            compile_seconds=self.compile_seconds,
            convolution=objective.network.convolution,
            activations=objective.activations,
        )


class Progress(NamedTuple):
    """All that it takes to go on with a run: between two evaluations, nothing else is known."""

    state: LoopState
    """Of the scale under way."""
    history: tuple[Record, ...] = ()
    """Of the scale under way."""
    earlier: Result | None = None
    """The scales before, as one."""
    status: int = lbfgs.RUNNING
    compile_seconds: float = 0.0
    """Spent on the scale under way."""

    @property
    def records(self) -> tuple[Record, ...]:
        """Of all scales."""
        return (*(self.earlier.history if self.earlier else ()), *self.history)

    @property
    def evaluations(self) -> int:
        """Of all scales."""
        return self.records[-1].evaluation if self.records else 0

    @property
    def scale(self) -> int:
        """Position of the scale under way, counted from the coarsest."""
        return self.earlier.history[-1].scale + 1 if self.earlier else 0


class Keeper(Protocol):
    """Is shown a run's progress at evaluations of its choice, as to write it down.

    Progress is shown when its evaluations are read and no other is under way. Its arrays are
    only there until the call returns: the next update takes over their memory.
    """

    def wants(self, evaluation: int) -> bool:
        """Whether to show the progress after `evaluation`, counted over all scales."""
        ...

    def keep(self, progress: Progress) -> None:
        """Take the progress wanted."""
        ...

    def save(self, progress: Progress) -> None:
        """Take the progress of a new scale, or of a run that is stopped or ends."""
        ...


@functools.lru_cache
def _compiled(
    optimizer: optax.GradientTransformationExtraArgs,
    baseline: bool,
    thrifty: bool,
    shape: tuple[int, ...],
    mesh: Mesh | None,
) -> Callable[[Objective, LoopState], tuple[LoopState, UpdateInfo]]:
    where = None
    if mesh is not None:
        state = jax.eval_shape(init_state, optimizer, jax.ShapeDtypeStruct(shape, jnp.float32))
        where = space.shardings(state, shape, mesh), NamedSharding(mesh, PartitionSpec())
    return jax.jit(
        functools.partial(baseline_update if baseline else update, optimizer),
        donate_argnums=1,
        compiler_options=thrifty_options() if thrifty else None,
        out_shardings=where,
    )


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
        image: sRGB start.
        config: names the optimizer and the budget.
        callback: see `Callback`.
        budget: evaluations, at least 1, if not `config.evaluations`.
    """
    budget = config.evaluations if budget is None else budget
    return proceed(objective, begin(image, config), config, budget, callback=callback)[1]


def state_like(shape: tuple[int, ...], config: Config) -> LoopState:
    """Structure, shapes and types of the state for float32 images of `shape`; no arrays."""
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(functools.partial(init_state, make_optimizer(config)), image)


def begin(image: Image, config: Config, earlier: Result | None = None) -> Progress:
    """A scale before its first evaluation, from `image`, after the scales `earlier`."""
    start = jnp.asarray(image)
    start = start.astype(jnp.promote_types(start.dtype, jnp.float32))
    return Progress(init_state(make_optimizer(config), start), earlier=earlier)


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
    """Go on with a scale until its budget is spent, it ends, or the callback ends it.

    Args:
        objective: of this scale.
        progress: from `begin`, or of a run that was cut off; its arrays are no longer there
            afterwards.
        config: names the optimizer.
        budget: evaluations of this scale, at least 1, those of `progress` counted.
        callback: see `Callback`.
        keeper: see `Keeper`.
        mesh: of devices that share the image's rows, from `space.row_mesh`; one device has them
            all if not given.

    Returns:
        How far the scale is, and its result. They depend on neither where it was cut off nor
        what was kept.
    """
    if budget < 1:
        raise ValueError(f"the budget must be at least 1 evaluation, not {budget}")
    optimizer = make_optimizer(config, budget)
    baseline = config.optimizer == "optax-lbfgs"
    state = progress.state
    shape = state.image.shape
    compiled = _compiled(optimizer, baseline, objective.activations != "kept", shape, mesh)
    if mesh is not None:
        objective, state = (space.spread(each, shape, mesh) for each in (objective, state))
    in_flight = 0 if baseline else IN_FLIGHT
    earlier = progress.earlier
    journal = Journal(earlier.history if earlier else (), progress.history)
    journal.status = progress.status
    spent = earlier.evaluations if earlier else 0
    compile_seconds = progress.compile_seconds
    pending: collections.deque[UpdateInfo] = collections.deque()
    dispatched, stopped, first = journal.evaluations, False, True
    kept = spent + dispatched

    def reached() -> Progress:
        history = tuple(journal.history)
        return Progress(state, history, earlier, journal.status, journal.compile_seconds)

    journal.start(compile_seconds)
    while journal.status == lbfgs.RUNNING and not stopped and journal.evaluations < budget:
        if dispatched < budget:
            began = time.perf_counter()
            state, info = compiled(objective, state)
            pending.append(info)
            dispatched += 1
            if first:
                journal.start(compile_seconds + time.perf_counter() - began)
                first = False
        wanted = keeper is not None and not baseline and keeper.wants(spent + dispatched)
        most = 0 if wanted or dispatched >= budget else in_flight
        while len(pending) > most and journal.status == lbfgs.RUNNING:
            journal.read(jax.device_get(pending.popleft()))
            stopped |= bool(callback is not None and callback(journal.history[-1]))
        if baseline:
            dispatched = journal.evaluations
            wanted = keeper is not None and any(
                map(keeper.wants, range(kept + 1, spent + dispatched + 1))
            )
            kept = spent + dispatched
        if wanted and journal.status == lbfgs.RUNNING and not stopped:
            assert keeper is not None
            keeper.keep(reached())
    # What was under way when the run was stopped belongs to the state; what comes after the
    # optimizer's end does not move it.
    while pending and journal.status == lbfgs.RUNNING:
        journal.read(jax.device_get(pending.popleft()))
    reason = REASONS.get(journal.status, "stopped" if stopped else "budget")
    result = journal.result(space.fetch(outcome(state)), objective, reason)
    if not result.terms:
        terms = objective(state.best_image)[1]
        result = result._replace(terms={name: float(value) for name, value in terms.items()})
    return reached(), result
