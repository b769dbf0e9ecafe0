import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from jax import Array
from numpy.testing import assert_allclose

from jaxstyle.optim.averaging import average_iterates
from jaxstyle.optim.lbfgs import (
    LBFGSState,
    _compact_form,
    _empty_history,
    _products,
    _put,
    _remember,
    lbfgs,
)
from jaxstyle.optim.steps import CONVERGED, NOT_FINITE, RUNNING, STALLED

Objective = Callable[[Array], Array]


def rosenbrock(x: Array) -> Array:
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def quadratic(x: Array) -> Array:
    """Condition number 1e4, minimum 0 at 1."""
    return 0.5 * jnp.sum(jnp.logspace(0, 4, x.size) * (x - 1) ** 2)


def run(
    objective: Objective,
    start: Array,
    evaluations: int,
    memory: int = 10,
    first_step: float = 0.01,
    precondition: Callable[[Array], Array] = lambda grad: grad,
) -> tuple[Array, LBFGSState, np.ndarray]:
    """The last trial, the state, and the loss of every trial."""
    optimizer = lbfgs(memory, first_step, precondition=precondition)

    @jax.jit
    def step(x: Array, state: LBFGSState) -> tuple[Array, LBFGSState, Array]:
        value, grad = jax.value_and_grad(objective)(x)
        updates, state = optimizer.update(grad, state, x, value=value)
        return optax.apply_updates(x, updates), state, value

    x, state, losses = start, optimizer.init(start), []
    for _ in range(evaluations):
        x, state, value = step(x, state)
        losses.append(float(value))
    return x, state, np.asarray(losses)


def scipy_losses(objective: Objective, start: Array, evaluations: int) -> np.ndarray:
    """Loss of each of SciPy's L-BFGS-B (m=10) evaluations on the same function."""
    losses: list[float] = []

    @jax.jit
    def value_and_grad(x: Array) -> tuple[Array, Array]:
        return jax.value_and_grad(objective)(x)

    def function(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, grad = value_and_grad(jnp.asarray(x, start.dtype))
        losses.append(float(value))
        return float(value), np.asarray(grad, np.float64)

    scipy.optimize.minimize(
        function,
        np.asarray(start, np.float64),
        jac=True,
        method="L-BFGS-B",
        options={"maxcor": 10, "maxfun": evaluations, "maxiter": evaluations, "ftol": 0, "gtol": 0},
    )
    assert len(losses) >= evaluations or min(losses) < 1e-12, "SciPy gave up early"
    return np.asarray(losses[:evaluations])


@pytest.mark.parametrize("dimensions", [2, 20])
def test_rosenbrock_is_solved(x64: None, dimensions: int) -> None:
    start = jnp.full(dimensions, -1.2)
    _, state, losses = run(rosenbrock, start, 200)
    assert losses.min() < 1e-12
    assert_allclose(state.point, 1.0, atol=1e-5)
    assert scipy_losses(rosenbrock, start, 200).min() < 1e-9  # the comparison is a fair one


def test_ill_conditioned_quadratic_keeps_up_with_scipy(x64: None) -> None:
    start = jnp.zeros(100)
    _, _, losses = run(quadratic, start, 150)
    assert losses.min() < 2 * scipy_losses(quadratic, start, 150).min()


def test_rosenbrock_in_float32() -> None:
    _, state, losses = run(rosenbrock, jnp.full(20, -1.2, jnp.float32), 300)
    assert losses.min() < 1e-6
    assert state.value.dtype == jnp.float32


def dense_direction(
    pairs: list[tuple[np.ndarray, np.ndarray]], grad: np.ndarray, k: np.ndarray
) -> np.ndarray:
    """−H·grad with H built pair by pair as a matrix (Nocedal and Wright 2006, eq. 7.16)."""
    identity = np.eye(len(grad))
    h = k * max((s @ y) / (y @ k @ y) for s, y in pairs)
    for s, y in pairs:
        rho = 1 / (s @ y)
        v = identity - rho * np.outer(y, s)
        h = v.T @ h @ v + rho * np.outer(s, s)
    return -h @ grad


@pytest.mark.parametrize("preconditioned", [False, True])
@pytest.mark.parametrize("count", [1, 3, 5, 8, 13])
def test_direction_equals_the_dense_inverse_hessian(
    x64: None, count: int, preconditioned: bool
) -> None:
    """Before the history is full, when it just is, and after it has wrapped around."""
    rng = np.random.default_rng(count)
    size, memory = 12, 5
    root = rng.normal(size=(size, size))
    hessian = root @ root.T + np.eye(size)
    roughness = rng.normal(size=(size, size)) if preconditioned else np.zeros((size, size))
    k = roughness @ roughness.T + np.eye(size)
    steps = rng.normal(size=(count, size))
    pairs = [(s, hessian @ s) for s in steps]
    history = _empty_history(jnp.zeros(size), memory, jnp.zeros(0).dtype)
    for s, y in pairs:
        s, y, ky = jnp.asarray(s), jnp.asarray(y), jnp.asarray(k @ y)
        rows = _put(history.candidate, history.rows, s, ky)
        (with_y,) = _products(rows, (y,))
        history = _remember(history._replace(rows=rows), with_y, s @ y, jnp.asarray(True))
    grad = rng.normal(size=size)
    expected = dense_direction(pairs[-memory:], grad, k)
    (with_grad,) = _products(history.rows, (jnp.asarray(grad),))
    gamma, weights, correction = _compact_form(history, with_grad)
    found = -(gamma * (k @ grad) + weights @ history.rows)
    assert_allclose(found, expected, rtol=1e-8)
    assert_allclose(gamma * (grad @ k @ grad) + correction, -grad @ expected, rtol=1e-8)


def test_preconditioning_equals_a_change_of_variables(x64: None) -> None:
    """K = PPᵀ for parameters Pz; what differs is only the size of the first step."""
    rng = np.random.default_rng(3)
    p = np.eye(8) + 0.3 * rng.normal(size=(8, 8))
    z = jnp.asarray(rng.normal(size=8))
    grad_z = p.T @ jax.grad(rosenbrock)(p @ z)
    first = 0.1
    step = first * np.sqrt(8) * (p @ grad_z) / np.linalg.norm(p @ grad_z)  # in terms of x
    first_z = float(np.linalg.norm(np.linalg.solve(p, step)) / np.sqrt(8))
    _, _, expected = run(lambda z: rosenbrock(p @ z), z, 40, first_step=first_z)
    _, _, found = run(rosenbrock, p @ z, 40, first_step=first, precondition=lambda g: p @ (p.T @ g))
    assert_allclose(found, expected, rtol=1e-6)


def test_steps_do_not_depend_on_the_unit_of_the_loss() -> None:
    """From 1e-20 to 1e16 they stay inside float32, squares of their gradients included."""
    for first_step in (0.01, 3.0):  # the longer one is rejected and interpolated
        runs = [
            run(lambda x, k=k: k * quadratic(x), jnp.zeros(30), 40, first_step=first_step)
            for k in (2.0**-80, 1.0, 2.0**40)
        ]
        for _, state, losses in runs:
            assert state.step.status == RUNNING
            assert_allclose(losses / losses[0], runs[1][2] / runs[1][2][0], rtol=1e-6)
            assert_allclose(state.point, runs[1][1].point, rtol=1e-6)


def test_vmap_does_not_copy_the_history() -> None:
    optimizer = lbfgs(20, 0.1)
    size, lanes = 10_000, 4
    x = jnp.zeros((lanes, size))
    state = jax.vmap(optimizer.init)(x)
    update = jax.vmap(lambda g, s, x, v: optimizer.update(g, s, x, value=v))
    compiled = jax.jit(update, donate_argnums=1).lower(x, state, x, jnp.zeros(lanes)).compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    history = 2 * 21 * size * lanes * 4
    assert memory.temp_size_in_bytes < 0.5 * history


def test_first_step_has_the_size_asked_for() -> None:
    start = jnp.linspace(-1, 1, 50)
    x, _, _ = run(quadratic, start, 1, first_step=0.25)
    assert_allclose(jnp.sqrt(jnp.mean((x - start) ** 2)), 0.25, rtol=1e-5)


def test_accepted_losses_never_rise() -> None:
    optimizer = lbfgs(10, 1.0)  # a first step that is far too long
    x = jnp.full(10, -1.2)
    state, accepted = optimizer.init(x), []
    evaluate, update = jax.jit(jax.value_and_grad(rosenbrock)), jax.jit(optimizer.update)
    for _ in range(80):
        value, grad = evaluate(x)
        updates, state = update(grad, state, x, value=value)
        x = optax.apply_updates(x, updates)
        if state.step.accepted:
            accepted.append(float(value))
            assert float(state.value) == accepted[-1]
    assert len(accepted) < 80
    assert (np.diff(accepted) <= 1e-6 * np.abs(accepted[:-1])).all()


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_a_region_of_nonsense_is_stepped_back_from(bad: float) -> None:
    def objective(x: Array) -> Array:
        return jnp.where(jnp.any(x > 1.5), bad, quadratic(x))

    x, state, losses = run(objective, jnp.zeros(30), 200, first_step=5.0)
    assert (~np.isfinite(losses)).any()
    assert state.step.status == RUNNING or state.value < 1e-3
    assert state.value < 1e-2 * losses[0]
    assert bool(jnp.isfinite(x).all())


def test_a_nan_gradient_is_a_rejected_trial() -> None:
    @jax.custom_vjp
    def objective(x: Array) -> Array:
        return quadratic(x)

    def backward(x: Array, g: Array) -> tuple[Array]:
        return (jnp.where(jnp.any(x > 1.5), jnp.nan, g * jax.grad(quadratic)(x)),)

    objective.defvjp(lambda x: (quadratic(x), x), backward)
    _, state, losses = run(objective, jnp.zeros(30), 100, first_step=5.0)
    assert (losses > losses[0]).any()  # trials were rejected
    assert bool(jnp.isfinite(state.point).all())
    assert state.value < 1e-2 * losses[0]


def test_nonsense_from_the_start_stops_at_once() -> None:
    x, state, _ = run(lambda x: jnp.nan * jnp.sum(x), jnp.ones(3), 5)
    assert state.step.status == NOT_FINITE
    assert_allclose(x, 1.0)


def test_a_minimum_is_recognized_and_kept() -> None:
    x, state, _ = run(quadratic, jnp.ones(4), 5)
    assert state.step.status == CONVERGED
    assert_allclose(x, 1.0, rtol=0)


def test_a_search_without_hope_ends_stalled_at_the_accepted_point() -> None:
    """The gradient points uphill, so no step along its opposite can decrease the loss."""

    @jax.custom_vjp
    def liar(x: Array) -> Array:
        return jnp.sum(x**2)

    liar.defvjp(lambda x: (liar(x), x), lambda x, g: (-2 * g * x,))
    x, state, _ = run(liar, jnp.ones(3), 30)
    assert state.step.status == STALLED
    assert_allclose(x, 1.0)


def test_pairs_of_no_curvature_do_not_enter_the_history() -> None:
    _, state, losses = run(lambda x: jnp.sum(x), jnp.zeros(5), 10)
    assert state.history.pairs == 0
    assert (np.diff(losses) < 0).all()


def test_parameters_may_be_any_pytree(x64: None) -> None:
    def tree_objective(tree: dict[str, Array]) -> Array:
        return rosenbrock(jnp.concatenate([tree["a"].ravel(), tree["b"]]))

    start = jnp.linspace(-1, 1, 10)
    tree = {"a": start[:6].reshape(2, 3), "b": start[6:]}
    flat, _, flat_losses = run(rosenbrock, start, 30)
    found, _, losses = run(tree_objective, tree, 30)
    assert_allclose(losses, flat_losses, rtol=1e-6)
    assert_allclose(jnp.concatenate([found["a"].ravel(), found["b"]]), flat, rtol=1e-5)


def test_lanes_under_vmap_equal_single_runs(x64: None) -> None:
    """Lanes that reject, converge and diverge at different times do not disturb each other."""
    optimizer = lbfgs(6, 0.5)

    def objective(x: Array, scale: Array) -> Array:
        value = rosenbrock(x) * jnp.abs(scale) + quadratic(x) * (scale == 0)
        return jnp.where(scale < 0, jnp.nan, value)

    def step(x: Array, state: LBFGSState, scale: Array) -> tuple[Array, LBFGSState, Array]:
        value, grad = jax.value_and_grad(functools.partial(objective, scale=scale))(x)
        updates, state = optimizer.update(grad, state, x, value=value)
        return optax.apply_updates(x, updates), state, value

    scales = jnp.asarray([1.0, 1e-3, -1.0, 50.0, 0.0])
    starts = jnp.asarray(np.random.default_rng(0).normal(size=(5, 8))).at[4].set(1.0)
    lanes = jax.jit(jax.vmap(step))
    single = jax.jit(step)
    x, state = starts, jax.vmap(optimizer.init)(starts)
    alone = [(starts[i], optimizer.init(starts[i])) for i in range(5)]
    for _ in range(60):
        x, state, values = lanes(x, state, scales)
        for i in range(5):
            next_x, next_state, value = single(*alone[i], scales[i])
            alone[i] = (next_x, next_state)
            assert_allclose(values[i], value, rtol=1e-6, atol=1e-12)
    assert state.step.status.tolist() == [int(each.step.status) for _, each in alone]
    assert state.step.status[2] == NOT_FINITE
    assert state.step.status[4] == CONVERGED
    assert_allclose(x[3], alone[3][0], rtol=1e-6)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 0.1), "memory_size must be at least 1, not 0"),
        ((3, 0.0), "first_step must be greater than 0, not 0.0"),
        ((3, float("nan")), "first_step must be greater than 0, not nan"),
    ],
)
def test_sizes_must_be_positive(sizes: tuple[int, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lbfgs(*sizes)


def test_parameters_are_required() -> None:
    optimizer = lbfgs(3, 0.1)
    state = optimizer.init(jnp.zeros(2))
    with pytest.raises(ValueError, match="lbfgs needs the parameters: update"):
        optimizer.update(jnp.zeros(2), state, value=jnp.zeros(()))
    mean = average_iterates(0.9)
    with pytest.raises(ValueError, match="average_iterates needs the parameters: update"):
        mean.update(jnp.zeros(2), mean.init(jnp.zeros(2)))


def test_pairs_in_bfloat16_lead_as_far() -> None:
    """On an ill-conditioned quadratic, in half of the memory."""
    scales = jnp.logspace(0, 3, 200)

    def loss(x: jax.Array) -> jax.Array:
        return 0.5 * jnp.sum(scales * jnp.square(x - 1))

    ends: list[float] = []
    for dtype in (None, jnp.dtype(jnp.bfloat16)):
        optimizer = lbfgs(10, 0.1, memory_dtype=dtype)
        x = jnp.zeros(200)
        state = optimizer.init(x)
        assert state.history.rows.dtype == (dtype or jnp.float32)
        step = jax.jit(optimizer.update)
        evaluate = jax.jit(jax.value_and_grad(loss))
        for _ in range(150):
            value, grad = evaluate(x)
            updates, state = step(grad, state, x, value=value)
            x = optax.apply_updates(x, updates)
        ends.append(float(state.value))
    start = float(loss(jnp.zeros(200)))
    assert max(ends) < 1e-7 * start
