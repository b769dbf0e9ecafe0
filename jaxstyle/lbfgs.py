"""L-BFGS as an optax transformation that spends exactly one evaluation an update.

The parameters that optax carries are the trial point; the accepted point lives in the state.
Each update judges the evaluated trial, then either moves on along a new direction or comes
back along the same one, so no loop surrounds the objective: every lane of a `vmap` does the
same work, and the network runs at the top level of one program.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.scipy.linalg import solve_triangular
from jaxtyping import Bool, Float, Int, PyTree

from jaxstyle.types import Scalar

RUNNING, CONVERGED, STALLED, NOT_FINITE = range(4)
"""Values of `LBFGSState.status`."""

_ARMIJO = 1e-4
_APPROXIMATE_ARMIJO = 1e-6
_CURVATURE = 1e-6
_MAX_REJECTIONS = 12


class History(NamedTuple):
    """The last `m` pairs, number `k` in row `k mod m`, each scaled so that s·y = 1.

    Scaling both of a pair alike leaves the inverse Hessian as it is and keeps products of
    pairs far from float32's limits whatever the unit of the loss.
    """

    s: PyTree[Float[Array, "m ..."]]
    y: PyTree[Float[Array, "m ..."]]
    sy: Float[Array, "m m"]
    yy: Float[Array, "m m"]
    pairs: Int[Array, ""]


class LBFGSState(NamedTuple):
    """State of `lbfgs`; `value` belongs to `point`, the last accepted trial."""

    evaluations: Int[Array, ""]
    point: PyTree[Array]
    value: Scalar
    grad: PyTree[Array]
    direction: PyTree[Array]
    slope: Scalar
    step_size: Scalar
    history: History
    accepted: Bool[Array, ""]
    steps: Int[Array, ""]
    rejections: Int[Array, ""]
    failures: Int[Array, ""]
    status: Int[Array, ""]


def lbfgs(history_size: int, first_step: float) -> optax.GradientTransformationExtraArgs:
    """L-BFGS with a one-evaluation Armijo search and cubic interpolation.

    A trial is accepted if it decreases the loss enough (Armijo; or, where float32 can no
    longer tell, the approximate condition of Hager and Zhang 2005, eq. 4.1). A rejected one
    is replaced by the minimum of the cubic through both ends' values and slopes (Nocedal and
    Wright 2006, eq. 3.59), a non-finite one by a tenth of its step. Twelve rejections in a row
    forget the history, twelve more end the search. A pair enters the history only if its
    curvature is positive relative to its norms. The direction is the compact form of the
    inverse Hessian (Byrd, Nocedal and Schnabel 1994, eq. 3.1): a few matrix products instead
    of `2m` dependent steps.

    Args:
        history_size: pairs remembered, m.
        first_step: root-mean-square change of a parameter in the first step, and in the
            first after the history is forgotten.

    Returns:
        A transformation whose `update` takes the trial's gradient, the trial as `params`, and
        its loss as `value`. Once `status` is no longer `RUNNING` the trial returns to the
        accepted point and stays there.
    """

    def init(params: PyTree[Array]) -> LBFGSState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        dtype = jnp.result_type(*jax.tree.leaves(params))
        zero, count = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
        return LBFGSState(
            evaluations=count,
            point=zeros,
            value=jnp.full((), jnp.inf, dtype),
            grad=zeros,
            direction=zeros,
            slope=zero,
            step_size=zero,
            history=_empty_history(params, history_size, dtype),
            accepted=jnp.zeros((), bool),
            steps=count,
            rejections=count,
            failures=count,
            status=count,
        )

    def update(
        updates: PyTree[Array],
        state: LBFGSState,
        params: PyTree[Array] | None = None,
        *,
        value: Scalar,
        **extra_args: object,
    ) -> tuple[PyTree[Array], LBFGSState]:
        del extra_args
        if params is None:
            raise ValueError("lbfgs needs the parameters: update(grads, state, params, value=…)")
        trial, grad = params, updates
        first = state.evaluations == 0
        finite = jnp.isfinite(value) & jnp.isfinite(_squared_norm(grad))
        trial_slope = _dot(grad, state.direction)
        running = state.status == RUNNING
        accepted = finite & running & (first | _sufficient(value, trial_slope, state))

        # Judge: keep the trial as the point and its pair, or leave both as they were.
        s = jax.tree.map(jnp.subtract, trial, state.point)
        y = jax.tree.map(jnp.subtract, grad, state.grad)
        history = _remember(state.history, s, y, accepted & ~first)
        point = _select(accepted, trial, state.point)
        point_grad = _select(accepted, grad, state.grad)
        point_value = jnp.where(accepted, value, state.value)

        # Forget a history that leads nowhere, and give up once there is none to forget.
        rejections = jnp.where(accepted | ~running, 0, state.rejections + 1)
        exhausted = rejections >= _MAX_REJECTIONS
        stalled = exhausted & (history.pairs == 0)
        history = history._replace(pairs=jnp.where(exhausted, 0, history.pairs))
        rejections = jnp.where(exhausted, 0, rejections)

        # Aim: along a new direction from a new point, else back along the old one.
        direction = _direction(history, point_grad)
        slope = _dot(point_grad, direction)
        ascends = ~(slope < 0)
        history = history._replace(pairs=jnp.where(ascends, 0, history.pairs))
        fresh = history.pairs == 0
        squared_norm = _squared_norm(point_grad)
        direction = _select(fresh, jax.tree.map(jnp.negative, point_grad), direction)
        slope = jnp.where(fresh, -squared_norm, slope)
        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        tiny = jnp.finfo(slope.dtype).tiny
        rms = jnp.sqrt(jnp.maximum(squared_norm / size, tiny))
        full_step = jnp.where(fresh, first_step / rms, 1.0)
        turned = accepted | exhausted
        step_size = jnp.where(turned, full_step, _backtrack(value, trial_slope, finite, state))
        direction = _select(turned, direction, state.direction)
        slope = jnp.where(turned, slope, state.slope)

        status = jnp.where(
            ~running,
            state.status,
            jnp.where(
                first & ~finite,
                NOT_FINITE,
                jnp.where(squared_norm == 0, CONVERGED, jnp.where(stalled, STALLED, RUNNING)),
            ),
        ).astype(jnp.int32)
        step_size = jnp.where(status == RUNNING, step_size, 0.0).astype(state.step_size.dtype)
        # The first point is not known to be good, but it is the only one there is.
        point = _select(first, trial, point)
        next_trial = jax.tree.map(lambda p, d: p + step_size * d, point, direction)
        next_trial = _select(status == RUNNING, next_trial, point)
        return jax.tree.map(jnp.subtract, next_trial, trial), LBFGSState(
            evaluations=state.evaluations + 1,
            point=point,
            value=point_value,
            grad=point_grad,
            direction=direction,
            slope=slope,
            step_size=step_size,
            history=history,
            accepted=accepted,
            steps=state.steps + (accepted & ~first),
            rejections=rejections,
            failures=state.failures + (running & ~accepted),
            status=status,
        )

    # optax types `value` as one of the extra arguments, which every caller here passes.
    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def _sufficient(value: Scalar, slope: Scalar, state: LBFGSState) -> Bool[Array, ""]:
    # Strictly less as well: a step too short to change the loss is no decrease.
    enough = state.value + _ARMIJO * state.step_size * state.slope
    armijo = (value <= enough) & (value < state.value)
    noise = _APPROXIMATE_ARMIJO * jnp.abs(state.value)
    flat = (value <= state.value + noise) & (jnp.abs(slope) <= (1 - 2 * _ARMIJO) * -state.slope)
    return armijo | flat


def _backtrack(value: Scalar, slope: Scalar, finite: Bool[Array, ""], state: LBFGSState) -> Scalar:
    """The next step along a rejected direction: a tenth to a half of the one tried."""
    step = state.step_size
    chord = state.slope + slope - 3 * (value - state.value) / step
    root = jnp.sqrt(jnp.maximum(jnp.square(chord) - state.slope * slope, 0))
    share = 1 - (slope + root - chord) / (slope - state.slope + 2 * root)
    share = jnp.where(finite & jnp.isfinite(share), share, 0.1)
    return step * jnp.clip(share, 0.1, 0.5)


def _empty_history(params: PyTree[Array], size: int, dtype: jnp.dtype) -> History:
    def rows() -> PyTree[Array]:
        return jax.tree.map(lambda leaf: jnp.zeros((size, *leaf.shape), leaf.dtype), params)

    square = jnp.zeros((size, size), dtype)
    return History(rows(), rows(), square, square, jnp.zeros((), jnp.int32))


def _remember(
    history: History, s: PyTree[Array], y: PyTree[Array], wanted: Bool[Array, ""]
) -> History:
    curvature = _dot(s, y)
    norms = jnp.sqrt(_squared_norm(s)) * jnp.sqrt(_squared_norm(y))
    # A NaN curvature compares false; the least normal number keeps zero from zero out.
    floor = jnp.finfo(curvature.dtype).tiny
    keep = wanted & (curvature > _CURVATURE * norms) & (curvature > floor)
    scale = jax.lax.rsqrt(jnp.where(keep, curvature, 1.0))
    slot = history.pairs % history.sy.shape[0]

    def put(rows: PyTree[Array], row: PyTree[Array]) -> PyTree[Array]:
        return jax.tree.map(lambda all_, new: all_.at[slot].set(new * scale), rows, row)

    # A conditional of its own: fused into what reads the history, the write would cost a copy
    # of it for every reader.
    all_s, all_y = jax.lax.cond(
        keep, lambda: (put(history.s, s), put(history.y, y)), lambda: (history.s, history.y)
    )
    sy = jnp.where(keep, _products(all_s, y) * scale, history.sy[:, slot])
    yy = jnp.where(keep, _products(all_y, y) * scale, history.yy[:, slot])
    return History(
        s=all_s,
        y=all_y,
        sy=history.sy.at[:, slot].set(sy),
        yy=history.yy.at[:, slot].set(yy).at[slot, :].set(yy),
        pairs=history.pairs + keep,
    )


def _direction(history: History, grad: PyTree[Array]) -> PyTree[Array]:
    """−H·grad by the compact form; −grad where the history is empty."""
    size = history.sy.shape[0]
    age = jnp.arange(size)
    # Oldest first. Rows not yet filled come first and are masked out.
    order = (history.pairs + age) % size
    valid = age >= size - history.pairs
    both = valid[:, None] & valid[None, :]
    upper = jnp.triu(jnp.where(both, history.sy[order][:, order], 0.0))
    r = jnp.where(jnp.eye(size, dtype=bool), 1.0, upper)
    yy = jnp.where(both, history.yy[order][:, order], 0.0)
    newest = yy[-1, -1]
    gamma = jnp.where(newest > 0, 1.0 / jnp.where(newest > 0, newest, 1.0), 1.0)
    s_grad = jnp.where(valid, _products(history.s, grad)[order], 0.0)
    y_grad = jnp.where(valid, _products(history.y, grad)[order], 0.0)
    u = solve_triangular(r, s_grad)
    along_s = solve_triangular(
        r, u + gamma * jnp.matmul(yy, u, precision="highest") - gamma * y_grad, trans=1
    )
    unordered = jnp.zeros((2, size), u.dtype).at[:, order].set(jnp.stack([along_s, -gamma * u]))

    def combine(g: Array, s: Array, y: Array) -> Array:
        total = jnp.tensordot(unordered[0], s, 1, precision="highest")
        total += jnp.tensordot(unordered[1], y, 1, precision="highest")
        return -(gamma * g + total)

    return jax.tree.map(combine, grad, history.s, history.y)


def _products(rows: PyTree[Array], vector: PyTree[Array]) -> Float[Array, " m"]:
    return sum(
        jnp.tensordot(r, v, v.ndim, precision="highest")
        for r, v in zip(jax.tree.leaves(rows), jax.tree.leaves(vector), strict=True)
    )  # pyright: ignore[reportReturnType]


def _dot(a: PyTree[Array], b: PyTree[Array]) -> Scalar:
    return sum(
        jnp.vdot(x, y, precision="highest")
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )  # pyright: ignore[reportReturnType]


def _squared_norm(tree: PyTree[Array]) -> Scalar:
    return sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree))  # pyright: ignore[reportReturnType]


def _select(predicate: Bool[Array, ""], new: PyTree[Array], old: PyTree[Array]) -> PyTree[Array]:
    return jax.tree.map(lambda a, b: jnp.where(predicate, a, b), new, old)
