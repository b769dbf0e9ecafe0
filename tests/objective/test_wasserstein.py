"""The Wasserstein statistic against NumPy in float64, far from its target and near it."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxstyle.objective import wasserstein
from jaxstyle.objective.roots import EPSILON
from jaxstyle.objective.style_statistics import Layer, Wasserstein

EXACT = jax.lax.Precision.HIGHEST


def prepared(style: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, float, float]:
    """A style's mean, R, trace, floor and idle directions, by solving for each eigenvalue of R."""
    mean = style.mean(axis=0)
    variances, vectors = np.linalg.eigh(np.cov(style.T, bias=True))
    variances[variances < 1e-5 * variances[-1]] = 0
    squares = variances.copy()
    while True:
        floor = 1e-4 * variances @ squares + 1e-12
        delta = EPSILON * np.sqrt(variances @ squares + floor)
        better = np.asarray([_root_of(v, delta) if v else 0.0 for v in variances])
        if np.allclose(better, squares, rtol=1e-13, atol=0):
            break
        squares = better
    roots = np.sqrt(variances * squares + delta**2)
    idle = np.sum(delta / roots)
    trace = 2 * (roots.sum() - idle * delta) - variances.sum()
    return mean, vectors @ np.diag(np.sqrt(squares)) @ vectors.T, trace, floor, idle


def _root_of(variance: float, delta: float) -> float:
    """The positive root of r⁴ = λ r² + δ² in r²."""
    return float(np.roots([1, -variance, -(delta**2)]).max())


def oracle(features: np.ndarray, style: np.ndarray) -> tuple[float, np.ndarray]:
    """The distance as it is documented, and its gradient, by eigenvectors in float64."""
    mean, root, target_trace, floor, idle = prepared(style)
    positions, channels = features.shape
    centred = features - features.mean(axis=0)
    covariance = centred.T @ centred / positions
    inner = root @ covariance @ root
    delta = EPSILON * np.sqrt(np.trace(inner) + floor)
    values, vectors = np.linalg.eigh((inner + inner.T) / 2)
    roots = np.sqrt(np.maximum(values, 0) + delta**2)
    means = features.mean(axis=0) - mean
    loss = means @ means + np.trace(covariance) + target_trace
    loss -= 2 * (roots.sum() - idle * delta)
    inverse = vectors / roots @ vectors.T
    slope = np.eye(channels) - root @ inverse @ root
    slope -= EPSILON**2 * (np.trace(inverse) - idle / delta) * root @ root
    return loss / channels, 2 * (means + centred @ slope) / positions / channels


def exact(features: np.ndarray, style: np.ndarray) -> float:
    """The squared 2-Wasserstein distance itself, over the channels."""
    means = features.mean(axis=0) - style.mean(axis=0)
    first, second = (np.cov(each.T, bias=True) for each in (features, style))
    values, vectors = np.linalg.eigh(second)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ first @ root), 0)).sum()
    return float(means @ means + np.trace(first + second) - 2 * cross) / len(means)


def measure(features: Any, whole: bool = True) -> Any:
    """Of features `[m, c]`."""
    parts = Wasserstein().gather(Layer(features[None], None, EXACT, None, whole))
    return Wasserstein().finish(parts, 1.0)


def target(style: np.ndarray) -> wasserstein.Target:
    return wasserstein.prepare(wasserstein.gaussian(measure(jnp.asarray(style))))


@jax.jit
def distance(features: Any, wanted: wasserstein.Target) -> Any:
    return wasserstein.distance(measure(features), wanted)


def correlated(positions: int, channels: int, seed: int = 0) -> np.ndarray:
    """Features whose variances fall as those of VGG19's do, by a factor of the channels."""
    rng = np.random.default_rng(seed)
    vectors = np.linalg.qr(np.random.default_rng(99).normal(size=(channels, channels)))[0]
    spreads = 30 / np.sqrt(np.arange(1, channels + 1))
    return 5 + rng.normal(size=(positions, channels)) * spreads @ vectors


def images(style: np.ndarray) -> dict[str, np.ndarray]:
    mean, rng = style.mean(axis=0), np.random.default_rng(3)
    positions, channels = style.shape
    return {
        "the style's": style,
        "100 Σ'": mean + 10 * (style - mean),
        "0.01 Σ'": mean + 0.1 * (style - mean),
        "another's": correlated(positions, channels, seed=7) - 3,
        "of rank 1": np.outer(rng.normal(size=positions), 30 * rng.normal(size=channels)),
        "constant": np.full_like(style, 3.0),
    }


@pytest.mark.parametrize("positions", [16, 64, 1000])
@pytest.mark.parametrize(
    "channels", [64, *(pytest.param(each, marks=pytest.mark.slow) for each in (128, 512))]
)
def test_value_and_gradient_are_those_of_an_oracle(channels: int, positions: int) -> None:
    style = np.float32(correlated(positions, channels))
    wanted = target(style)
    for name, image in images(style).items():
        image = np.float32(image)
        loss, gradient = jax.value_and_grad(distance)(jnp.asarray(image), wanted)
        expected, slope = oracle(np.float64(image), np.float64(style))
        # At the style itself both are 0; rounding is that of the traces they are made of.
        traces = (image.var(axis=0).sum() + style.var(axis=0).sum()) / channels
        assert abs(loss - expected) < 1e-4 * max(expected, traces), name
        alone = 2 * np.linalg.norm(image - image.mean(axis=0)) / positions / channels
        size = max(np.linalg.norm(slope), alone)
        assert np.linalg.norm(np.float64(gradient) - slope) < 1e-3 * size, name


@pytest.mark.parametrize("positions", [16, 1000])
def test_it_is_near_the_exact_distance(positions: int) -> None:
    style = np.float32(correlated(positions, 64))
    for name, image in images(style).items():
        expected = exact(np.float64(image), np.float64(style))
        assert distance(np.float32(image), target(style)) == pytest.approx(
            expected, rel=0.01, abs=1e-3 * float(style.var())
        ), name


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("rank", [1, 3, 12])
def test_nothing_is_nearer_to_a_style_than_itself(rank: int) -> None:
    style = correlated(40, 12)
    values, vectors = np.linalg.eigh(np.cov(style.T, bias=True))
    style = (
        style.mean(axis=0)
        + (style - style.mean(axis=0)) @ vectors[:, -rank:] @ vectors[:, -rank:].T
    )
    wanted = target(style)
    assert abs(distance(style, wanted)) < 1e-9 * values.sum()
    assert jnp.linalg.norm(jax.grad(distance)(jnp.asarray(style), wanted)) < 1e-6
    rng = np.random.default_rng(0)
    descend = jax.jit(jax.value_and_grad(distance))
    for spread in (0.01, 1.0, 30.0):
        image = jnp.asarray(style.mean(axis=0) + spread * rng.normal(size=(40, 12)))
        for _ in range(100):
            loss, gradient = descend(image, wanted)
            assert loss > -1e-9 * values.sum()
            image = image - 0.25 * 40 * 12 * gradient


@pytest.mark.usefixtures("x64")
def test_positions_or_covariance_make_no_difference() -> None:
    image, wanted = jnp.asarray(correlated(10, 24, seed=1)), target(correlated(30, 24))

    def loss(features: Any, whole: bool) -> Any:
        return wasserstein.distance(measure(features, whole), wanted)

    assert isinstance(measure(image), wasserstein.Sample)
    few, all_of_them = (jax.value_and_grad(loss)(image, whole) for whole in (True, False))
    assert_allclose(few[0], all_of_them[0], rtol=1e-9)
    assert_allclose(few[1], all_of_them[1], rtol=1e-6, atol=1e-9)


def test_distances_together_are_as_alone() -> None:
    """Accelerators do the one, CPUs the other."""
    styles = [np.float32(correlated(40, channels)) for channels in (8, 24, 5, 13, 24)]
    images = [np.float32(correlated(16, each.shape[1], seed=1)) for each in styles]
    wanted = tuple(target(style) for style in styles)

    def losses(way: Any, images: Any) -> Any:
        found = jnp.stack(way(tuple(measure(image) for image in images), wanted))
        return found @ np.arange(1.0, 6.0), found

    alone, together = (
        jax.jit(jax.grad(functools.partial(losses, way), has_aux=True))(images)
        for way in (wasserstein._distances_alone, wasserstein._distances_together)
    )
    assert_allclose(together[1], alone[1], rtol=1e-4)
    for ours, theirs in zip(together[0], alone[0], strict=True):
        assert_allclose(ours, theirs, atol=1e-3 * np.abs(theirs).max())


def test_a_program_has_one_way_to_iterate() -> None:
    styles = [np.float32(correlated(40, channels)) for channels in (8, 12)]
    targets = [target(style) for style in styles]

    def loss(images: Any) -> Any:
        return sum(wasserstein.distances([measure(image) for image in images], targets))

    text = jax.jit(jax.grad(loss)).lower(styles).compile().as_text()
    assert " dot(" in text
    assert not re.findall(r" (?:conditional|while)\(", text)


def test_half_of_float32_is_not_enough() -> None:
    """Accelerators round factors to fewer bits unless they are asked for all of them."""
    wanted = target(np.float32(correlated(40, 12)))
    for positions in (40, 8):
        image = jnp.asarray(correlated(positions, 12), jnp.float32)
        traced = jax.jit(jax.grad(functools.partial(distance, wanted=wanted))).trace(image)
        text = traced.lower(lowering_platforms=("tpu",)).as_text()
        products = [line for line in text.splitlines() if "dot_general" in line]
        assert products
        assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)
