"""Colours: Oklab's published values, and that matching matches."""

import numpy as np
from numpy.testing import assert_allclose

from jaxstyle import Config
from jaxstyle.imaging import color
from tests.conftest import picture


def test_oklab_is_the_published_one() -> None:
    # White and the primaries, as Ottosson's page and CSS Color 4 give them.
    rgb = np.array([[[1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]]], np.float32)
    published = [
        [1.0, 0.0, 0.0],
        [0.62796, 0.22486, 0.12585],
        [0.86644, -0.23389, 0.17950],
        [0.45201, -0.03246, -0.31153],
    ]
    assert_allclose(color.to_oklab(rgb)[0], published, atol=2e-5)


def test_there_and_back() -> None:
    image = picture(20, 30, 1)
    assert_allclose(color.from_oklab(color.to_oklab(image)), image, atol=1e-6)


def test_out_of_gamut_keeps_lightness_and_hue() -> None:
    lab = np.array([[[0.6, 0.5, 0.1], [0.3, -0.2, 0.3], [0.5, 0.01, 0.0]]])
    rgb = color.from_oklab(lab)
    assert rgb.min() >= 0
    assert rgb.max() <= 1
    back = color.to_oklab(rgb)
    assert_allclose(back[..., 0], lab[..., 0], atol=2e-3)
    hues = [np.arctan2(each[..., 2], each[..., 1]) for each in (back, lab)]
    assert_allclose(hues[0], hues[1], atol=0.02)
    chromas = [np.hypot(each[..., 1], each[..., 2]) for each in (back, lab)]
    assert (chromas[0][0, :2] < 0.9 * chromas[1][0, :2]).all()
    assert_allclose(chromas[0][0, 2], chromas[1][0, 2], rtol=1e-3)  # that one is in gamut


def test_moments_are_matched() -> None:
    style, content = (color.to_oklab(picture(30, 40, seed)) for seed in (1, 3))
    matched = color.match_moments(style, content)
    for statistic in (lambda x: x.mean(axis=0), lambda x: np.cov(x.T, bias=True)):
        wanted = statistic(content.reshape(-1, 3))
        assert_allclose(statistic(matched.reshape(-1, 3)), wanted, atol=1e-4)


def test_the_symmetric_root_moves_colours_least() -> None:
    style, content = (color.to_oklab(picture(30, 40, seed)) for seed in (1, 3))
    centred = style - style.mean(axis=(0, 1)) + content.mean(axis=(0, 1))
    first, second = (
        np.linalg.cholesky(np.cov(x.reshape(-1, 3).T, bias=True)) for x in (style, content)
    )
    means = [x.mean(axis=(0, 1)) for x in (style, content)]
    by_cholesky = (style - means[0]) @ (second @ np.linalg.inv(first)).T + means[1]
    symmetric, cholesky = (
        np.mean((matched - centred) ** 2)
        for matched in (color.match_moments(style, content), by_cholesky)
    )
    assert symmetric < cholesky


def test_histograms_are_matched() -> None:
    style, content = (color.to_oklab(picture(30, 40, seed)) for seed in (1, 3))
    matched = color.match_histograms(style, content)
    for channel in range(3):
        ours, wanted = (np.sort(each[..., channel].ravel()) for each in (matched, content))
        # Values that the style has often stay one value, so quantiles are met on average.
        assert np.mean(np.abs(ours - wanted)) < 0.05 * np.ptp(wanted)


def test_a_style_of_one_colour_gets_the_mean() -> None:
    flat, content = np.full((8, 8, 3), 0.5, np.float32), picture(8, 8, 1)
    wanted = color.to_oklab(content).mean(axis=(0, 1))
    for kind in ("match", "histogram"):
        found = color.colored_style(flat, content, Config(preserve_color=kind))
        assert np.isfinite(found).all()
        assert np.ptp(found.reshape(-1, 3), axis=0).max() < 1e-6
        assert_allclose(color.to_oklab(found)[0, 0], wanted, atol=0.1)


def test_only_lightness_is_transferred() -> None:
    content, image = picture(16, 16, 1), picture(16, 16, 3)
    config = Config(preserve_color="luminance")
    gray = color.colored_content(content, config)
    assert np.ptp(gray, axis=2).max() < 1e-5
    assert_allclose(color.to_oklab(gray)[..., 0], color.to_oklab(content)[..., 0], atol=1e-4)
    result = color.to_oklab(color.colored_result(image, content, config))
    light = color.to_oklab(np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2))[..., 0]
    assert_allclose(result[..., 0], light, atol=2e-3)


def test_without_asking_nothing_is_touched() -> None:
    content, style = picture(16, 16, 1), picture(16, 16, 3)
    assert color.colored_content(content, Config()) is content
    assert color.colored_style(style, content, Config()) is style
    assert color.colored_result(style, content, Config()) is style
