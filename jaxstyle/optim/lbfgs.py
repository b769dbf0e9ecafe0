"""L-BFGS as an optax transformation that spends exactly one evaluation per update.

The parameters that optax carries are the trial point; the accepted point is part of the state.
Each update judges the evaluated trial, then either continues along a new direction or backtracks
along the same one. No loop surrounds the objective, so every lane of a `vmap` does the same work,
and the network runs at the top level of one program.
"""

import functools
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
    """A ring buffer of `m + 1` slots: the last `m` pairs and a slot for the next candidate.

    Pair number `k` is in slot `k mod (m + 1)`. The next candidate overwrites a rejected one; a
    conditional would copy the whole buffer under `vmap`. With a preconditioner K, the formulas need
    only Ky, which is stored instead of y, and yᵀKy. They hold for pairs scaled so that s·y = 1,
    which does not change the inverse Hessian; products are scaled instead of the pairs themselves.

    R, the products sᵢ·yⱼ of each pair i with the pairs j that are not older, is upper triangular
    with a unit diagonal. Its inverse is stored instead: a new pair adds a column, and dropping the
    oldest pair drops its row and column. So no system is ever solved, and the order of the slots
    does not matter.
    """

    rows: PyTree[Float[Array, "r _n"]]
    """s and Ky of the slots in turn."""
    scale: Float[Array, " m+1"]
    """1/√(s·y) of each pair."""
    inverse: Float[Array, "m+1 m+1"]
    """Inverse of R; only the rows and columns of the last `m` pairs are meaningful."""
    yky: Float[Array, "m+1 m+1"]
    pairs: Int[Array, ""]

    @property
    def ages(self) -> Int[Array, " _slots"]:
        """The number of pairs newer than the one in each slot."""
        slots = len(self.yky)
        return (self.pairs - 1 - jnp.arange(slots)) % slots

    @property
    def valid(self) -> Bool[Array, " _slots"]:
        """The mask of slots that hold one of the last `m` pairs."""
        return self.ages < jnp.minimum(self.pairs, len(self.yky) - 1)

    @property
    def candidate(self) -> Int[Array, ""]:
        """The slot of the next pair."""
        return self.pairs % len(self.yky)


class LBFGSState(NamedTuple):
    """State of `lbfgs`; `value` belongs to `point`, the last accepted trial.

    `grad`, `slope` and the history refer to the loss divided by `unit`, the magnitude of its
    largest derivative at the start (0 before it), so that their squares stay within float32's range
    in any unit of the loss.
    """

    unit: Scalar
    point: PyTree[Array]
    value: Scalar
    grad: PyTree[Array]
    preconditioned: PyTree[Array]
    direction: PyTree[Array]
    slope: Scalar
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
    if memory_size < 1:
        raise ValueError(f"memory_size must be at least 1, not {memory_size}")
    if not first_step > 0:
        raise ValueError(f"first_step must be greater than 0, not {first_step}")

    def init(params: PyTree[Array]) -> LBFGSState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        dtype = jnp.result_type(jnp.float32, *(leaf.dtype for leaf in jax.tree.leaves(params)))
        zero, count = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
        return LBFGSState(
            unit=zero,
            point=zeros,
            value=jnp.full((), jnp.inf, dtype),
            grad=zeros,
            preconditioned=zeros,
            direction=zeros,
            slope=zero,
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
        first = state.unit == 0
        running = state.step.status == RUNNING
        largest = _largest(updates)
        finite = jnp.isfinite(value) & jnp.isfinite(largest)
        usable = jnp.isfinite(largest) & (largest > 0)
        # A power of two, so that division by it is exact.
        power = jnp.ldexp(jnp.ones_like(largest), jnp.frexp(largest)[1] - 1)
        unit = jnp.where(first, jnp.where(usable, power, 1.0), state.unit)
        grad, preconditioned = jax.tree.map(
            lambda leaf: leaf / unit, (updates, precondition(updates))
        )
        rise = (value - state.value) / unit
        # The unit does not change after the first evaluation, where there is no direction yet.
        divided = jax.tree.map(lambda leaf: leaf / jnp.where(first, 1.0, state.unit), updates)
        (slope,) = _dots((divided, state.direction))
        margin = noise * jnp.abs(state.value) / unit
        accepted = finite & running & (first | _sufficient(rise, slope, margin, state))

        # Judge: accept the trial and its pair, or leave the point and the history unchanged.
        s = jax.tree.map(jnp.subtract, trial, state.point)
        y = jax.tree.map(jnp.subtract, grad, state.grad)
        ky = jax.tree.map(jnp.subtract, preconditioned, state.preconditioned)
        point = _select(accepted, trial, state.point)
        point_grad = _select(accepted, grad, state.grad)
        point_preconditioned = _select(accepted, preconditioned, state.preconditioned)
        point_value = jnp.where(accepted, value, state.value)
        rows = jax.tree.map(
            functools.partial(_put, state.history.candidate), state.history.rows, s, ky
        )
        with_y, with_grad = _products(rows, (y, point_grad))
        curvature, s_norm, y_norm, steepest_slope, steepest_norm = _dots(
            (s, y),
            (s, s),
            (y, y),
            (point_grad, point_preconditioned),
            (point_preconditioned, point_preconditioned),
        )
        norms = jnp.sqrt(s_norm) * jnp.sqrt(y_norm)
        # NaN compares false; the smallest normal number as a bound rules out zero curvature.
        bent = (curvature > _CURVATURE * norms) & (curvature > jnp.finfo(curvature.dtype).tiny)
        wanted = accepted & ~first & bent
        history = _remember(state.history._replace(rows=rows), with_y, curvature, wanted)

        # Forget a history that makes no progress, and stop if it is already empty.
        rejections = jnp.where(accepted | ~running, 0, state.rejections + 1)
        exhausted = rejections >= _MAX_REJECTIONS
        stalled = exhausted & (history.pairs == 0)
        history = history._replace(pairs=jnp.where(exhausted, 0, history.pairs))
        rejections = jnp.where(exhausted, 0, rejections)

        # Aim: along a new direction from a new point, otherwise back along the old direction.
        gamma, weights, correction = _compact_form(history, with_grad)
        new_slope = -(gamma * steepest_slope + correction)
        ascends = ~(new_slope < 0)
        history = history._replace(pairs=jnp.where(ascends, 0, history.pairs))
        fresh = history.pairs == 0
        new_slope = jnp.where(fresh, -steepest_slope, new_slope)
        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        tiny = jnp.finfo(slope.dtype).tiny
        rms = jnp.sqrt(jnp.maximum(steepest_norm / size, tiny))
        full_step = jnp.where(fresh, first_step / rms, 1.0)
        turned = running & (rejections == 0)
        step_size = jnp.where(turned, full_step, _backtrack(rise, slope, finite, state))
        next_slope = jnp.where(turned, new_slope, state.slope)

        def aim(steepest: Array, rows: Array, old: Array) -> Array:
            total = _combination(weights, rows).reshape(steepest.shape)
            return jnp.where(turned, -jnp.where(fresh, steepest, gamma * steepest + total), old)

        direction = jax.tree.map(aim, point_preconditioned, rows, state.direction)

        status = jnp.where(
            ~running,
            state.step.status,
            jnp.where(
                first & ~finite,
                NOT_FINITE,
                jnp.where(
                    accepted & (largest == 0), CONVERGED, jnp.where(stalled, STALLED, RUNNING)
                ),
            ),
        ).astype(jnp.int32)
        step_size = jnp.where(status == RUNNING, step_size, 0.0).astype(slope.dtype)
        # Even if it is not accepted, the first trial is the only point available.
        point = _select(first, trial, point)
        next_trial = jax.tree.map(lambda p, d: p + step_size * d, point, direction)
        next_trial = _select(status == RUNNING, next_trial, point)
        return jax.tree.map(jnp.subtract, next_trial, trial), LBFGSState(
            unit=unit,
            point=point,
            value=point_value,
            grad=point_grad,
            preconditioned=point_preconditioned,
            direction=direction,
            slope=next_slope,
            history=history,
            rejections=rejections,
            step=StepInfo(step_size=step_size, accepted=accepted, status=status),
        )

    # optax types `value` as one of the extra arguments, which every caller in this project passes.
    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def _sufficient(rise: Scalar, slope: Scalar, margin: Scalar, state: LBFGSState) -> Bool[Array, ""]:
    # The rise must also be negative: a step too short to change the loss is not a decrease.
    armijo = (rise <= _ARMIJO * state.step.step_size * state.slope) & (rise < 0)
    flatter = jnp.abs(slope) <= (1 - 2 * _ARMIJO) * -state.slope
    return armijo | ((rise <= margin) & flatter)


def _backtrack(rise: Scalar, slope: Scalar, finite: Bool[Array, ""], state: LBFGSState) -> Scalar:
    """Compute the next step size after a rejection: a tenth to a half of the last one."""
    # Relative to the slope at the accepted point, which is negative, so squares cannot overflow.
    steepness = -state.slope
    start, end = -1.0, slope / steepness
    chord = start + end - 3 * rise / (state.step.step_size * steepness)
    root = jnp.sqrt(jnp.maximum(jnp.square(chord) - start * end, 0))
    share = 1 - (end + root - chord) / (end - start + 2 * root)
    share = jnp.where(finite & jnp.isfinite(share), share, 0.1)
    return state.step.step_size * jnp.clip(share, 0.1, 0.5)


def _empty_history(
    params: PyTree[Array], size: int, dtype: jnp.dtype, stored: jnp.dtype | None = None
) -> History:
    slots = size + 1
    rows = jax.tree.map(
        lambda leaf: jnp.zeros((2 * slots, leaf.size), stored or leaf.dtype), params
    )
    square = jnp.zeros((slots, slots), dtype)
    return History(rows, jnp.ones(slots, dtype), square, square, jnp.zeros((), jnp.int32))


def _put(slot: Int[Array, ""], rows: Array, s: Array, ky: Array) -> Array:
    """Put a pair into a slot."""
    pair = jnp.stack([s.ravel(), ky.ravel()])
    pair = jnp.where(jnp.isfinite(pair), pair, 0.0).astype(rows.dtype)
    return jax.lax.dynamic_update_slice_in_dim(rows, pair, 2 * slot, 0)


class _Products(NamedTuple):
    """Products of the pairs with a vector, by slot."""

    s: Float[Array, " m+1"]
    ky: Float[Array, " m+1"]


def _remember(
    history: History, with_y: _Products, curvature: Scalar, wanted: Bool[Array, ""]
) -> History:
    """Admit the pair in the candidate's slot, if it is wanted.

    Args:
        history: with the pair among its rows.
        with_y: products with the pair's y.
        curvature: s·y of the pair.
        wanted: whether to admit it.
    """
    # Selected rather than set at an index, which is a scatter where lanes have slots of their own.
    own = jnp.arange(len(history.scale)) == history.candidate
    new_scale = jax.lax.rsqrt(jnp.where(wanted, curvature, 1.0))
    scale = jnp.where(own, new_scale, history.scale)
    older = history.valid
    sy = jnp.where(older, with_y.s * scale * new_scale, 0.0)
    column = -_apply(_among(older, history.inverse), sy)
    yky = with_y.ky * scale * new_scale
    row, diagonal = own[:, None], jnp.eye(len(yky), dtype=yky.dtype)
    return history._replace(
        scale=scale,
        inverse=jnp.where(row, diagonal, jnp.where(own, column[:, None], history.inverse)),
        yky=jnp.where(row, yky, jnp.where(own, yky[:, None], history.yky)),
        pairs=history.pairs + wanted,
    )


def _among(rows: Bool[Array, " m"], matrix: Float[Array, "m m"]) -> Float[Array, "m m"]:
    return jnp.where(rows[:, None] & rows[None, :], matrix, 0.0)


def _apply(matrix: Float[Array, "m m"], vector: Float[Array, " m"]) -> Float[Array, " m"]:
    """Multiply a small matrix by a vector.

    The summation order of a library's product depends on where a lane lies in memory, and on a
    GPU such a product costs a separate kernel.
    """
    return jnp.sum(matrix * vector, axis=-1)


def _compact_form(
    history: History, with_grad: _Products
) -> tuple[Scalar, Float[Array, " r"], Scalar]:
    """Return γ, the weights w of the rows in H·grad = γK·grad + Σw·row, and grad·Σw·row.

    The inverse Hessian H is in its compact form; without pairs all weights are 0.
    """
    valid = history.valid
    inverse, yky = (_among(valid, matrix) for matrix in (history.inverse, history.yky))
    own = jnp.sum(yky * jnp.eye(len(yky), dtype=yky.dtype), axis=-1)
    gamma = jnp.max(jnp.where(own > 0, 1.0 / jnp.where(own > 0, own, 1.0), 0.0))
    gamma = jnp.where(gamma > 0, gamma, 1.0)
    s_grad, ky_grad = (jnp.where(valid, each * history.scale, 0.0) for each in with_grad)
    u = _apply(inverse, s_grad)
    along_s = _apply(inverse.T, u + gamma * _apply(yky, u) - gamma * ky_grad)
    weights = jnp.stack([along_s, -gamma * u], axis=1) * history.scale[:, None]
    return gamma, weights.ravel(), jnp.sum(along_s * s_grad - gamma * u * ky_grad)


def _products(rows: PyTree[Array], vectors: tuple[PyTree[Array], ...]) -> tuple[_Products, ...]:
    """Return the products of all rows with each of the vectors."""

    def product(rows: Array, *vectors: Array) -> Float[Array, "_v _r"]:
        columns = [vector.ravel() for vector in vectors]
        if rows.dtype == columns[0].dtype:
            return jnp.stack([jnp.matmul(rows, column, precision="highest") for column in columns])

        # Row by row: a single product would first copy all rows to the other type.
        def one(row: Array) -> Array:
            wide = row.astype(columns[0].dtype)
            return jnp.stack([jnp.vdot(wide, column, precision="highest") for column in columns])

        return jax.lax.map(one, rows).T

    leaves = [jax.tree.leaves(each) for each in (rows, *vectors)]
    found = sum(product(*each) for each in zip(*leaves, strict=True))
    by_slot = found.reshape(len(vectors), -1, 2)  # pyright: ignore[reportAttributeAccessIssue]
    return tuple(_Products(*each.T) for each in by_slot)


def _combination(weights: Float[Array, " m"], rows: Float[Array, "m n"]) -> Float[Array, " n"]:
    if rows.dtype == weights.dtype:
        return jnp.matmul(weights, rows, precision="highest")

    def add(total: Array, pair: tuple[Array, Array]) -> tuple[Array, None]:
        weight, row = pair
        return total + weight * row.astype(total.dtype), None

    start = jnp.zeros(rows.shape[1], weights.dtype)
    return jax.lax.scan(add, start, (weights, rows))[0]


def _dots(*pairs: tuple[PyTree[Array], PyTree[Array]]) -> Float[Array, " k"]:
    """Return the inner product of each pair of pytrees."""

    def rows(a: Array, b: Array) -> Array:
        products = jnp.atleast_1d(a * b)
        return jnp.sum(products, axis=tuple(range(1, products.ndim)))

    # Sums of rows first, which all take part in one sum then.
    by_leaf = zip(*(map(rows, *map(jax.tree.leaves, pair)) for pair in pairs), strict=True)
    return sum(jnp.sum(jnp.stack(sums), axis=1) for sums in by_leaf)  # pyright: ignore[reportReturnType]


def _largest(tree: PyTree[Array]) -> Scalar:
    """Return the largest absolute value, or NaN if any value is NaN."""
    return jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(tree)]))


def _select(predicate: Bool[Array, ""], new: PyTree[Array], old: PyTree[Array]) -> PyTree[Array]:
    return jax.tree.map(lambda a, b: jnp.where(predicate, a, b), new, old)
