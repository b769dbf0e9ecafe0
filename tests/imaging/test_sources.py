"""Pictures as callers have them: files, Pillow images and arrays."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image as Pil

from jaxstyle import FileError, ImageError, load_image, save_image
from jaxstyle.imaging import as_several
from tests.conftest import pattern

LEVELS = pattern(24, 32, 0)
LEVELS[0, :2] = [[0], [255]]
IMAGE = LEVELS.astype(np.float32) / 255


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Pil.fromarray(LEVELS).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def test_a_picture_is_the_same_in_every_form(path: Path) -> None:
    forms = (path, str(path), Pil.fromarray(LEVELS), LEVELS, jnp.asarray(LEVELS))
    for given in (*forms, IMAGE):
        found = load_image(given)
        assert found.dtype == np.float32
        assert_array_equal(found, IMAGE)
        np.testing.assert_allclose(load_image(given, 16), load_image(path, 16), atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, jnp.bfloat16])
def test_floats_keep_their_type(dtype: type) -> None:
    array = IMAGE.astype(dtype)
    assert load_image(array) is array
    on_device = jnp.asarray(IMAGE)
    assert load_image(on_device) is on_device


def test_gray_becomes_colour(tmp_path: Path) -> None:
    for gray in (LEVELS[..., 0], LEVELS[..., :1], Pil.fromarray(LEVELS[..., 0])):
        assert_array_equal(load_image(gray), np.repeat(IMAGE[..., :1], 3, axis=2))
    assert load_image(IMAGE[..., 0].astype(np.float64)).dtype == np.float64


def test_an_image_of_pillows_is_treated_like_its_file(tmp_path: Path) -> None:
    turned = Pil.fromarray(LEVELS)
    turned.getexif()[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=turned.getexif(), quality=95)
    alpha = np.zeros(LEVELS.shape[:2], np.uint8)
    alpha[:9] = 255
    see_through = Pil.fromarray(np.dstack([LEVELS, alpha]))
    see_through.save(tmp_path / "alpha.png")
    deep = Pil.fromarray(LEVELS[..., 0].astype(np.uint16) * 100)
    deep.save(tmp_path / "deep.png")
    for name in ("turned.jpg", "alpha.png", "deep.png"):
        with Pil.open(tmp_path / name) as opened:
            size = opened.size
            assert_array_equal(load_image(opened), load_image(tmp_path / name))
            assert opened.size == size
            assert_array_equal(load_image(opened, 20), load_image(tmp_path / name, 20))


def test_images_that_were_optimized_are_pictures() -> None:
    load_image(IMAGE * 2.3 - 0.65)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (LEVELS.astype(np.float32), "values from 0 to 255, but floats are .* 0–1; divide by 255"),
        (IMAGE * 2 - 1, r"values from -1 to 1, but floats are sRGB in 0–1; scale them"),
        (IMAGE * 4.4 - 2.1, r"has values from -2\.1 to 2\.3, but .* scale them"),
        (np.where(IMAGE > 0.5, np.nan, IMAGE), "has values that are not finite"),
        (np.where(IMAGE > 0.5, np.inf, IMAGE), "has values that are not finite"),
        (LEVELS.astype(np.int64), "floating-point in 0–1 or uint8 in 0–255, not int64"),
        (LEVELS.astype(np.uint16), "floating-point in 0–1 or uint8 in 0–255, not uint16"),
        (LEVELS > 9, "floating-point in 0–1 or uint8 in 0–255, not bool"),
        (IMAGE[None], r"not \[1, 24, 32, 3\], a batch: take one picture of it, \[0\]"),
        (IMAGE.transpose(2, 0, 1), r"not \[3, 24, 32\], channels first: move them"),
        (LEVELS[..., [0, 1, 2, 2]], r"not \[24, 32, 4\], with alpha: leave that out, \[..., :3\]"),
        (IMAGE[..., :2], r"not \[24, 32, 2\]$"),
        (IMAGE[:0], r"not \[0, 32, 3\]$"),
        (np.float32(1), r"not \[\]$"),
        ([IMAGE], "the photo must be a path, a Pillow image or an array .*, not list"),
        (None, "not NoneType"),
        (b"photo.png", "not bytes"),
    ],
)
def test_what_is_no_picture_is_told(given: object, message: str) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        load_image(given, name="the photo")
    assert str(caught.value).startswith("the photo ")
    assert "\n" not in str(caught.value)


def test_tensors_of_other_libraries_are_arrays() -> None:
    class Tensor:
        """Has what PyTorch's has: a dtype that NumPy does not know."""

        dtype, shape = object(), IMAGE.shape

        def __init__(self, on: str) -> None:
            self.on = on

        def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
            if self.on != "cpu":
                raise TypeError("can't convert cuda tensor")
            return IMAGE

    assert_array_equal(load_image(Tensor("cpu")), IMAGE)
    with pytest.raises(ImageError, match=r"image cannot be converted .*can't convert cuda tensor"):
        load_image(Tensor("cuda"))


def test_a_missing_file_is_told() -> None:
    with pytest.raises(FileError, match=r"none\.png: no such file"):
        load_image("none.png")


def test_one_is_several(path: Path) -> None:
    for one in (path, str(path), Pil.fromarray(LEVELS), IMAGE, IMAGE[..., 0], jnp.asarray(IMAGE)):
        assert as_several(one) == (one,) or as_several(one)[0] is one
        assert as_several([one, one])[1] is one
    assert len(as_several(np.stack([IMAGE] * 4))) == 4


def test_levels_are_saved_as_they_are(tmp_path: Path) -> None:
    for suffix in (".png", ".tif"):
        save_image(tmp_path / f"a{suffix}", LEVELS)
        assert_array_equal(load_image(tmp_path / f"a{suffix}"), IMAGE)


@pytest.mark.parametrize("image", [LEVELS.astype(np.int64), LEVELS > 9, IMAGE[..., 0], IMAGE[None]])
def test_what_is_no_image_is_not_saved(image: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"an image is float or uint8 \[height, width, 3\], not"):
        save_image(tmp_path / "a.png", image)
    assert not list(tmp_path.iterdir())
