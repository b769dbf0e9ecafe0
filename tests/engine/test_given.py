"""Pictures in every form give the same run; what is no picture is told."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image as Pil

from jaxstyle import (
    Config,
    ConfigError,
    FileError,
    Guides,
    ImageError,
    Result,
    WeightsError,
    build_objective,
    extract_features,
    stylize,
    stylize_batch,
)
from jaxstyle.network.arrays import Params
from tests.conftest import SHALLOW, evaluate, pattern

CONTENT, STYLE = pattern(48, 64, 0), pattern(40, 36, 1)
QUICK = SHALLOW.replace(evaluations=2, style_weight=1e6, size=32)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    Pil.fromarray(CONTENT).save(tmp_path / "content.png")
    Pil.fromarray(STYLE).save(tmp_path / "style.png")
    return [tmp_path / "content.png", tmp_path / "style.png"]


def floats(picture: np.ndarray) -> np.ndarray:
    return picture.astype(np.float32) / 255


def test_pictures_in_every_form_give_the_same_run(paths: list[Path], small_params: Params) -> None:
    expected = stylize(floats(CONTENT), floats(STYLE), QUICK, small_params).image
    for content, style in (
        paths,
        map(str, paths),
        (CONTENT, STYLE),
        (Pil.fromarray(CONTENT), [Pil.fromarray(STYLE)]),
        (CONTENT, STYLE[None]),
    ):
        assert_array_equal(stylize(content, style, QUICK, small_params).image, expected)


def test_batches_take_every_form_and_load_each_once(
    paths: list[Path], small_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jaxstyle.imaging import images

    read: list[object] = []
    read_picture = images.read_picture

    def spy(path: object, *rest: object) -> object:
        read.append(path)
        return read_picture(path, *rest)

    monkeypatch.setattr(images, "read_picture", spy)
    content, style = paths
    forms = [content, Pil.fromarray(CONTENT), CONTENT, floats(CONTENT)]
    found = stylize_batch(forms, str(style), QUICK, small_params)
    assert read == [content, str(style)]
    for result in found:
        assert isinstance(result, Result)
        np.testing.assert_allclose(result.image, found[0].image, atol=1e-5)
    # Each of these styles is a temporary array: none may be taken for another.
    styles = [np.stack([pattern(40, 36, seed)]) for seed in range(4)]
    found = stylize_batch(content, styles, QUICK, small_params)
    assert len({each.loss for each in found}) == 4
    alone = stylize_batch(str(content), STYLE, QUICK, small_params)
    assert alone[0].loss == pytest.approx(found[1].loss, rel=1e-4)


def test_an_objective_takes_every_form(paths: list[Path], small_params: Params) -> None:
    image = floats(pattern(48, 64, 2))
    found = [
        evaluate(build_objective(small_params, *pictures, QUICK), image)[0][0]
        for pictures in (paths, (CONTENT, STYLE), (floats(CONTENT), floats(STYLE)))
    ]
    assert found[0] == found[1] == found[2]


def test_a_mistake_is_told_before_anything_runs(paths: list[Path], small_params: Params) -> None:
    for content, style, error, message in (
        (CONTENT.astype(np.float32), STYLE, ImageError, "content has values from .* divide by 255"),
        (CONTENT, floats(STYLE).transpose(2, 0, 1), ImageError, "style .* channels first"),
        (CONTENT[None], STYLE, ImageError, "content .* a batch.* stylize_batch takes several"),
        (paths[0], paths[0].with_name("none.png"), FileError, "none.png: no such file"),
    ):
        with pytest.raises(error, match=message):
            stylize(content, style, QUICK, small_params)
    contents = [CONTENT * 1.0, paths[0].with_name("none.png"), paths[0]]
    found = stylize_batch(contents, paths[1], QUICK, small_params)
    assert [type(each) for each in found] == [ImageError, FileError, Result]


def test_guides_are_files_too(paths: list[Path], small_params: Params) -> None:
    mask = np.arange(64) * np.ones((48, 1)) > 20
    Pil.fromarray(mask).save(paths[0].with_name("mask.png"))
    path = paths[0].with_name("mask.png")
    expected = stylize(CONTENT, STYLE, QUICK, small_params, guides=Guides.of(mask))
    assert not np.array_equal(expected.image, stylize(CONTENT, STYLE, QUICK, small_params).image)
    for given in (mask, path, Guides.of(path)):
        found = stylize(CONTENT, STYLE, QUICK, small_params, guides=given)
        assert_array_equal(found.image, expected.image)
    for guides in (mask, [mask, path], Guides.of(path), [path, Guides.of(mask)]):
        batched = stylize_batch([CONTENT, CONTENT], STYLE, QUICK, small_params, guides=guides)
        for each in batched:
            assert each.loss == pytest.approx(expected.loss, rel=1e-4)
    (bad, none, _) = stylize_batch(
        CONTENT, STYLE, QUICK, small_params, guides=[mask[:9], None, mask > 2]
    )
    assert isinstance(bad, ImageError)
    assert isinstance(none, Result)


@pytest.mark.parametrize("given", [Config, {"size": 32}, None])
def test_what_are_no_settings_is_told(given: Any, small_params: Params) -> None:
    for run, config in ((stylize, given), (stylize_batch, [QUICK, given])):
        with pytest.raises(ConfigError, match=r"^config must be a Config or the name of a "):
            run(CONTENT, STYLE, config, small_params)


def test_weights_that_are_a_path_are_told(small_params: Params) -> None:
    given = CONTENT, STYLE
    for call in (
        lambda: stylize(*given, SHALLOW, "vgg19.safetensors"),  # pyright: ignore[reportArgumentType]
        lambda: stylize_batch(*given, SHALLOW, "vgg19.safetensors"),  # pyright: ignore[reportArgumentType]
        lambda: build_objective("vgg19.safetensors", *given, SHALLOW),  # pyright: ignore[reportArgumentType]
    ):
        with pytest.raises(WeightsError, match=r"not a path: load_weights\('vgg19.safetensors'\)"):
            call()
    with pytest.raises(ConfigError, match="config must be a Config, not <class"):
        build_objective(small_params, *given, Config)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="layers must be a list of names, not 'relu1_1'"):
        extract_features(small_params, given[0], "relu1_1")
    objective = build_objective(small_params, *given, SHALLOW)
    with pytest.raises(ImageError, match="must be floating-point, sRGB in 0–1, not uint8"):
        objective(np.zeros((48, 64, 3), np.uint8))  # pyright: ignore[reportArgumentType]
