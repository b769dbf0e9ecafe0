"""`optimize` takes any objective, any parameters and any optax transformation."""

import dataclasses
import io
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental.layout import Format, Layout
from numpy.testing import assert_allclose
from PIL import Image as Pil

from jaxstyle import (
    LBFGS,
    Guides,
    ImageError,
    JaxstyleError,
    Record,
    build_objective,
    lbfgs,
    optimize,
    stylize,
)
from jaxstyle.engine.layout import _ordered
from jaxstyle.network.arrays import Params
from tests.conftest import SHALLOW, picture

STYLE, START = picture(24, 24, 1), picture(20, 28, 0)


def grams(image: jax.Array) -> list[jax.Array]:
    """Gram matrices of a random network of three layers, in plain JAX."""
    x, found = image[None], []
    for key, width in zip(jax.random.split(jax.random.key(0), 3), (8, 12, 16), strict=True):
        kernel = jax.random.normal(key, (3, 3, x.shape[-1], width)) / np.sqrt(9 * x.shape[-1])
        dimensions = ("NHWC", "HWIO", "NHWC")
        convolved = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=dimensions
        )
        x = jax.nn.relu(convolved)
        features = x.reshape(-1, width)
        found.append(features.T @ features / len(features))
    return found


WANTED = grams(jnp.asarray(STYLE))


def gram_loss(image: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    losses = [jnp.sum(jnp.square(a - b)) for a, b in zip(grams(image), WANTED, strict=True)]
    terms = {f"layer {number}": loss for number, loss in enumerate(losses, 1)}
    return sum(losses, jnp.zeros(())), terms


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adam(0.02),
        optax.lion(0.01),
        optax.contrib.schedule_free_adamw(0.05),
        optax.lbfgs(),
        optax.chain(
            optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(0.05, 30))
        ),
        optax.inject_hyperparams(optax.adam)(learning_rate=0.02),
        lbfgs(),
    ],
    ids=["adam", "lion", "schedule-free", "optax-lbfgs", "chain", "injected", "lbfgs"],
)
def test_any_loss_under_any_transformation(optimizer: Any) -> None:
    result = optimize(gram_loss, START, optimizer, 30)
    assert result.loss < 0.5 * result.history[0].loss
    loss, terms = gram_loss(jnp.asarray(result.image))
    assert_allclose(loss, result.loss, rtol=1e-3)
    assert set(result.terms) == set(terms)
    assert_allclose(sum(result.terms.values()), result.loss, rtol=1e-5)
    assert (result.convolution, result.activations) == (None, None)


def test_the_parameters_of_a_network_and_a_loss_without_terms() -> None:
    model = nn.Sequential([nn.Dense(16), nn.tanh, nn.Dense(1)])
    x = jnp.linspace(-2, 2, 64)[:, None]
    start = model.init(jax.random.key(0), x)

    def loss(params: Any) -> jax.Array:
        return jnp.mean(jnp.square(model.apply(params, x) - jnp.sin(2 * x)))

    result = optimize(loss, start, lbfgs(10), 200)
    assert result.loss < 1e-2 * result.history[0].loss
    assert result.terms == {}
    assert jax.tree.structure(result.image) == jax.tree.structure(start)
    assert_allclose(loss(result.image), result.loss, rtol=1e-4)
    assert "49 parameters" in repr(result)
    assert result._repr_png_() is None
    # What was given is still there.
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(start))


def test_callbacks_and_ends() -> None:
    seen: list[Record] = []

    def callback(record: Record) -> bool:
        seen.append(record)
        return record.evaluation == 3

    result = optimize(gram_loss, START, optax.sgd(1e-3), 10, callback)
    assert (result.reason, len(seen), result.evaluations) == ("stopped", 3, 4)
    assert optimize(lambda x: jnp.sum((x - 1) ** 2), jnp.zeros(3)).reason == "converged"
    assert optimize(lambda x: jnp.sum(jnp.log(x)), -jnp.ones(3)).reason == "not finite"


def square(image: Any) -> jax.Array:
    return jnp.sum(jnp.square(image - 1))


ZEROS = jnp.zeros(3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, ZEROS), "objective must be a function of an image, not 3"),
        (("loss", ZEROS), "objective must be a function of an image, not 'loss'"),
        ((ZEROS, ZEROS), "objective must be a function of an image, not Array([0., 0., 0.], dtype"),
        ((lambda x: x, ZEROS), "objective's loss must be a number, not float32[3]"),
        (
            (lambda x: (x, {}), ZEROS),
            "objective's loss must be a number, not float32[3]",
        ),
        ((lambda _: None, ZEROS), "objective's loss must be a number, not None"),
        (
            (lambda _: jnp.int32(3), ZEROS),
            "objective's loss must be a floating-point number, not int32[]",
        ),
        (
            (lambda x: (x[0], x[1], x[2]), ZEROS),
            "objective must return a loss, or a loss and a dic",
        ),
        (
            (lambda x: (x[0], [x[1]]), ZEROS),
            "objective must return a loss, or a loss and a dictiona",
        ),
        (
            (lambda x: (x[0], {"a": x}), ZEROS),
            "objective's term a must be a number, not float32[3]",
        ),
        ((lambda x: (x[0], {"a": "b"}), ZEROS), "objective's term a must be a number, not 'b'"),
        (
            (lambda x: (x[0], {"a": x[0] * 1j}), ZEROS),
            "objective's term a must be a number, not complex64[]",
        ),
        ((square, jax.random.key(0)), "image must be floating-point, not key<fry>"),
        ((square, np.array([1.0, np.inf])), "image has values that are not finite"),
        ((square, np.zeros(3, np.uint8)), "image must be floating-point, not uint8"),
        ((square, {"a": ZEROS, "b": 1}), "image must be floating-point, not int64"),
        ((square, "cat.jpg"), "image must be an array or a pytree of arrays, not 'cat.jpg'"),
        ((square, None), "image must be an array or a pytree of arrays, not None"),
        ((square, jnp.zeros((0, 3))), "image has an array without values: float32[0, 3]"),
        ((square, ZEROS.at[1].set(jnp.nan)), "image has values that are not finite"),
        ((square, ZEROS, "lbfgs"), "optimizer must be an optax transformation, such as lbfgs() or"),
        ((square, ZEROS, LBFGS()), "optimizer must be an optax transformation, such as lbfgs() or"),
        ((square, ZEROS, optax.adam), "optax.adam(0.02), not the function adam"),
        ((square, ZEROS, LBFGS), "optax.adam(0.02), not the class LBFGS"),
        ((square, ZEROS, lbfgs(), 0), "steps must be a whole number of at least 1, not 0"),
        ((square, ZEROS, lbfgs(), 2.5), "steps must be a whole number of at least 1, not 2.5"),
    ],
)
def test_a_mistake_is_one_line(arguments: Any, message: str) -> None:
    with pytest.raises(JaxstyleError) as caught:
        optimize(*arguments)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


def test_terms_may_be_counts_and_truths() -> None:
    def counted(image: Any) -> Any:
        return square(image), {"small": jnp.sum(image < 1), "any": jnp.any(image < 1), "two": 2}

    result = optimize(counted, ZEROS, optax.sgd(0.1), 2)
    assert result.terms == {"small": 3.0, "any": 1.0, "two": 2.0}


def test_an_objective_fails_with_its_own_error() -> None:
    with pytest.raises(TypeError, match="incompatible shapes"):
        optimize(lambda x: jnp.sum(x - jnp.zeros(4)), ZEROS)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((24, 32), "image must be an array [height, width, 3], not [24, 32]"),
        ((24, 32, 4), "image must be an array [height, width, 3], not [24, 32, 4]"),
        ((1, 24, 32, 3), "image must be an array [height, width, 3], not [1, 24, 32, 3]"),
        ((2, 2, 3), "image of 2×2 pixels is too small"),
        ((32, 32, 3), "the objective was built for images of 32×24, not 32×32"),
    ],
)
@pytest.mark.parametrize("guided", [False, True])
def test_an_image_that_does_not_fit_the_objective(
    small_params: Params, shape: tuple[int, ...], message: str, guided: bool
) -> None:
    content, config, guides = picture(24, 32, 0), SHALLOW, None
    if guided:
        config = SHALLOW.replace(content_layers=())
        guides = Guides.of(np.arange(32)[None] < np.full((24, 1), 16))
    objective = build_objective(small_params, content, STYLE, config, guides=guides)
    with pytest.raises(ImageError, match=re.escape(message)):
        optimize(objective, np.zeros(shape, np.float32), steps=2)


ALONE: dict[str, Any] = {"content_layers": ()}


@pytest.mark.parametrize(
    "changes",
    [
        {"content_layers": ("relu4_1",), "tile": 16},
        {"content_layers": ("relu4_1",)},
        ALONE | {"tile": 16},
        ALONE | {"style_statistics": ("sliced",)},
        ALONE | {"style_shape": "content"},
    ],
    ids=["tiles", "coarse", "tiles of styles", "sliced", "stretched"],
)
def test_an_objective_takes_no_image_of_another_size(small_params: Params, changes: dict) -> None:
    config = SHALLOW.replace(**changes)
    objective = build_objective(small_params, picture(24, 32, 0), STYLE, config)
    # A deep layer has as many rows of 31 pixels as of 24.
    other = picture(31, 32, 0)
    message = "the objective was built for images of 32×24, not 32×31"
    with pytest.raises(ImageError, match=message):
        optimize(objective, other, steps=2)
    with pytest.raises(ImageError, match=message):
        objective(jnp.asarray(other))


def test_an_objective_that_knows_no_size_takes_any(small_params: Params) -> None:
    config = SHALLOW.replace(content_layers=(), style_weight=1.0)
    objective = build_objective(small_params, picture(24, 32, 0), STYLE, config)
    assert optimize(objective, picture(31, 32, 0), steps=2).image.shape == (31, 32, 3)


def test_an_objective_that_is_a_pytree_is_compiled_once(small_params: Params) -> None:
    from jaxstyle.engine import layout

    config = SHALLOW.replace(style_weight=1.0)
    first, second = (
        build_objective(small_params, picture(24, 32, seed), STYLE, config) for seed in (0, 2)
    )
    optimizer = lbfgs(5)
    optimize(first, picture(24, 32, 0), optimizer, 2)
    before = layout._compiled.cache_info().misses
    optimize(second, picture(24, 32, 0), optimizer, 2)
    assert layout._compiled.cache_info().misses == before


def test_a_result_shows_itself(small_params: Params) -> None:
    config = SHALLOW.replace(evaluations=3, style_weight=1.0)
    result = stylize(picture(24, 32, 0), STYLE, config, small_params)
    text = repr(result)
    assert text.startswith("Result(32×24, loss ")
    assert "style/relu1_1" in text
    assert text.endswith("budget)")
    assert len(text) < 300
    shown = result._repr_png_()
    assert shown is not None
    with Pil.open(io.BytesIO(shown)) as opened:
        assert opened.size == (32, 24)
        assert_allclose(np.asarray(opened) / 255, np.clip(result.image, 0, 1), atol=0.5 / 255)


def test_shared_parameters_are_copied_only_into_another_order() -> None:
    matrix = jnp.arange(15.0).reshape(3, 5)
    assert _ordered(matrix, matrix.format) is matrix
    ordered = _ordered(matrix, Format(Layout((1, 0)), matrix.sharding))
    assert ordered.format.layout.major_to_minor == (1, 0)
    np.testing.assert_array_equal(ordered, matrix)


def test_levels_are_clipped_and_rounded(small_params: Params) -> None:
    result = stylize(picture(24, 32, 0), STYLE, SHALLOW.replace(evaluations=1), small_params)
    image = np.full((2, 2, 3), 0.5, np.float32)
    image[0] = [[-0.65, 1.65, 254.9 / 255], [0, 1, 0.4 / 255]]
    levels = dataclasses.replace(result, image=image).to_uint8()
    assert levels.dtype == np.uint8
    assert levels[0].tolist() == [[0, 255, 255], [0, 255, 0]]
