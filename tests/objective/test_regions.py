"""Regions: which style goes where, and what of it reaches a layer."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxstyle import Guides, ImageError
from jaxstyle.network.vgg import VGG19
from jaxstyle.objective import Guide
from jaxstyle.objective.regions import assign, check_aspects, explain, layer_guides
from tests.objective.test_guides import BLACK, GRAY, RED, WHITE, bands


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


def test_one_region_everywhere_is_a_mistake() -> None:
    for styles in ([], [bands(RED)], [bands(WHITE)]):
        with pytest.raises(ImageError, match="the content guide is #ffffff everywhere"):
            assign(Guides.of(bands(WHITE), styles), [1.0])
    (region,) = assign(Guides.of(bands(WHITE), [bands(WHITE, RED)]), [1.0])
    assert (region.color, region.area) == (WHITE, 1)


def test_labels_that_differ_by_one_are_not_confused() -> None:
    labels, few = (np.array([each] * 8, np.uint8) for each in ([0, 1, 1, 2], [0, 0, 2, 2]))
    guides = Guides.of(labels.repeat(8, 1), [few.repeat(8, 1)])
    assert [(region.area, region.styles) for region in assign(guides, [1.0])] == [
        (0.25, ((0, 1.0),)),
        (0.25, ((0, 1.0),)),
    ]


def test_what_happens_is_explained() -> None:
    guides = Guides.of(bands(BLACK, GRAY, WHITE, WHITE))
    assert explain(guides, [0.5, 0.5], ["a.png", "b.png"]) == (
        "3 regions: #000000 25.0% as it is, #808080 25.0% in the style of a.png, "
        "#ffffff 50.0% in the style of b.png"
    )
    guides = Guides.of(bands(BLACK, WHITE), [bands(WHITE), bands(WHITE)])
    assert explain(guides, [0.5, 0.5], ["a.png", "b.png"]).endswith(
        "#000000 50.0% as it is, #ffffff 50.0% in the style of a.png and b.png"
    )


def test_what_does_not_go_together_is_refused() -> None:
    three = Guides.of(bands(BLACK, GRAY, WHITE))
    with pytest.raises(ImageError, match="has 3 regions, so give that many styles"):
        assign(three, [1.0])
    with pytest.raises(ImageError, match="1 style guide for 2 styles; give one for each"):
        assign(Guides.of(bands(BLACK, WHITE), [bands(WHITE)]), [0.5, 0.5])
    with pytest.raises(ImageError, match="no colour of the content guide is in a style guide"):
        assign(Guides.of(bands(BLACK, WHITE), [bands(RED)]), [1.0])
    with pytest.raises(ImageError, match="no region has a style with a positive weight"):
        assign(Guides.of(bands(BLACK, WHITE), [bands(WHITE), bands(RED)]), [0.0, 1.0])
    with pytest.raises(ImageError, match="the content guide is 24×12 and its picture 12×24"):
        check_aspects(three, (24, 12), [])


@pytest.mark.parametrize(
    ("guide", "picture", "fits"),
    [
        ((480, 640), (3000, 4000), True),
        ((481, 640), (3000, 4000), True),
        ((48, 64), (43, 64), False),
        ((300, 451), (43, 64), True),
        ((600, 900), (1200, 1840), False),
        ((1088, 1920), (1080, 1920), False),
        ((1000, 1000), (33, 32), True),
    ],
)
def test_a_guide_has_any_size_but_one_aspect_ratio(
    guide: tuple[int, int], picture: tuple[int, int], fits: bool
) -> None:
    half = np.arange(guide[1]) * np.ones((guide[0], 1)) > guide[1] / 2
    if fits:
        check_aspects(Guides.of(half, [half]), picture, [picture])
    else:
        for guides, content in ((Guides.of(half), picture), (Guides.of(half, [half]), guide)):
            with pytest.raises(ImageError, match="any size will do, but the aspect ratio"):
                check_aspects(guides, content, [picture])


def test_weights_reach_every_layer() -> None:
    ramp = np.repeat(np.linspace(0, 1, 64, dtype=np.float32)[None], 32, axis=0)
    guide = Guide.of(ramp)
    layers = ["relu1_1", "conv3_1"]
    dark, bright = (
        layer_guides(guide, c, (32, 64), VGG19, layers, "content")[0] for c in (BLACK, WHITE)
    )
    for layer in layers:
        # Both regions have half of the picture: together they weigh 2 at every position.
        assert_allclose(dark[layer] ** 2 + bright[layer] ** 2, 2, atol=0.02)
        assert_allclose(np.mean(bright[layer] ** 2), 1, rtol=1e-5)
        assert np.all(np.diff(bright[layer], axis=1) >= 0)


def test_guides_reach_every_layer() -> None:
    guide = Guide.of(bands(BLACK, WHITE, height=32, width=64), "g")
    guides, there = layer_guides(guide, WHITE, (32, 64), VGG19, ["relu1_1", "conv3_1"], "content")
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
        guides, there = layer_guides(
            guide, WHITE, (64, 64), VGG19, ["relu1_1", "relu5_1"], "content"
        )
    assert there == {"relu1_1": True, "relu5_1": False}
    assert not guides["relu5_1"].any()
    with pytest.raises(ImageError, match="too small for any layer"):
        layer_guides(guide, WHITE, (64, 64), VGG19, ["relu5_1"], "content")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer_guides(guide, BLACK, (64, 64), VGG19, ["relu1_1", "relu5_1"], "content")
