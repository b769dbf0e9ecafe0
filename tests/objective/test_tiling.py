"""Tiles give what the whole picture gives: features, targets, losses, gradients."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxstyle import Config, ConfigError, Guides, build_objective, stylize, stylize_batch
from jaxstyle.config.settings import Padding
from jaxstyle.imaging.arrays import Image
from jaxstyle.network.arrays import Params
from jaxstyle.network.extractors import extract
from jaxstyle.network.vgg import VGG19
from jaxstyle.objective.objective import Objective
from jaxstyle.objective.targets import check_settings
from jaxstyle.objective.tiling import _windows, tile
from tests.conftest import SHALLOW, picture, random_params

# Odd in every way that pooling can be: 16 divides neither side, nor does 2.
CONTENT, STYLE = picture(203, 171, 0), picture(187, 234, 1)


def test_tiles_cover_a_picture_once() -> None:
    for shape in ((203, 171), (64, 64), (16, 500), (1000, 33)):
        for side in (16, 48, 100, 512):
            tiles = tile(VGG19, shape, side, ("relu4_1",))
            counts = np.zeros(shape, int)
            for (top, left), (y0, y1, x0, x1) in zip(tiles.starts, tiles.tiles, strict=True):
                counts[y0:y1, x0:x1] += 1
                assert 0 <= top <= y0
                assert y1 <= top + tiles.window[0] <= shape[0]
                assert 0 <= left <= x0
                assert x1 <= left + tiles.window[1] <= shape[1]
                assert top % 8 == left % 8 == 0
            assert (counts == 1).all()


def test_windows_are_cut_where_tiles_start() -> None:
    for shape in ((203, 171), (48, 64), (16, 500)):
        for side in (16, 32, 100):
            tiles = tile(VGG19, shape, side, ("relu4_1",))
            image, (height, width) = picture(*shape, 0), tiles.window
            expected = [image[y : y + height, x : x + width] for y, x in tiles.starts]
            assert_array_equal(_windows(jnp.asarray(image), tiles), expected)


def test_a_window_sees_all_that_a_tile_depends_on(small_params: Params) -> None:
    """The radius that is reserved is the network's, not more than rounding asks for."""
    for layer in ("relu2_2", "relu3_1", "relu4_1"):
        (top, _), (y0, _, _, _) = (each[2] for each in tile(VGG19, (480, 16), 96, (layer,))[1:])
        halvings = int(layer[4]) - 1

        def first_own(
            image: jax.Array, row: int, halvings: int = halvings, layer: str = layer
        ) -> jax.Array:
            (features,) = extract(VGG19, (layer,), small_params, image).values()
            return jnp.sum(features[row >> halvings])

        slope = jax.grad(first_own)(jnp.asarray(picture(480, 16, 3)), y0)
        reached = np.flatnonzero(np.abs(np.asarray(slope)).max(axis=(1, 2)))[0]
        assert y0 - 2**halvings * 2 >= top
        assert 0 <= reached - top < 2**halvings


def evaluated(objective: Objective, image: Image) -> tuple[float, dict[str, float], np.ndarray]:
    found = jax.jit(jax.value_and_grad(objective, has_aux=True))(jnp.asarray(image))
    (loss, terms), grad = jax.device_get(found)
    return loss, terms, grad


def assert_tiles_change_nothing(
    params: Params, config: Config, guides: Guides | None = None
) -> None:
    image = 0.7 * CONTENT + 0.3 * picture(203, 171, 5)
    whole = build_objective(params, CONTENT, STYLE, config, guides)
    tiled = build_objective(
        params, CONTENT, STYLE, config.replace(activations="tiled", tile=64), guides
    )
    assert tiled.tiles is not None
    assert len(tiled.tiles.tiles) > 4
    for layer, target in whole.content_targets.items():
        assert_allclose(tiled.content_targets[layer], target, rtol=1e-5, atol=1e-5)
    (loss, terms, grad), (tiled_loss, tiled_terms, tiled_grad) = (
        evaluated(objective, image) for objective in (whole, tiled)
    )
    assert_allclose(tiled_loss, loss, rtol=1e-5)
    for name, term in terms.items():
        assert_allclose(tiled_terms[name], term, rtol=1e-4, atol=1e-6 * loss)
    assert np.linalg.norm(tiled_grad - grad) < 1e-4 * np.linalg.norm(grad)


@pytest.mark.slow
def test_every_statistic(small_params: Params) -> None:
    kinds = ("gram", "covariance", "wasserstein", "moments")
    assert_tiles_change_nothing(small_params, SHALLOW.replace(style_statistics=kinds))


@pytest.mark.parametrize(
    "padding",
    [
        "reflect",
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("zero", "replicate-first")),
    ],
)
def test_every_border(small_params: Params, padding: Padding) -> None:
    config = SHALLOW.replace(padding=padding, pooling="average")
    assert_tiles_change_nothing(small_params, config)


@pytest.mark.slow
def test_deepest_layers_and_other_normalizations(small_params: Params) -> None:
    config = Config(
        content_layers=(VGG19.layers[-1], "conv3_2"),
        style_normalization="seed",
        content_normalization="sum",
        style_statistics=("gram", "moments"),
        convolution="direct",
    )
    assert_tiles_change_nothing(small_params, config)


@pytest.mark.slow
def test_regions(small_params: Params) -> None:
    guide = np.zeros((203, 171, 3), np.float32)
    guide[:90, 40:] = 1
    config = SHALLOW.replace(style_statistics=("wasserstein",))
    assert_tiles_change_nothing(small_params, config, Guides.of(guide))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_in_float64_nothing_is_left(small_params: Params) -> None:
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), small_params)
    config = SHALLOW.replace(style_statistics=("wasserstein",), convolution="direct")
    image = np.asarray(picture(203, 171, 5), np.float64)
    gradients = [
        evaluated(build_objective(params, np.float64(CONTENT), np.float64(STYLE), each), image)[2]
        for each in (config, config.replace(tile=48, activations="tiled"))
    ]
    assert_allclose(gradients[1], gradients[0], rtol=1e-9, atol=1e-9 * np.abs(gradients[0]).max())


@pytest.mark.slow
def test_a_tiled_gradient_needs_less_memory() -> None:
    params = random_params((32, 32, 8, 8, 8))

    def needed(**settings: Any) -> int:
        config = Config(
            content_layers=("relu2_2",), style_layers=("relu1_1", "relu2_1"), **settings
        )
        objective = build_objective(params, picture(512, 512, 0), picture(64, 64, 1), config)
        gradient = jax.jit(jax.grad(objective, has_aux=True))
        usage = gradient.lower(jnp.zeros((512, 512, 3))).compile().memory_analysis()
        assert usage is not None
        return usage.temp_size_in_bytes

    assert needed(activations="tiled", tile=128) < 0.3 * needed()


@pytest.mark.slow
def test_runs_are_the_same(small_params: Params) -> None:
    config = SHALLOW.replace(evaluations=3, size=96)
    tiled = config.replace(tile=32)
    run = functools.partial(stylize, CONTENT, STYLE, params=small_params)
    whole, cut = run(config), run(tiled)
    assert_allclose([r.loss for r in cut.history], [r.loss for r in whole.history], rtol=1e-3)
    (lane,) = stylize_batch(CONTENT, STYLE, tiled, small_params)
    assert_allclose(lane.image, cut.image, atol=2e-3)


def test_a_tile_that_is_given_is_used(small_params: Params) -> None:
    objective = build_objective(small_params, CONTENT, STYLE, SHALLOW.replace(tile=64))
    assert objective.activations == "tiled"


def test_sliced_is_refused() -> None:
    with pytest.raises(ConfigError, match="sliced needs whole layers"):
        check_settings(Config(style_statistics=("sliced",), tile=512))
    with pytest.raises(ConfigError, match="tile has no meaning"):
        Config(activations="kept", tile=512)
