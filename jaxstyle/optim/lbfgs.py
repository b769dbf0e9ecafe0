"""L-BFGS as an optax transformation that spends exactly one evaluation per update.

The parameters that optax carries are the trial point; the accepted point is part of the state.
Each update judges the evaluated trial, then either continues along a new direction or backtracks
along the same one. No loop surrounds the objective, so every lane of a `vmap` does the same work,
and the network runs at the top level of one program.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Bool, Float, Int, PyTree

from jaxstyle.optim.steps import CONVERGED, NOT_FINITE, RUNNING, STALLED, StepInfo

Scalar = Float[Array, ""]

_ARMIJO = 1e-4
_CURVATURE = 1e-6
_MAX_REJECTIONS = 12


class History(NamedTuple):
    """A ring buffer of `m + 1` rows: the last `m` pairs and a row for the next candidate.

    Pair number `k` is in row `k mod (m + 1)`, scaled so that s·y = 1. The next candidate
    overwrites a rejected one; a conditional would copy the whole buffer under `vmap`. Scaling s
    and y of a pair alike does not change the inverse Hessian, and keeps the products of pairs far
    from float32's limits in any unit of the loss. With a preconditioner K, the formulas need only
    Ky, which is stored instead of y, and yᵀKy.

    R, the products sᵢ·yⱼ of each pair i with the pairs j that are not older, is upper triangular
    with a unit diagonal. Its inverse is stored instead: a new pair adds a column, and dropping the
    oldest pair drops its row and column. So no system is ever solved, and the order of the rows
    does not matter.
    """

    s: PyTree[Float[Array, "m+1 _n"]]
    ky: PyTree[Float[Array, "m+1 _n"]]
    inverse: Float[Array, "m+1 m+1"]
    """Inverse of R; only the rows and columns of the last `m` pairs are meaningful."""
    yky: Float[Array, "m+1 m+1"]
    pairs: Int[Array, ""]

    @property
    def ages(self) -> Int[Array, " _rows"]:
        """The number of pairs newer than the one in each row."""
        rows = len(self.yky)
        return (self.pairs - 1 - jnp.arange(rows)) % rows

    @property
    def valid(self) -> Bool[Array, " _rows"]:
        """The mask of rows that hold one of the last `m` pairs."""
        return self.ages < jnp.minimum(self.pairs, len(self.yky) - 1)


class LBFGSState(NamedTuple):
    """State of `lbfgs`; `value` belongs to `point`, the last accepted trial.

    `grad`, `slope` and the history refer to the loss divided by `unit`, the magnitude of its
    largest derivative at the start, so that their squares stay within float32's range in any unit
    of the loss.
    """

    evaluations: Int[Array, ""]
    unit: Scalar
    point: PyTree[Array]
    value: Scalar
    grad: PyTree[Array]
    preconditioned: PyTree[Array]
    direction: PyTree[Array]
    slope: Scalar
    step_size: Scalar
    """Size of the step to the next trial."""
    history: History
    rejections: Int[Array, ""]
    step: StepInfo


def lbfgs(
    memory_size: int = 20,
    first_step: float = 0.01,
    noise: float = 1e-6,
    memory_dtype: jnp.dtype | None = None,
    precondition: Callable[[Any], Any] = lambda grad: grad,
) -> optax.GradientTransformationExtraArgs:
    """Build L-BFGS with a one-evaluation Armijo search and cubic interpolation.

    A trial is accepted if it decreases the loss enough (Armijo; or, where rounding hides the
    decrease, the approximate condition of Hager and Zhang 2005, eq. 4.1). A rejected trial is
    replaced by the minimum of the cubic that matches the values and slopes of both ends (Nocedal
    and Wright 2006, eq. 3.59), a non-finite one by a tenth of its step. After twelve consecutive
    rejections the history is forgotten; if it is already empty, the search ends. A pair enters
    the history only if its curvature is positive relative to its norms. The direction uses the
    compact form of the inverse Hessian (Byrd, Nocedal and Schnabel 1994, eq. 3.1): a few matrix
    products instead of `2m` dependent steps. It starts from γK, where γ is the largest of the
    pairs' s·y / yᵀKy, not the newest pair's (ibid., eq. 3.2): longer steps along directions that no
    pair has explored, at the price of a rejected trial now and then.

    Args:
        memory_size: number of pairs remembered, m.
        first_step: root-mean-square change of a parameter in the first step, and in the first
            step after the history is forgotten.
        memory_dtype: type in which pairs are stored, such as `bfloat16`; by default the
            parameters' type. Products with pairs are computed in the parameters' type.
        noise: relative error of the computed loss; a rise within it may be due to rounding.
        precondition: a symmetric positive definite linear map K from gradients to steps, pytrees
            both. The inverse Hessian starts from a multiple of it, as if the parameters were z with
            params = K^½ z (Nocedal and Wright 2006, section 7.2).

    Returns:
        A transformation whose `update` takes the trial's gradient, the trial as `params`, and
        its loss as `value`. Once `step.status` is no longer `RUNNING`, the trial returns to the
        accepted point and stays there.

    Raises:
        ValueError: a size or step is not positive.
    """
    if memory_size < 1 or not first_step > 0:
        raise ValueError(f"lbfgs needs positive sizes, not {memory_size=}, {first_step=}")

    def init(params: PyTree[Array]) -> LBFGSState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        dtype = jnp.result_type(jnp.float32, *(leaf.dtype for leaf in jax.tree.leaves(params)))
        zero, count = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
        return LBFGSState(
            evaluations=count,
            unit=zero,
            point=zeros,
            value=jnp.full((), jnp.inf, dtype),
            grad=zeros,
            preconditioned=zeros,
            direction=zeros,
            slope=zero,
            step_size=zero,
            history=_empty_history(params, memory_size, dtype, memory_dtype),
            rejections=count,
            step=StepInfo(step_size=zero, accepted=jnp.zeros((), bool), status=count),
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
        trial = params
        first = state.evaluations == 0
        running = state.step.status == RUNNING
        largest = _largest(updates)
        finite = jnp.isfinite(value) & jnp.isfinite(largest)
        usable = jnp.isfinite(largest) & (largest > 0)
        # A power of two, so that division by it is exact.
        power = jnp.ldexp(jnp.ones_like(largest), jnp.frexp(largest)[1] - 1)
        unit = jnp.where(first, jnp.where(usable, power, 1.0), state.unit)
        grad = jax.tree.map(lambda leaf: leaf / unit, updates)
        preconditioned = precondition(grad)
        rise = (value - state.value) / unit
        slope = _dot(grad, state.direction)
        margin = noise * jnp.abs(state.value) / unit
        accepted = finite & running & (first | _sufficient(rise, slope, margin, state))

        # Judge: accept the trial and its pair, or leave the point and the history unchanged.
        s = jax.tree.map(jnp.subtract, trial, state.point)
        y = jax.tree.map(jnp.subtract, grad, state.grad)
        ky = jax.tree.map(jnp.subtract, preconditioned, state.preconditioned)
        history = _remember(state.history, s, y, ky, accepted & ~first)
        point = _select(accepted, trial, state.point)
        point_grad = _select(accepted, grad, state.grad)
        point_preconditioned = _select(accepted, preconditioned, state.preconditioned)
        point_value = jnp.where(accepted, value, state.value)

        # Forget a history that makes no progress, and stop if it is already empty.
        rejections = jnp.where(accepted | ~running, 0, state.rejections + 1)
        exhausted = rejections >= _MAX_REJECTIONS
        stalled = exhausted & (history.pairs == 0)
        history = history._replace(pairs=jnp.where(exhausted, 0, history.pairs))
        rejections = jnp.where(exhausted, 0, rejections)

        # Aim: along a new direction from a new point, otherwise back along the old direction.
        direction = _direction(history, point_grad, point_preconditioned)
        new_slope = _dot(point_grad, direction)
        ascends = ~(new_slope < 0)
        history = history._replace(pairs=jnp.where(ascends, 0, history.pairs))
        fresh = history.pairs == 0
        steepest = jax.tree.map(jnp.negative, point_preconditioned)
        direction = _select(fresh, steepest, direction)
        new_slope = jnp.where(fresh, _dot(point_grad, steepest), new_slope)
        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        tiny = jnp.finfo(slope.dtype).tiny
        rms = jnp.sqrt(jnp.maximum(_squared_norm(steepest) / size, tiny))
        full_step = jnp.where(fresh, first_step / rms, 1.0)
        turned = accepted | exhausted
        step_size = jnp.where(turned, full_step, _backtrack(rise, slope, finite, state))
        direction = _select(turned, direction, state.direction)
        next_slope = jnp.where(turned, new_slope, state.slope)

        status = jnp.where(
            ~running,
            state.step.status,
            jnp.where(
                first & ~finite,
                NOT_FINITE,
                jnp.where(
                    _largest(point_grad) == 0, CONVERGED, jnp.where(stalled, STALLED, RUNNING)
                ),
            ),
        ).astype(jnp.int32)
        step_size = jnp.where(status == RUNNING, step_size, 0.0).astype(state.step_size.dtype)
        # Even if it is not accepted, the first trial is the only point available.
        point = _select(first, trial, point)
        next_trial = jax.tree.map(lambda p, d: p + step_size * d, point, direction)
        next_trial = _select(status == RUNNING, next_trial, point)
        return jax.tree.map(jnp.subtract, next_trial, trial), LBFGSState(
            evaluations=state.evaluations + 1,
            unit=unit,
            point=point,
            value=point_value,
            grad=point_grad,
            preconditioned=point_preconditioned,
            direction=direction,
            slope=next_slope,
            step_size=step_size,
            history=history,
            rejections=rejections,
            step=StepInfo(step_size=state.step_size, accepted=accepted, status=status),
        )

    # optax types `value` as one of the extra arguments, which every caller in this project passes.
    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def _sufficient(rise: Scalar, slope: Scalar, margin: Scalar, state: LBFGSState) -> Bool[Array, ""]:
    # The rise must also be negative: a step too short to change the loss is not a decrease.
    armijo = (rise <= _ARMIJO * state.step_size * state.slope) & (rise < 0)
    flatter = jnp.abs(slope) <= (1 - 2 * _ARMIJO) * -state.slope
    return armijo | ((rise <= margin) & flatter)


def _backtrack(rise: Scalar, slope: Scalar, finite: Bool[Array, ""], state: LBFGSState) -> Scalar:
    """Compute the next step size after a rejection: a tenth to a half of the last one."""
    # Relative to the slope at the accepted point, which is negative, so squares cannot overflow.
    steepness = -state.slope
    start, end = -1.0, slope / steepness
    chord = start + end - 3 * rise / (state.step_size * steepness)
    root = jnp.sqrt(jnp.maximum(jnp.square(chord) - start * end, 0))
    share = 1 - (end + root - chord) / (end - start + 2 * root)
    share = jnp.where(finite & jnp.isfinite(share), share, 0.1)
    return state.step_size * jnp.clip(share, 0.1, 0.5)


def _empty_history(
    params: PyTree[Array], size: int, dtype: jnp.dtype, stored: jnp.dtype | None = None
) -> History:
    def rows() -> PyTree[Array]:
        return jax.tree.map(
            lambda leaf: jnp.zeros((size + 1, leaf.size), stored or leaf.dtype), params
        )

    square = jnp.zeros((size + 1, size + 1), dtype)
    return History(rows(), rows(), square, square, jnp.zeros((), jnp.int32))


def _remember(
    history: History,
    s: PyTree[Array],
    y: PyTree[Array],
    ky: PyTree[Array],
    wanted: Bool[Array, ""],
) -> History:
    curvature = _dot(s, y)
    norms = jnp.sqrt(_squared_norm(s)) * jnp.sqrt(_squared_norm(y))
    # NaN compares false; the smallest normal number as a bound rules out zero curvature.
    floor = jnp.finfo(curvature.dtype).tiny
    keep = wanted & (curvature > _CURVATURE * norms) & (curvature > floor)
    scale = jax.lax.rsqrt(jnp.where(keep, curvature, 1.0))
    slot = history.pairs % len(history.yky)

    def put(rows: Array, row: Array) -> Array:
        flat = row.ravel() * scale
        flat = jnp.where(jnp.isfinite(flat), flat, 0.0).astype(rows.dtype)
        return jax.lax.dynamic_update_index_in_dim(rows, flat, slot, 0)

    all_s, all_ky = jax.tree.map(put, history.s, s), jax.tree.map(put, history.ky, ky)
    older = history.valid
    sy = jnp.where(older, _products(all_s, y) * scale, 0.0)
    column = -_apply(_among(older, history.inverse), sy)
    yky = _products(all_ky, y) * scale
    # Selected rather than set at an index, which is a scatter where lanes have slots of their own.
    own = jnp.arange(len(yky)) == slot
    row, diagonal = own[:, None], jnp.eye(len(yky), dtype=yky.dtype)
    return History(
        s=all_s,
        ky=all_ky,
        inverse=jnp.where(row, diagonal, jnp.where(own, column[:, None], history.inverse)),
        yky=jnp.where(row, yky, jnp.where(own, yky[:, None], history.yky)),
        pairs=history.pairs + keep,
    )


def _among(rows: Bool[Array, " m"], matrix: Float[Array, "m m"]) -> Float[Array, "m m"]:
    return jnp.where(rows[:, None] & rows[None, :], matrix, 0.0)


def _apply(matrix: Float[Array, "m m"], vector: Float[Array, " m"]) -> Float[Array, " m"]:
    """Multiply a small matrix by a vector.

    The summation order of a library's product depends on where a lane lies in memory, and on a
    GPU such a product costs a separate kernel.
    """
    return jnp.sum(matrix * vector, axis=-1)


def _direction(
    history: History, grad: PyTree[Array], preconditioned: PyTree[Array]
) -> PyTree[Array]:
    """Compute −H·grad by the compact form, or −K·grad if the history is empty."""
    valid = history.valid
    inverse, yky = (_among(valid, matrix) for matrix in (history.inverse, history.yky))
    own = jnp.sum(yky * jnp.eye(len(yky), dtype=yky.dtype), axis=-1)
    gamma = jnp.max(jnp.where(own > 0, 1.0 / jnp.where(own > 0, own, 1.0), 0.0))
    gamma = jnp.where(gamma > 0, gamma, 1.0)
    s_grad = jnp.where(valid, _products(history.s, grad), 0.0)
    ky_grad = jnp.where(valid, _products(history.ky, grad), 0.0)
    u = _apply(inverse, s_grad)
    along_s = _apply(inverse.T, u + gamma * _apply(yky, u) - gamma * ky_grad)

    def combine(kg: Array, s: Array, ky: Array) -> Array:
        total = _combination(along_s, s) + _combination(-gamma * u, ky)
        return -(gamma * kg + total.reshape(kg.shape))

    return jax.tree.map(combine, preconditioned, history.s, history.ky)


def _products(rows: PyTree[Array], vector: PyTree[Array]) -> Float[Array, " m"]:
    def product(r: Array, v: Array) -> Array:
        if r.dtype == v.dtype:
            return jnp.matmul(r, v.ravel(), precision="highest")
        # Row by row: a single product would first copy all rows to the other type.
        return jax.lax.map(
            lambda row: jnp.vdot(row.astype(v.dtype), v.ravel(), precision="highest"), r
        )

    pairs = zip(jax.tree.leaves(rows), jax.tree.leaves(vector), strict=True)
    return sum(product(r, v) for r, v in pairs)  # pyright: ignore[reportReturnType]


def _combination(weights: Float[Array, " m"], rows: Float[Array, "m n"]) -> Float[Array, " n"]:
    if rows.dtype == weights.dtype:
        return jnp.matmul(weights, rows, precision="highest")

    def add(total: Array, pair: tuple[Array, Array]) -> tuple[Array, None]:
        weight, row = pair
        return total + weight * row.astype(total.dtype), None

    start = jnp.zeros(rows.shape[1], weights.dtype)
    return jax.lax.scan(add, start, (weights, rows))[0]


def _dot(a: PyTree[Array], b: PyTree[Array]) -> Scalar:
    return sum(
        jnp.vdot(x, y, precision="highest")
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )  # pyright: ignore[reportReturnType]


def _largest(tree: PyTree[Array]) -> Scalar:
    """Return the largest absolute value, or NaN if any value is NaN."""
    return jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(tree)]))


def _squared_norm(tree: PyTree[Array]) -> Scalar:
    return sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree))  # pyright: ignore[reportReturnType]


def _select(predicate: Bool[Array, ""], new: PyTree[Array], old: PyTree[Array]) -> PyTree[Array]:
    return jax.tree.map(lambda a, b: jnp.where(predicate, a, b), new, old)
