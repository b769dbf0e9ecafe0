"""Each option's effect, on the real weights."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxstyle import Config, build_objective, stylize
from jaxstyle.types import Image, Params
from tests.conftest import picture

CONTENT, STYLES = picture(64, 64, 0), (picture(64, 64, 1), picture(64, 64, 3))
BASE = Config(evaluations=12, tv_weight=0.0, convolution="direct")


def distances(params: Params, image: Image, config: Config = BASE) -> np.ndarray:
    """The style loss of `image` to either of the styles, a layer a column."""
    rows = []
    for style in STYLES:
        _, terms = build_objective(params, CONTENT, style, config)(jnp.asarray(image))
        rows.append([terms[f"style/{layer}"] for layer in config.style_layers])
    return np.array(rows)


@pytest.mark.parametrize("blend", ["statistics", "loss"])
def test_style_weights_move_the_image_towards_a_style(imagenet: Params, blend: str) -> None:
    shares = []
    for weights in ((0.9, 0.1), (0.1, 0.9)):
        config = BASE.replace(style_weights=weights, style_blend=blend)
        first, second = distances(imagenet, stylize(CONTENT, STYLES, config, imagenet).image).sum(
            axis=1
        )
        shares.append(first / (first + second))
    assert shares[0] < shares[1] - 0.2


def test_equal_style_weights_change_no_bit(imagenet: Params) -> None:
    config = BASE.replace(evaluations=4)
    plain = stylize(CONTENT, STYLES, config, imagenet)
    neutral = config.replace(
        style_weights=(2.0, 2.0), content_layer_weights=(1.0,), style_layer_weights=(1.0,) * 5
    )
    same = stylize(CONTENT, STYLES, neutral, imagenet)
    np.testing.assert_array_equal(same.image, plain.image)
    alone = stylize(CONTENT, STYLES[1], config, imagenet)
    first = config.replace(style_weights=(0.0, 1.0))
    np.testing.assert_array_equal(stylize(CONTENT, STYLES, first, imagenet).image, alone.image)


def test_a_layer_that_weighs_more_is_met_better(imagenet: Params) -> None:
    plain = BASE.replace(style_layers=("relu1_1", "relu4_1"), content_weight=0.0)
    met = []
    for weights in ((1.0, 0.0), (0.0, 1.0)):
        config = plain.replace(style_layer_weights=weights)
        met.append(
            distances(imagenet, stylize(CONTENT, STYLES[0], config, imagenet).image, plain)[0]
        )
    shallow, deep = met
    assert shallow[0] < 0.5 * deep[0]
    assert deep[1] < 0.5 * shallow[1]


def test_content_layer_weights_choose_what_is_kept(imagenet: Params) -> None:
    layers = ("relu1_2", "relu4_2")
    kept = []
    for weights in ((10.0, 1.0), (1.0, 10.0)):
        config = BASE.replace(content_layers=layers, content_layer_weights=weights)
        image = stylize(CONTENT, STYLES[0], config, imagenet).image
        terms = [
            build_objective(imagenet, CONTENT, STYLES[0], BASE.replace(content_layers=(layer,)))(
                jnp.asarray(image)
            )[1]["content"]
            for layer in layers
        ]
        kept.append(float(terms[0] / terms[1]))
    assert kept[0] < kept[1]


def test_total_variation_smooths(imagenet: Params) -> None:
    def roughness(**changes: object) -> float:
        config = BASE.replace(init="noise", style_weight=1e-3, **changes)
        image = stylize(CONTENT, STYLES[0], config, imagenet).image
        return float(np.mean(np.abs(np.diff(image, axis=0))))

    plain = roughness()
    for tv, weight in {"seed": 1.0, "l1": 30.0, "l2": 1.0, "nine-point": 1e5}.items():
        assert roughness(tv=tv, tv_weight=weight) < 0.5 * plain, tv
