"""Guides: what is one, which style goes where, and what of it reaches a layer."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxstyle import Guides, ImageError
from jaxstyle.objective.regions import Guide, assign, check_shape, layer_guides

BLACK, GRAY, WHITE, RED = (0.0, 0.0, 0.0), (0.5, 0.5, 0.5), (1.0, 1.0, 1.0), (1.0, 0.0, 0.0)


def bands(*colors: tuple[float, ...], height: int = 12, width: int = 24) -> np.ndarray:
    """Vertical bands of equal width."""
    columns = np.array(colors, np.float32)[np.arange(width) * len(colors) // width]
    return np.broadcast_to(columns, (height, width, 3)).copy()


def test_colours_are_ordered_from_dark_to_bright() -> None:
    guide = Guide.of(bands(WHITE, BLACK, RED), "g")
    assert guide.palette == (BLACK, RED, WHITE)
    assert guide.labels[0].tolist() == [2] * 8 + [0] * 8 + [1] * 8


def test_smoothed_edges_belong_to_a_side() -> None:
    smooth = bands(BLACK, WHITE, height=100, width=200)
    smooth[:, 95:105] = np.linspace(0, 1, 10)[:, None]
    smooth[:50, 95:105] *= 0.97  # so that there are more colours than a guide may have
    guide = Guide.of(smooth, "g")
    assert guide.palette == (BLACK, WHITE)
    assert guide.labels[0].tolist() == [0] * 100 + [1] * 100


def test_noise_of_compression_is_no_colour() -> None:
    noisy = bands(BLACK, WHITE, height=60, width=60)
    noisy += np.random.default_rng(0).integers(-3, 4, noisy.shape) / 255
    assert len(Guide.of(np.clip(noisy, 0, 1), "g").palette) == 2


@pytest.mark.parametrize(
    "picture",
    [
        np.random.default_rng(0).uniform(size=(40, 40, 3)),
        np.repeat(np.linspace(0, 1, 256)[None, :, None], 3, axis=2).repeat(8, axis=0),
    ],
    ids=["noise", "ramp"],
)
def test_a_photograph_is_no_guide(picture: np.ndarray) -> None:
    with pytest.raises(ImageError, match=r"the guide g\.png has \d+ colours; a guide is"):
        Guide.of(picture, "g.png")


def test_styles_go_to_regions_in_order() -> None:
    guides = Guides.of(bands(WHITE, BLACK, GRAY, GRAY))
    found = [(region.color[0], region.area, region.styles) for region in assign(guides, [0.2] * 3)]
    assert [each[1:] for each in found] == [
        (0.25, ((0, 1.0),)),
        (0.5, ((1, 1.0),)),
        (0.25, ((2, 1.0),)),
    ]
    kept = assign(guides, [0.9, 0.1])
    assert [region.styles for region in kept] == [((0, 1.0),), ((1, 1.0),)]
    assert kept[0].area == 0.5  # the darkest has none


def test_a_style_of_no_weight_keeps_its_region() -> None:
    (region,) = assign(Guides.of(bands(BLACK, WHITE)), [0.0, 1.0])
    assert region.color == WHITE
    assert region.styles == ((1, 1.0),)


def test_styles_with_guides_go_where_their_colours_are() -> None:
    guides = Guides.of(bands(BLACK, RED, WHITE), [bands(RED, WHITE), bands(WHITE, GRAY)])
    red, white = assign(guides, [0.75, 0.25])
    assert (red.color, red.styles) == (RED, ((0, 1.0),))
    assert (white.color, white.styles) == (WHITE, ((0, 0.75), (1, 0.25)))


def test_one_region_everywhere_is_no_region() -> None:
    for styles in ([], [bands(RED)]):
        (region,) = assign(Guides.of(bands(WHITE), styles), [1.0])
        assert region.color is None


def test_what_does_not_go_together_is_refused() -> None:
    three = Guides.of(bands(BLACK, GRAY, WHITE))
    with pytest.raises(ImageError, match="has 3 regions, so give that many styles"):
        assign(three, [1.0])
    with pytest.raises(ImageError, match="as many as styles, 2, not 1"):
        assign(Guides.of(bands(BLACK, WHITE), [bands(WHITE)]), [0.5, 0.5])
    with pytest.raises(ImageError, match="no colour of the content guide is in a style guide"):
        assign(Guides.of(bands(BLACK, WHITE), [bands(RED)]), [1.0])
    with pytest.raises(ImageError, match="the content guide is 24×12 and its picture 12×24"):
        check_shape(three.content, (24, 12), "content")
    check_shape(three.content, (13, 24), "content")


def test_guides_reach_every_layer() -> None:
    guide = Guide.of(bands(BLACK, WHITE, height=32, width=64), "g")
    guides, there = layer_guides(guide, WHITE, (32, 64), ["relu1_1", "conv3_1"], "content")
    assert there == {"relu1_1": True, "conv3_1": True}
    assert guides["relu1_1"].shape == (32, 64)
    assert guides["conv3_1"].shape == (8, 16)
    for each in guides.values():
        assert_allclose(np.mean(each**2), 1, rtol=1e-6)
        half = each.shape[1] // 2
        assert not each[:, :half].any()
        assert_allclose(each[:, half:], np.sqrt(2), rtol=1e-6)


def test_a_region_that_vanishes_is_reported() -> None:
    small = bands(BLACK, BLACK, height=64, width=64)
    small[:4, :4] = WHITE
    guide = Guide.of(small, "g")
    with pytest.warns(UserWarning, match="#ffffff of the content guide vanishes at relu5_1"):
        guides, there = layer_guides(guide, WHITE, (64, 64), ["relu1_1", "relu5_1"], "content")
    assert there == {"relu1_1": True, "relu5_1": False}
    assert not guides["relu5_1"].any()
    with pytest.raises(ImageError, match="too small for any layer"):
        layer_guides(guide, WHITE, (64, 64), ["relu5_1"], "content")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer_guides(guide, BLACK, (64, 64), ["relu1_1", "relu5_1"], "content")
