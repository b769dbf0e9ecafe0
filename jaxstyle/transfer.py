"""The one loop: an objective, an image, an optimizer; and `stylize`, which sets them up."""

import collections
import functools
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Bool, Float, Int

from jaxstyle import lbfgs, pyramid
from jaxstyle.config import Config
from jaxstyle.images import fit_shape, load_image, resize_image
from jaxstyle.objective import GREY_LEVELS, Objective, build_objective, check_inputs
from jaxstyle.types import Image, Params, Scalar
from jaxstyle.weights import load_weights

FIRST_STEP = 4.0 / GREY_LEVELS
"""Root-mean-square change of the first L-BFGS step: large enough for float32 to see the
curvature along it."""

_DEFAULT_HISTORY = 20
_DEFAULT_LEARNING_RATE = 0.02
_IN_FLIGHT = 1
"""Steps the device may be ahead of the host, so that reading results never stalls it."""

_REASONS = {lbfgs.CONVERGED: "converged", lbfgs.STALLED: "stalled", lbfgs.NOT_FINITE: "not finite"}


class LoopState(NamedTuple):
    """All that one step needs and the next one gets."""

    image: Float[Array, "h w 3"]
    optimizer: optax.OptState
    best_image: Float[Array, "h w 3"]
    best_loss: Scalar
    evaluations: Int[Array, ""]


class StepInfo(NamedTuple):
    """What one step has seen; on the device until it is read."""

    evaluations: Int[Array, ""]
    loss: Scalar
    terms: dict[str, Scalar]
    gradient_norm: Scalar
    step_size: Scalar
    accepted: Bool[Array, ""]
    status: Int[Array, ""]


class Record(NamedTuple):
    """One evaluation as it is reported; `evaluation` counts from 1 over all scales."""

    evaluation: int
    loss: float
    terms: dict[str, float]
    gradient_norm: float
    step_size: float
    accepted: bool
    seconds: float
    scale: int


class Result(NamedTuple):
    """The best image of the last scale and how it came about."""

    image: Image
    """sRGB `[h, w, 3]`, not clipped: `objective(image)` is `loss`; `save_image` clips."""
    loss: float
    terms: dict[str, float]
    history: tuple[Record, ...]
    """One record an evaluation; an update for `optax-lbfgs`, whose updates take several."""
    evaluations: int
    reason: str
    """`budget`, `converged`, `stalled`, `not finite`, or `stopped` by the callback."""
    seconds: float
    """Wall time of the loop, compilation excluded."""
    compile_seconds: float


Callback = Callable[[Record], bool | None]
"""Called after each evaluation; a true result ends the run with the best image so far."""


def _adam(learning_rate: float | None) -> optax.GradientTransformationExtraArgs:
    rate = _DEFAULT_LEARNING_RATE if learning_rate is None else learning_rate
    return optax.with_extra_args_support(optax.adam(rate))


@functools.lru_cache
def _optimizer(
    name: str, history_size: int | None, learning_rate: float | None
) -> optax.GradientTransformationExtraArgs:
    # Cached, because a jitted step is looked up by its functions' identity.
    memory = history_size or _DEFAULT_HISTORY
    if name == "lbfgs":
        return lbfgs.lbfgs(memory, FIRST_STEP)
    return optax.lbfgs(memory_size=memory) if name == "optax-lbfgs" else _adam(learning_rate)


def make_optimizer(config: Config) -> optax.GradientTransformationExtraArgs:
    """The optax transformation that `config` names."""
    return _optimizer(config.optimizer, config.history_size, config.learning_rate)


def init_state(
    optimizer: optax.GradientTransformationExtraArgs, image: Float[Array, "h w 3"]
) -> LoopState:
    """The loop's state before its first evaluation."""
    # Copies: the state's buffers are donated, each once, and the caller's are not.
    return LoopState(
        image=jnp.array(image),
        optimizer=jax.tree.map(jnp.array, optimizer.init(image)),
        best_image=jnp.array(image),
        best_loss=jnp.full((), jnp.inf, jnp.promote_types(image.dtype, jnp.float32)),
        evaluations=jnp.zeros((), jnp.int32),
    )


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def step(
    optimizer: optax.GradientTransformationExtraArgs, objective: Objective, state: LoopState
) -> tuple[LoopState, StepInfo]:
    """One evaluation of the objective and the optimizer's update; pure, and vmappable."""
    (loss, terms), grad = jax.value_and_grad(objective, has_aux=True)(state.image)
    updates, optimizer_state = optimizer.update(grad, state.optimizer, state.image, value=loss)
    get = optax.tree.get
    accepted = get(optimizer_state, "accepted", jnp.isfinite(loss))
    info = StepInfo(
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


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def baseline_step(
    optimizer: optax.GradientTransformationExtraArgs, objective: Objective, state: LoopState
) -> tuple[LoopState, StepInfo]:
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
    info = StepInfo(
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
    info: StepInfo,
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


def optimize(
    objective: Objective,
    image: Image,
    config: Config,
    *,
    callback: Callback | None = None,
    budget: int | None = None,
    scale: int = 0,
    spent: int = 0,
) -> Result:
    """Minimize `objective` from `image`, driving one jitted step from Python.

    Args:
        objective: from `build_objective`, for images of this shape.
        image: sRGB start.
        config: names the optimizer and the budget.
        callback: see `Callback`; it sees each evaluation while the device does the next.
        budget: evaluations, if not `config.evaluations`.
        scale: what the records call this pass.
        spent: evaluations before this pass, which the records count on from.
    """
    budget = config.evaluations if budget is None else budget
    optimizer = make_optimizer(config)
    baseline = config.optimizer == "optax-lbfgs"
    advance, in_flight = (baseline_step, 0) if baseline else (step, _IN_FLIGHT)
    state = init_state(optimizer, jnp.asarray(image))
    pending: collections.deque[StepInfo] = collections.deque()
    history: list[Record] = []
    compile_seconds, started = 0.0, time.perf_counter()
    dispatched, status, stopped = 0, lbfgs.RUNNING, False

    def read(info: StepInfo) -> int:
        host = jax.device_get(info)
        history.append(
            Record(
                evaluation=spent + int(host.evaluations),
                loss=float(host.loss),
                terms={name: float(value) for name, value in host.terms.items()},
                gradient_norm=float(host.gradient_norm),
                step_size=float(host.step_size),
                accepted=bool(host.accepted),
                seconds=time.perf_counter() - started,
                scale=scale,
            )
        )
        return int(host.status)

    while pending or dispatched < budget:
        if dispatched < budget:
            state, info = advance(optimizer, objective, state)
            pending.append(info)
            dispatched += 1
            if dispatched == 1:
                compile_seconds = time.perf_counter() - started
                started = time.perf_counter()
            if len(pending) <= in_flight:
                continue
        status = read(pending.popleft())
        if baseline:
            dispatched = history[-1].evaluation - spent
        stopped = bool(callback is not None and callback(history[-1]))
        if status != lbfgs.RUNNING or stopped:
            break
    for info in pending:  # no longer wanted when the run ends early, but spent
        read(info)
    # Of no finite loss at all, the first: NaN compares false.
    best = min(history, key=lambda record: (not np.isfinite(record.loss), record.loss))
    terms = best.terms or {k: float(v) for k, v in objective(state.best_image)[1].items()}
    return Result(
        image=np.asarray(state.best_image),
        loss=best.loss,
        terms=terms,
        history=tuple(history),
        evaluations=history[-1].evaluation - spent,
        reason=_REASONS.get(status, "stopped" if stopped else "budget"),
        seconds=time.perf_counter() - started,
        compile_seconds=compile_seconds,
    )


def initial_image(content: Image, styles: Sequence[Image], config: Config) -> Image:
    """The start that `config.init` names, of the content's shape: content, noise, style, a file.

    Noise is uniform in 0–1 from `config.seed`.
    """
    if config.init == "content":
        return content
    if config.init == "noise":
        return np.asarray(jax.random.uniform(jax.random.key(config.seed), content.shape))
    if config.init == "style":
        return resize_image(styles[0], content.shape)
    return resize_image(load_image(config.init), content.shape)


def stylize(
    content: Image,
    styles: Image | Sequence[Image],
    config: Config,
    params: Params | None = None,
    callback: Callback | None = None,
) -> Result:
    """Render `content` in the style of `styles`.

    Args:
        content: sRGB 0–1, float `[h, w, 3]`; resized to `config.size`.
        styles: one such image, or several whose statistics are averaged.
        config: what to do; `preset(name)` has the well-known ones.
        params: from `load_weights`; loaded, and on first use fetched, if not given.
        callback: called with each `Record`; a true result ends the run early.

    Returns:
        The best image seen, with the history of all passes.

    Raises:
        ConfigError, ImageError, WeightsError: before anything is computed.
    """
    several = check_inputs(content, styles, config)
    content_full = np.asarray(content, np.float32)
    styles_full = [np.asarray(style, np.float32) for style in several]
    own_shape = config.style_shape == "own"
    if config.size != "original":
        content_full = resize_image(content_full, fit_shape(content_full.shape, config.size))
        if own_shape:
            styles_full = [resize_image(s, fit_shape(s.shape, config.size)) for s in styles_full]
    image = initial_image(content_full, styles_full, config)
    if params is None:
        params = load_weights()
    history: list[Record] = []
    passes: list[Result] = []
    for scale, level in enumerate(pyramid.levels(config)):
        content_here = _at_level(content_full, level)
        styles_here = [_at_level(style, level) if own_shape else style for style in styles_full]
        result = optimize(
            build_objective(params, content_here, styles_here, config),
            resize_image(image, content_here.shape),
            config,
            callback=callback,
            budget=level.evaluations,
            scale=scale,
            spent=len(history) and history[-1].evaluation,
        )
        passes.append(result)
        history.extend(result.history)
        image = result.image
        if result.reason in ("stopped", "not finite"):
            break
    return passes[-1]._replace(
        image=resize_image(image, content_full.shape),
        history=tuple(history),
        evaluations=history[-1].evaluation,
        seconds=sum(each.seconds for each in passes),
        compile_seconds=sum(each.compile_seconds for each in passes),
    )


def _at_level(picture: Image, level: pyramid.Level) -> Image:
    return resize_image(picture, pyramid.level_shape(picture.shape, level.ratio))
