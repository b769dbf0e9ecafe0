"""Each option's effect, on the real weights."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxstyle import Config, Guides, build_objective, stylize, stylize_batch
from jaxstyle.imaging import color
from jaxstyle.imaging.arrays import Image
from jaxstyle.network.arrays import Params
from tests.conftest import SHALLOW, picture

pytestmark = pytest.mark.slow

# Of one size, so that tests of the same options share a program.
CONTENT, STYLES = picture(64, 64, 0), (picture(64, 64, 1), picture(64, 64, 3))
BASE = SHALLOW.replace(evaluations=12, tv_weight=0.0, convolution="direct")
# For what is true at any depth, two.
TWO_BLOCKS = BASE.replace(content_layers=("relu2_1",), style_layers=("relu1_1", "relu2_1"))


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
    neutral = config.replace(style_weights=(2.0, 2.0))
    same = stylize(CONTENT, STYLES, neutral, imagenet)
    np.testing.assert_array_equal(same.image, plain.image)
    alone = stylize(CONTENT, STYLES[1], config, imagenet)
    first = config.replace(style_weights=(0.0, 1.0))
    np.testing.assert_array_equal(stylize(CONTENT, STYLES, first, imagenet).image, alone.image)


def test_a_layer_that_weighs_more_is_met_better(imagenet: Params) -> None:
    plain = BASE.replace(style_layers=("relu1_1", "relu3_1"), content_weight=0.0)
    met = []
    for weights in ((1.0, 0.0), (0.0, 1.0)):
        config = plain.replace(style_layers=dict(zip(plain.style_layers, weights, strict=True)))
        met.append(
            distances(imagenet, stylize(CONTENT, STYLES[0], config, imagenet).image, plain)[0]
        )
    shallow, deep = met
    assert shallow[0] < 0.5 * deep[0]
    assert deep[1] < 0.5 * shallow[1]


def test_content_layer_weights_choose_what_is_kept(imagenet: Params) -> None:
    layers = ("relu1_2", "relu3_1")
    kept = []
    for weights in ((10.0, 1.0), (1.0, 10.0)):
        config = BASE.replace(content_layers=dict(zip(layers, weights, strict=True)))
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
        config = TWO_BLOCKS.replace(init="noise", style_weight=1e-3, **changes)
        image = stylize(CONTENT, STYLES[0], config, imagenet).image
        return float(np.mean(np.abs(np.diff(image, axis=0))))

    plain = roughness()
    for tv, weight in {"seed": 1.0, "l1": 30.0, "l2": 1.0, "nine-point": 1e5}.items():
        assert roughness(tv=tv, tv_weight=weight) < 0.5 * plain, tv


def chroma_distance(image: Image, other: Image) -> float:
    """Between histograms of Oklab's a and b: how much of one would have to become another bin."""
    bins = [np.linspace(-0.3, 0.3, 25)] * 2
    histograms = [
        np.histogram2d(*color.to_oklab(np.clip(each, 0, 1))[..., 1:].reshape(-1, 2).T, bins)[0]
        for each in (image, other)
    ]
    return float(np.abs(histograms[0] - histograms[1]).sum() / (2 * histograms[0].sum()))


@pytest.mark.parametrize(
    "changes",
    [
        {"preserve_color": "luminance"},
        {"preserve_color": "match"},
        {"preserve_color": "histogram"},
    ],
    ids=str,
)
def test_preserved_colours_are_nearer_to_the_contents(
    imagenet: Params, changes: dict[str, str]
) -> None:
    warm, cold = (
        picture * np.array(tint, np.float32)
        for picture, tint in ((CONTENT, (1, 0.6, 0.3)), (STYLES[1], (0.3, 0.5, 1)))
    )
    plain, kept = (
        stylize(warm, cold, BASE.replace(**each), imagenet).image for each in ({}, changes)
    )
    assert chroma_distance(kept, warm) < 0.8 * chroma_distance(plain, warm)


FREE = BASE.replace(content_weight=0.1)
HALVES = np.zeros((64, 64, 3), np.float32)
HALVES[:, 32:] = 1


def test_each_region_is_nearest_to_its_own_style(imagenet: Params) -> None:
    image = stylize(CONTENT, STYLES, FREE, imagenet, guides=Guides.of(HALVES)).image
    sides = [image[:, :32], image[:, 32:]]
    for side, own in zip(sides, (0, 1), strict=True):
        inner = CONTENT[:, :32]
        apart = [
            sum(
                float(value)
                for name, value in build_objective(imagenet, inner, style, FREE)(jnp.asarray(side))[
                    1
                ].items()
                if name.startswith("style/")
            )
            for style in STYLES
        ]
        assert apart[own] < 0.7 * apart[1 - own]


def test_a_region_without_style_keeps_the_content(imagenet: Params) -> None:
    image = stylize(CONTENT, STYLES[0], FREE, imagenet, guides=Guides.of(HALVES)).image
    moved = np.abs(image - CONTENT).mean(axis=(0, 2))
    assert moved[:16].mean() < 0.25 * moved[48:].mean()


def test_a_style_guide_says_which_part_of_the_style(imagenet: Params) -> None:
    two = np.concatenate([STYLES[0][:, :32], STYLES[1][:, :32]], axis=1)
    everywhere = np.ones((64, 64, 3), np.float32)
    found = []
    for side in (0, 1):
        guide = np.zeros((64, 64, 3), np.float32)
        guide[:, 32 * side : 32 * side + 32] = 1
        guides = Guides.of(everywhere, [guide])
        image = stylize(CONTENT, two, FREE, imagenet, guides=guides).image
        first, second = distances(imagenet, image, FREE).sum(axis=1)
        found.append(first / second)
    assert found[0] < 0.5 * found[1]


@pytest.mark.parametrize("statistic", ["covariance", "wasserstein", "sliced", "moments"])
def test_a_statistic_is_met(imagenet: Params, statistic: str) -> None:
    config = BASE.replace(style_statistics=(statistic,), content_weight=0.0)
    result = stylize(CONTENT, STYLES[0], config, imagenet)
    assert np.isfinite(result.image).all()
    assert result.loss < 0.5 * result.history[0].loss
    assert distances(imagenet, result.image)[0].sum() < distances(imagenet, CONTENT)[0].sum()


@pytest.mark.parametrize("statistic", ["gram", "covariance", "wasserstein", "sliced", "moments"])
def test_pictures_of_one_colour_break_nothing(imagenet: Params, statistic: str) -> None:
    flat = np.full((64, 64, 3), 0.4, np.float32)
    config = BASE.replace(style_statistics=(statistic,), evaluations=4)
    for content, style in ((flat, STYLES[0]), (CONTENT, flat), (flat, flat)):
        result = stylize(content, style, config, imagenet)
        assert np.isfinite([record.loss for record in result.history]).all()
        assert np.isfinite([record.gradient_norm for record in result.history]).all()
        assert np.isfinite(result.image).all()


def test_statistics_weights_choose(imagenet: Params) -> None:
    def met(*weights: float) -> float:
        kinds = ("moments", "gram")
        config = BASE.replace(
            style_statistics=dict(zip(kinds, weights, strict=True)), content_weight=0.0
        )
        image = jnp.asarray(stylize(CONTENT, STYLES[0], config, imagenet).image)
        losses = [
            build_objective(imagenet, CONTENT, STYLES[0], BASE.replace(style_statistics=(kind,)))(
                image
            )[0]
            for kind in kinds
        ]
        return float(losses[0] / losses[1])

    assert met(1.0, 0.0) < met(0.0, 1.0)


def wavelength(image: Image) -> float:
    """Of the strongest frequency along the picture's rows, in pixels."""
    power = np.mean(np.abs(np.fft.rfft(image.mean(axis=2), axis=1)) ** 2, axis=0)
    return image.shape[1] / (1 + int(power[1:].argmax()))


def test_features_follow_the_styles_scale(imagenet: Params) -> None:
    style = np.zeros((64, 64, 3), np.float32)
    style[:, np.arange(64) // 4 % 2 == 0] = 1  # stripes of 8 pixels
    config = BASE.replace(init="noise", content_weight=0.0, evaluations=60)
    found = {
        scale: stylize(CONTENT, style, config.replace(style_scale=scale), imagenet).image
        for scale in (0.5, 1.0, 2.0)
    }
    assert [wavelength(image) for image in found.values()] == pytest.approx([4, 8, 16], rel=0.2)
    by_size = stylize(CONTENT, style, config.replace(style_size=32), imagenet).image
    np.testing.assert_array_equal(by_size, found[0.5])


def test_neutral_settings_change_no_bit(imagenet: Params) -> None:
    config = BASE.replace(evaluations=3)
    plain = stylize(CONTENT, STYLES[0], config, imagenet).image
    neutral = config.replace(
        style_scale=1.0,
        style_size=64,
        preserve_color="none",
        style_statistics={"gram": 1.0},
    )
    same = stylize(CONTENT, STYLES[0], neutral, imagenet).image
    np.testing.assert_array_equal(same, plain)
    adam = config.replace(optimizer="adam")
    plain = stylize(CONTENT, STYLES[0], adam, imagenet).image
    neutral = adam.replace(learning_rate=0.02, learning_rate_schedule="constant", adam_beta2=0.999)
    np.testing.assert_array_equal(stylize(CONTENT, STYLES[0], neutral, imagenet).image, plain)


def test_a_cosine_and_a_mean_change_the_picture(imagenet: Params) -> None:
    adam = TWO_BLOCKS.replace(optimizer="adam", learning_rate=0.1, evaluations=20)
    plain = stylize(CONTENT, STYLES[0], adam, imagenet)
    falling = stylize(CONTENT, STYLES[0], adam.replace(learning_rate_schedule="cosine"), imagenet)

    assert [r.loss for r in falling.history] != [r.loss for r in plain.history]
    assert falling.loss < falling.history[0].loss
    mean = stylize(CONTENT, STYLES[0], adam.replace(ema=0.9), imagenet)
    assert [r.loss for r in mean.history] == [r.loss for r in plain.history]
    assert not np.array_equal(mean.image, plain.image)


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0)])
def test_a_style_of_all_the_weight_is_alone(imagenet: Params, weights: tuple[float, float]) -> None:
    config = FREE.replace(evaluations=3, style_weights=weights)
    guides = Guides.of(HALVES, [HALVES, HALVES])
    style = STYLES[weights.index(1.0)]
    for whole, alone in ((guides, Guides.of(HALVES, [HALVES])), (None, None)):
        single = stylize(CONTENT, style, FREE.replace(evaluations=3), imagenet, guides=alone)
        both = stylize(CONTENT, STYLES, config, imagenet, guides=whole)
        np.testing.assert_array_equal(both.image, single.image)


def test_batches_do_as_single_runs(small_params: Params) -> None:
    base = TWO_BLOCKS.replace(evaluations=3, content_weight=0.1)
    settings = [
        base.replace(preserve_color="luminance"),
        base.replace(preserve_color="match"),
        base.replace(style_statistics=("sliced", "moments"), style_scale=0.5),
        base.replace(optimizer="adam", ema=0.9, learning_rate_schedule="cosine"),
    ]
    guides = [None, Guides.of(HALVES), Guides.of(HALVES), Guides.of(HALVES)]
    batched = stylize_batch(CONTENT, STYLES[0], settings, small_params, guides=guides)
    for result, config, guide in zip(batched, settings, guides, strict=True):
        alone = stylize(CONTENT, STYLES[0], config, small_params, guides=guide)
        np.testing.assert_allclose(result.image, alone.image, atol=2e-3)
    two = stylize_batch(CONTENT, [STYLES], base, small_params, guides=guides[1])
    alone = stylize(CONTENT, STYLES, base, small_params, guides=guides[1])
    np.testing.assert_allclose(two[0].image, alone.image, atol=2e-3)
