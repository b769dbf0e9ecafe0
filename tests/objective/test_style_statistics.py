"""Statistics against NumPy in float64, and where their gradients could break."""

import functools
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from numpy.testing import assert_allclose

from jaxstyle.config.settings import Statistic
from jaxstyle.objective import wasserstein
from jaxstyle.objective.sliced import directions
from jaxstyle.objective.style_statistics import STATISTICS, Layer
from tests.objective.test_wasserstein import oracle as wasserstein_oracle

KINDS = get_args(Statistic)
EXACT = jax.lax.Precision.HIGHEST
CHANNELS = 6


def test_settings_name_every_statistic() -> None:
    assert set(KINDS) == set(STATISTICS)


def features(height: int = 9, width: int = 7, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(1, 2, (height, width, CHANNELS))


def guide(height: int = 9, width: int = 7, seed: int = 5) -> np.ndarray:
    soft = np.random.default_rng(seed).uniform(0, 1, (height, width))
    soft[:2] = 0
    return soft / np.sqrt(np.mean(soft**2))


def axes() -> np.ndarray:
    return np.asarray(directions(0, CHANNELS, 64, 3), np.float64)


def measure(kind: str, array: Any, where: Any, vectors: Any) -> Any:
    statistic, divisor = STATISTICS[kind], array.shape[0] * array.shape[1]
    return statistic.finish(
        statistic.gather(Layer(array, where, EXACT, vectors, whole=True)), divisor
    )


def measured(kind: str, array: Any, where: Any = None) -> Any:
    return measure(kind, array, where, jnp.asarray(axes()))


def target(kind: str, array: Any, where: Any = None, positions: int = 63) -> Any:
    kept = STATISTICS[kind].as_target(measured(kind, array, where), positions)
    return STATISTICS[kind].prepare(kept)


def apart(kind: str, array: Any, wanted: Any, where: Any = None) -> Any:
    return STATISTICS[kind].distance(measured(kind, array, where), wanted, "mean")


def oracle(kind: str, a: np.ndarray, b: np.ndarray) -> float:
    """The same in NumPy; of `a` and `b` with positions in rows."""
    if kind == "wasserstein":
        return wasserstein_oracle(a, b)[0]
    if kind == "sliced":
        a, b = np.sort(a @ axes(), axis=0), np.sort(b @ axes(), axis=0)
        if len(a) != len(b):
            wanted, there = ((np.arange(n) + 0.5) / n for n in (len(a), len(b)))
            b = np.stack([np.interp(wanted, there, column) for column in b.T], axis=1)
        return float(np.mean((a - b) ** 2))
    means = [array.mean(axis=0) for array in (a, b)]
    if kind == "moments":
        spreads = [array.std(axis=0) for array in (a, b)]
        return float(np.mean((means[0] - means[1]) ** 2 + (spreads[0] - spreads[1]) ** 2))
    covariances = [np.cov(array.T, bias=True) for array in (a, b)]
    if kind == "gram":
        covariances = [array.T @ array / len(array) for array in (a, b)]
    return float(np.sum((covariances[0] - covariances[1]) ** 2) / CHANNELS**4)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("other", [(9, 7), (5, 8)])
@pytest.mark.parametrize("kind", KINDS)
def test_distances_are_those_of_an_oracle(kind: str, other: tuple[int, int]) -> None:
    a, b = features(), features(*other, seed=1)
    flat = [array.reshape(-1, CHANNELS) for array in (a, b)]
    assert_allclose(
        apart(kind, jnp.asarray(a), target(kind, jnp.asarray(b))), oracle(kind, *flat), rtol=2e-5
    )


@pytest.mark.usefixtures("x64")
def test_quantiles_of_a_region_know_nothing_outside() -> None:
    inside = features(3, 5)
    around = np.full((9, 7, CHANNELS), 100.0)
    around[:, :3] = -100
    around[3:6, 2:] = inside
    where = np.zeros((9, 7))
    where[3:6, 2:] = np.sqrt(63 / 15)
    found = STATISTICS["sliced"].as_target(measured("sliced", around, jnp.asarray(where)), 200)
    alone = STATISTICS["sliced"].as_target(measured("sliced", inside), 200)
    assert_allclose(found, alone, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", KINDS)
def test_a_hard_guide_is_the_part_alone(kind: str) -> None:
    a, b = features(), features(seed=1)
    where = np.zeros((9, 7))
    where[3:6, 2:] = np.sqrt(63 / 15)
    parts = [array[3:6, 2:].reshape(-1, CHANNELS) for array in (a, b)]
    wanted = target(kind, jnp.asarray(b), jnp.asarray(where))
    # Quantiles are kept at as many points as the image has positions, and interpolated there.
    tolerance = 0.1 if kind == "sliced" else 2e-5
    assert_allclose(
        apart(kind, jnp.asarray(a), wanted, jnp.asarray(where)),
        oracle(kind, *parts),
        rtol=tolerance,
    )


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_at_no_distance_from_itself(kind: str, guided: bool) -> None:
    array = jnp.asarray(features(), jnp.float32)
    where = jnp.asarray(guide(), jnp.float32) if guided else None
    far = apart(kind, array + 1, target(kind, array, where), where)
    near = apart(kind, array, target(kind, array, where), where)
    assert abs(near) < (0.02 if guided and kind == "sliced" else 1e-4) * far


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_differences(kind: str, guided: bool) -> None:
    where = jnp.asarray(guide()) if guided else None
    wanted = target(kind, jnp.asarray(features(seed=1)), where)
    loss = functools.partial(apart, kind, wanted=wanted, where=where)
    check_grads(loss, (jnp.asarray(features()),), order=1, modes=["rev"], rtol=1e-5, eps=1e-6)


def plain(array: jax.Array, where: jax.Array) -> tuple[Any, Any]:
    """Mean and covariance of weighted positions, in the order of their formulas."""
    weights = jnp.square(where) / jnp.sum(jnp.square(where))
    mean = jnp.tensordot(weights, array, 2)
    deviations = array - mean
    return mean, jnp.einsum("hw,hwi,hwj->ij", weights, deviations, deviations)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("kind", "size"),
    # With fewer positions than channels, positions represent their covariance.
    [("covariance", (9, 7)), ("moments", (9, 7)), ("wasserstein", (9, 7)), ("wasserstein", (1, 4))],
)
def test_derivatives_are_those_of_features_less_their_mean(
    kind: str, size: tuple[int, int]
) -> None:
    """Also the second ones, for which it matters how the mean was left out of the first."""
    array, along = (jnp.asarray(features(*size, seed=seed)) for seed in (0, 1))
    where = jnp.asarray(guide()[-size[0] :, -size[1] :])
    wanted = target(kind, jnp.asarray(features(seed=2)))

    def expected(array: jax.Array) -> Any:
        mean, covariance = plain(array, where)
        measured = {
            "covariance": covariance,
            "moments": (mean, jnp.sqrt(jnp.diagonal(covariance) + 1e-6)),
            "wasserstein": wasserstein.Gaussian(mean, covariance),
        }[kind]
        return STATISTICS[kind].distance(measured, wanted, "mean")

    def found(array: jax.Array) -> Any:
        statistic = STATISTICS[kind]
        gathered = statistic.gather(Layer(array, where, EXACT, None, whole=True))
        measured = statistic.finish(gathered, float(np.sum(np.square(where))))
        return statistic.distance(measured, wanted, "mean")

    @functools.partial(jax.jit, static_argnums=0)
    def derivatives(loss: Any) -> Any:
        return jax.jvp(jax.grad(loss), (array,), (along,))

    for mine, theirs in zip(derivatives(found), derivatives(expected), strict=True):
        assert_allclose(mine, theirs, rtol=1e-6, atol=1e-6 * float(jnp.max(jnp.abs(theirs))))


CONSTANT = np.full((9, 7, CHANNELS), 3.0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_breaks_on_constant_features(kind: str, dtype: Any) -> None:
    flat, rough = jnp.asarray(CONSTANT, dtype), jnp.asarray(features(), dtype)
    for image, style in [(flat, rough), (rough, flat), (flat, flat), (0 * flat, 0 * flat)]:
        loss, gradient = jax.value_and_grad(functools.partial(apart, kind))(
            image, target(kind, style)
        )
        assert jnp.isfinite(loss)
        assert jnp.isfinite(gradient.astype(jnp.float32)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_region_that_is_nowhere_breaks_nothing(kind: str) -> None:
    array, nowhere = jnp.asarray(features(), jnp.float32), jnp.zeros((9, 7))
    loss, gradient = jax.value_and_grad(
        lambda image: apart(kind, image, target(kind, array, nowhere), nowhere)
    )(array)
    assert jnp.isfinite(loss)
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("kind", KINDS)
def test_accelerators_are_asked_for_all_of_float32(kind: str) -> None:
    """They have quicker and coarser products, which covariances' small eigenvalues drown in."""

    vectors = jnp.asarray(axes(), jnp.float32)

    def seen(array: Any) -> Any:
        return measure(kind, array, None, vectors)

    array = jnp.asarray(features(), jnp.float32)
    goal = STATISTICS[kind].prepare(STATISTICS[kind].as_target(seen(array), 63))

    def compare(array: Any) -> Any:
        return STATISTICS[kind].distance(seen(array), goal, "mean")

    traced = jax.jit(jax.grad(compare)).trace(array)
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert products or kind == "moments"
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


def test_directions_are_seeded_unit_vectors() -> None:
    first = directions(4, CHANNELS, 64, 0)
    assert_allclose(jnp.linalg.norm(first, axis=0), 1, rtol=1e-6)
    np.testing.assert_array_equal(first, directions(4, CHANNELS, 64, 0))
    for other in (directions(5, CHANNELS, 64, 0), directions(4, CHANNELS, 64, 1)):
        assert not np.array_equal(first, other)
