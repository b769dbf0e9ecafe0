"""The one loop: an objective, an image, an optimizer, driven from Python."""

import collections
import functools
import time
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Bool, Float, Int

from jaxstyle import lbfgs
from jaxstyle.config import Config
from jaxstyle.objective import GREY_LEVELS, Objective
from jaxstyle.preconditioner import smooth
from jaxstyle.types import Image, Scalar

FIRST_STEP = 4.0 / GREY_LEVELS
"""Root-mean-square change of the first L-BFGS step: large enough for float32 to see the
curvature along it."""

_LOSS_NOISE = {"float32": 1e-6, "tf32": 1e-4, "bfloat16": 1e-2}
_DEFAULT_HISTORY = 20
_DEFAULT_LEARNING_RATE = 0.02
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

    `evaluation` counts from 1 and `seconds`, without compilation, from 0 over all scales.
    """

    evaluation: int
    loss: float
    terms: dict[str, float]
    gradient_norm: float
    step_size: float
    accepted: bool
    seconds: float
    scale: int


class Result(NamedTuple):
    """The best image of the last scale that was run, and how it came about."""

    image: Image
    """sRGB `[h, w, 3]`, not clipped (`save_image` clips), so that its loss is `loss`; only a run
    stopped at a coarse scale enlarges it."""
    loss: float
    terms: dict[str, float]
    history: tuple[Record, ...]
    """One record an evaluation; an update for `optax-lbfgs`, whose updates take several."""
    evaluations: int
    reason: str
    """`budget`, `converged`, `stalled`, `not finite`, or `stopped` by the callback."""
    seconds: float
    """Wall time of the loop, the callback's included, compilation excluded."""
    compile_seconds: float
    convolution: Literal["direct", "winograd"]
    """What `config.convolution` came to, in all or some of the layers."""

    @property
    def rejected(self) -> int:
        """Evaluations whose trial the line search did not accept."""
        return sum(not record.accepted for record in self.history)


Callback = Callable[[Record], bool | None]
"""Called with each evaluation's record while the device does the next; a true result ends the
run, with one more evaluation under way, whose record is only in the history."""


def make_optimizer(config: Config) -> optax.GradientTransformationExtraArgs:
    """The optax transformation that `config` names."""
    return _optimizer(
        config.optimizer,
        config.history_size or _DEFAULT_HISTORY,
        config.learning_rate or _DEFAULT_LEARNING_RATE,
        _LOSS_NOISE[config.precision],
        config.preconditioner or "cosine",
    )


@functools.lru_cache
def _optimizer(
    name: str, history_size: int, learning_rate: float, noise: float, preconditioner: str
) -> optax.GradientTransformationExtraArgs:
    # Cached, because a compiled update is looked up by its functions' identity.
    if name == "lbfgs":
        if preconditioner == "none":
            return lbfgs.lbfgs(history_size, FIRST_STEP, noise)
        return lbfgs.lbfgs(history_size, FIRST_STEP, noise, smooth)
    if name == "optax-lbfgs":
        return optax.lbfgs(memory_size=history_size)
    return optax.with_extra_args_support(optax.adam(learning_rate))


@functools.partial(jax.jit, static_argnums=0)
def init_state(
    optimizer: optax.GradientTransformationExtraArgs, image: Float[Array, "h w 3"]
) -> LoopState:
    """The loop's state before its first evaluation."""
    return LoopState(
        # Copies, because the state's buffers are donated and the caller's are not.
        image=jnp.array(image),
        optimizer=optimizer.init(image),
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
    """The host's account of one run of the loop: what was read, and when."""

    def __init__(self, before: Sequence[Record] = ()) -> None:
        last = before[-1] if before else None
        self._spent, self._elapsed = (last.evaluation, last.seconds) if last else (0, 0.0)
        self._scale = last.scale + 1 if last else 0
        self.history: list[Record] = []
        self.status = lbfgs.RUNNING
        self.start()

    @property
    def evaluations(self) -> int:
        """Evaluations of this run that were read, those of scales before not counted."""
        return self.history[-1].evaluation - self._spent if self.history else 0

    def start(self, compile_seconds: float = 0.0) -> None:
        """Count time from now on, after so much of compilation."""
        self._compile_seconds, self._started = compile_seconds, time.perf_counter()

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
                seconds=self._elapsed + time.perf_counter() - self._started,
                scale=self._scale,
            )
        )
        self.status = int(info.status)

    def result(self, image: Image, objective: Objective, reason: str) -> Result:
        """The run as a whole, whose best image is `image`."""
        # Of no finite loss at all, the first: NaN compares false.
        best = min(self.history, key=lambda record: (not np.isfinite(record.loss), record.loss))
        return Result(
            image=image,
            loss=best.loss,
            terms=best.terms,
            history=tuple(self.history),
            evaluations=self.evaluations,
            reason=reason,
            seconds=time.perf_counter() - self._started,
            compile_seconds=self._compile_seconds,
            convolution=objective.network.convolution,
        )


_compiled_update = jax.jit(update, static_argnums=0, donate_argnums=2)
_compiled_baseline_update = jax.jit(baseline_update, static_argnums=0, donate_argnums=2)


def optimize(
    objective: Objective,
    image: Image,
    config: Config,
    *,
    callback: Callback | None = None,
    budget: int | None = None,
    before: Sequence[Record] = (),
) -> Result:
    """Minimize `objective` from `image`, driving one compiled update from Python.

    Args:
        objective: from `build_objective`, for images of this shape.
        image: sRGB start.
        config: names the optimizer and the budget.
        callback: see `Callback`.
        budget: evaluations, at least 1, if not `config.evaluations`.
        before: records of the scales before this one, which the new records count on from.
    """
    budget = config.evaluations if budget is None else budget
    if budget < 1:
        raise ValueError(f"the budget must be at least 1 evaluation, not {budget}")
    optimizer = make_optimizer(config)
    baseline = config.optimizer == "optax-lbfgs"
    compiled = _compiled_baseline_update if baseline else _compiled_update
    in_flight = 0 if baseline else IN_FLIGHT
    journal, began = Journal(before), time.perf_counter()
    start = jnp.asarray(image)
    state = init_state(optimizer, start.astype(jnp.promote_types(start.dtype, jnp.float32)))
    pending: collections.deque[UpdateInfo] = collections.deque()
    dispatched, stopped = 0, False

    while pending or dispatched < budget:
        if dispatched < budget:
            state, info = compiled(optimizer, objective, state)
            pending.append(info)
            dispatched += 1
            if dispatched == 1:
                journal.start(compile_seconds=time.perf_counter() - began)
            if len(pending) <= in_flight:
                continue
        journal.read(jax.device_get(pending.popleft()))
        if baseline:
            dispatched = journal.evaluations
        stopped = bool(callback is not None and callback(journal.history[-1]))
        if journal.status != lbfgs.RUNNING or stopped:
            break
    status = journal.status
    for info in pending:  # no longer wanted when the run ends early, but spent
        journal.read(jax.device_get(info))
    reason = REASONS.get(status, "stopped" if stopped else "budget")
    result = journal.result(np.asarray(state.best_image), objective, reason)
    if result.terms:
        return result
    terms = objective(state.best_image)[1]
    return result._replace(terms={name: float(value) for name, value in terms.items()})
