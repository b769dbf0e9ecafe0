"""Every loss against a plain NumPy reference in float64, and its gradient against differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxstyle.objective.losses import content_loss, gram_matrix, style_loss, total_variation

RNG = np.random.default_rng(0)
F = RNG.normal(size=(7, 5, 6))
P = RNG.normal(size=(7, 5, 6))
G = RNG.normal(size=(6, 6))
A = RNG.normal(size=(6, 6))
X = RNG.normal(size=(9, 8, 3)) * 50


def numpy_tv(x: np.ndarray, kind: str) -> float:
    total = 0.0
    height, width, channels = x.shape
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                dy = x[i + 1, j, c] - x[i, j, c] if i + 1 < height else None
                dx = x[i, j + 1, c] - x[i, j, c] if j + 1 < width else None
                if kind == "seed":
                    if dy is not None and dx is not None:
                        total += (dy**2 + dx**2) ** 1.25
                else:
                    for d in (dy, dx):
                        if d is not None:
                            total += abs(d) if kind == "l1" else d**2 / 2
    return total


def numpy_nine_point(x: np.ndarray) -> float:
    """A pixel's right, lower and diagonal differences, means over the edge-padded picture."""
    height, width, _ = x.shape

    def at(i: int, j: int) -> np.ndarray:
        return x[min(max(i, 0), height - 1), min(max(j, 0), width - 1)]

    straight = [
        (at(i + 1, j) - at(i, j), at(i, j + 1) - at(i, j)) for i, j in np.ndindex(x.shape[:2])
    ]
    corners = [
        (at(i, j) - at(i - 1, j - 1), at(i, j - 1) - at(i - 1, j))
        for i, j in np.ndindex(height + 1, width + 1)
    ]
    # Each mean is of one direction: a list holds two.
    return float(2 * (2 * np.mean(np.square(straight)) / 3 + 2 * np.mean(np.square(corners)) / 12))


REFERENCES = {
    "gram": (gram_matrix, (F,), F.reshape(-1, 6).T @ F.reshape(-1, 6)),
    "content sum": (lambda f, p: content_loss(f, p, "sum"), (F, P), ((F - P) ** 2).sum()),
    "content half-sum": (
        lambda f, p: content_loss(f, p, "half-sum"),
        (F, P),
        ((F - P) ** 2).sum() / 2,
    ),
    "content mean": (lambda f, p: content_loss(f, p, "mean"), (F, P), ((F - P) ** 2).mean()),
    "style seed": (lambda g, a: style_loss(g, a, "seed"), (G, A), ((G - A) ** 2).sum() / 36),
    "style gatys": (lambda g, a: style_loss(g, a, "gatys"), (G, A), ((G - A) ** 2).sum() / 144),
    "style mean": (lambda g, a: style_loss(g, a, "mean"), (G, A), (((G - A) / 6) ** 2).mean()),
    "tv seed": (lambda x: total_variation(x, "seed"), (X,), numpy_tv(X, "seed")),
    "tv l1": (lambda x: total_variation(x, "l1"), (X,), numpy_tv(X, "l1")),
    "tv l2": (lambda x: total_variation(x, "l2"), (X,), numpy_tv(X, "l2")),
    "tv nine-point": (lambda x: total_variation(x, "nine-point"), (X,), numpy_nine_point(X)),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_loss_equals_its_numpy_reference(name: str) -> None:
    function, arguments, expected = REFERENCES[name]
    found = function(*(jnp.asarray(a, jnp.float32) for a in arguments))
    assert found.dtype == jnp.float32
    assert_allclose(found, expected, rtol=2e-6, atol=2e-5)


@pytest.mark.parametrize("name", REFERENCES)
def test_gradient_equals_finite_differences(name: str, x64: None) -> None:
    function, arguments, _ = REFERENCES[name]

    def scalar(first: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(function(first, *map(jnp.asarray, arguments[1:])) / 100))

    first = jnp.asarray(arguments[0])
    direction = jnp.asarray(RNG.normal(size=first.shape))
    step = 1e-6
    difference = (scalar(first + step * direction) - scalar(first - step * direction)) / (2 * step)
    assert_allclose(jnp.vdot(jax.grad(scalar)(first), direction), difference, rtol=1e-5)


@pytest.mark.parametrize("name", REFERENCES)
def test_vmap_equals_a_loop(name: str) -> None:
    function, arguments, _ = REFERENCES[name]
    batch = [jnp.stack([jnp.asarray(a, jnp.float32) * k for k in (1, 2, 3)]) for a in arguments]
    loop = jnp.stack([function(*(b[i] for b in batch)) for i in range(3)])
    assert_allclose(jax.vmap(function)(*batch), loop, rtol=1e-6)


@pytest.mark.parametrize("name", [name for name in REFERENCES if not name.startswith("style")])
def test_sums_are_float32_for_bfloat16_features(name: str) -> None:
    function, arguments, _ = REFERENCES[name]
    rounded = [jnp.asarray(a, jnp.bfloat16) for a in arguments]
    exact = function(*(r.astype(jnp.float32) for r in rounded))
    found = function(*rounded)
    assert found.dtype == jnp.float32
    assert_allclose(found, exact, rtol=1e-6)


@pytest.mark.parametrize("normalization", ["seed", "gatys", "mean"])
def test_style_loss_of_the_widest_layer(normalization: str) -> None:
    gram = jnp.ones((512, 512))
    expected = {"seed": 512**2 / 36, "gatys": 0.25, "mean": 512.0**-2}[normalization]
    assert_allclose(style_loss(gram, 0 * gram, normalization), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["seed", "l1", "l2", "nine-point"])
def test_a_flat_image_has_no_variation_and_a_finite_gradient(kind: str) -> None:
    flat = jnp.full((5, 6, 3), 17.0)
    value, grad = jax.value_and_grad(lambda x: total_variation(x, kind))(flat)
    assert value == 0
    assert_allclose(grad, 0)
