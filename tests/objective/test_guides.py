"""Guides: what those who draw masks mean by them."""

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image as Pil, ImageDraw, ImageFilter

from jaxstyle import Guides, ImageError
from jaxstyle.objective import Guide
from jaxstyle.objective.guides import TRANSPARENT

BLACK, GRAY, WHITE, RED = (0.0, 0.0, 0.0), (0.5, 0.5, 0.5), (1.0, 1.0, 1.0), (1.0, 0.0, 0.0)
WIDTH, HEIGHT = 96, 72


def drawn(mode: str, ground: object, *disc_and_corner: object, scale: int = 1) -> Pil.Image:
    """A disc and, if a second colour is given, a corner."""
    picture = Pil.new(mode, (WIDTH * scale, HEIGHT * scale), ground)
    draw = ImageDraw.Draw(picture)
    boxes = [(24, 16, 80, 64), (0, 0, 30, 20)]
    for color, box, shape in zip(
        disc_and_corner, boxes, (draw.ellipse, draw.rectangle), strict=False
    ):
        shape([scale * side for side in box], fill=color)
    return picture


DISC = np.asarray(drawn("L", 0, 255)) > 0
CORNER = np.asarray(drawn("L", 0, 0, 255)) > 0
THREE = np.where(CORNER, 2, np.where(DISC, 1, 0))


def bands(*colors: tuple[float, ...], height: int = 12, width: int = 24) -> np.ndarray:
    """Vertical bands of equal width."""
    columns = np.array(colors, np.float32)[np.arange(width) * len(colors) // width]
    return np.broadcast_to(columns, (height, width, 3)).copy()


def with_palette(*colors: int) -> Pil.Image:
    picture = Pil.fromarray(THREE.astype(np.uint8)).convert("P")
    picture.putpalette(colors)
    return picture


def test_colours_are_ordered_from_dark_to_bright() -> None:
    guide = Guide.of(bands(WHITE, BLACK, RED))
    assert guide.palette == (BLACK, RED, WHITE)
    assert guide.levels[0].tolist() == [2] * 8 + [0] * 8 + [1] * 8
    assert guide.shares == (1 / 3, 1 / 3, 1 / 3)


@pytest.mark.parametrize(
    ("name", "picture"),
    [
        ("white.png", drawn("L", 0, 255)),
        ("bit.png", drawn("1", 0, 1)),
        ("bit.tif", drawn("1", 0, 1)),
        ("bit.pbm", drawn("1", 0, 1)),
        ("labels.png", drawn("L", 0, 1)),
        ("labels16.png", Pil.fromarray(DISC.astype(np.uint16))),
        ("labels16.tif", Pil.fromarray(DISC.astype(np.uint16))),
        ("white on transparent.png", drawn("RGBA", (0, 0, 0, 0), (255, 255, 255, 255))),
        ("white on transparent white.png", drawn("RGBA", (255, 255, 255, 0), (255,) * 4)),
        ("gray with alpha.png", drawn("LA", (255, 0), (255, 255))),
        ("palette.gif", drawn("P", 0, 1)),
    ],
)
def test_a_disc_is_a_disc(name: str, picture: Pil.Image, tmp_path: Path) -> None:
    if picture.mode == "P":
        picture.putpalette([0, 0, 0, 255, 255, 255])
    picture.save(tmp_path / name)
    for source in (str(tmp_path / name), picture):
        guide = Guide.of(source)
        assert guide.palette == (BLACK, WHITE)
        assert_array_equal(guide.weights(1), DISC)
        assert_array_equal(guide.weights(0), ~DISC)
        assert not guide.is_soft


@pytest.mark.parametrize(
    "array",
    [
        DISC,
        DISC.astype(np.uint8),
        DISC.astype(np.uint8) * 255,
        DISC.astype(np.int64),
        DISC.astype(np.float32),
        DISC[..., None],
        np.dstack([DISC] * 3).astype(np.float64),
        np.dstack([np.ones_like(DISC)] * 3 + [DISC]),
    ],
    ids=lambda array: f"{array.dtype}{list(array.shape)}",
)
def test_arrays_are_masks(array: np.ndarray) -> None:
    guide = Guides.of(array).content
    assert guide.palette == (BLACK, WHITE)
    assert_array_equal(guide.weights(1), DISC)


@pytest.mark.parametrize(
    ("picture", "names"),
    [
        (Pil.fromarray(THREE.astype(np.uint8)), ["#000000", "#010101", "#020202"]),
        (Pil.fromarray(THREE.astype(np.uint16)), ["#000000", "#010101", "#020202"]),
        (Pil.fromarray((THREE * 127).astype(np.uint8)), ["#000000", "#7f7f7f", "#fefefe"]),
        (with_palette(0, 0, 0, 128, 0, 0, 0, 128, 0), ["#000000", "#800000", "#008000"]),
        (with_palette(0, 0, 0, 1, 1, 1, 2, 2, 2), ["#000000", "#010101", "#020202"]),
        (
            drawn("RGBA", (0, 0, 0, 0), (255, 0, 0, 255), (255,) * 4),
            ["#000000", "#ff0000", "#ffffff"],
        ),
        (
            drawn("RGBA", (0, 0, 0, 0), (0, 0, 0, 255), (255,) * 4),
            ["transparent", "#000000", "#ffffff"],
        ),
    ],
)
def test_labels_and_colours_are_regions(picture: Pil.Image, names: list[str]) -> None:
    guide = Guide.of(picture)
    assert_array_equal(guide.levels, THREE)
    shares = [f"{np.mean(label == THREE):.1%}" for label in range(3)]
    named = ", ".join(" ".join(pair) for pair in zip(names, shares, strict=True))
    assert str(guide) == f"3 regions: {named}"


def test_black_on_transparent_is_apart_from_it() -> None:
    guide = Guide.of(drawn("RGBA", (0, 0, 0, 0), (0, 0, 0, 255)))
    assert guide.palette == (TRANSPARENT, BLACK)
    assert_array_equal(guide.weights(1), DISC)


def test_what_was_cut_out_is_a_region() -> None:
    colors = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    cut = Pil.fromarray(colors)
    cut.putalpha(drawn("L", 0, 255))
    assert_array_equal(Guide.of(cut).weights(1), DISC)


def test_a_picture_that_is_opaque_throughout_has_no_ground() -> None:
    picture = drawn("RGBA", (0, 0, 0, 255), (255,) * 4)
    assert Guide.of(picture).palette == (BLACK, WHITE)


@pytest.mark.parametrize("width", [64, 256, 2048])
def test_a_ramp_is_weights(width: int) -> None:
    ramp = np.repeat(np.linspace(0, 255, width).round()[None].astype(np.uint8), 48, axis=0)
    guide = Guide.of(Pil.fromarray(ramp))
    assert guide.palette == (BLACK, WHITE)
    assert guide.is_soft
    assert_allclose(guide.weights(1), ramp / 255, atol=0.02)
    assert_allclose(guide.weights(0) + guide.weights(1), 1, atol=1e-6)
    assert_allclose(guide.shares, (0.5, 0.5), atol=0.005)


@pytest.mark.parametrize("radius", [1, 5])
def test_feathered_edges_are_weights(radius: float, tmp_path: Path) -> None:
    gray = drawn("L", 0, 255).filter(ImageFilter.GaussianBlur(radius))
    alpha = Pil.new("RGBA", gray.size, "white")
    alpha.putalpha(gray)
    between = np.asarray(gray)[..., None] / 255
    colored = np.array([0.8, 0.1, 0.3]) * between + np.array([0, 0.5, 0.6]) * (1 - between)
    gray.save(tmp_path / "gray.jpg", quality=75)
    for source, ends in (
        (gray, (BLACK, WHITE)),
        (alpha, (BLACK, WHITE)),
        (str(tmp_path / "gray.jpg"), (BLACK, WHITE)),
        (np.float32(colored), None),
    ):
        guide = Guide.of(source)
        assert len(guide.palette) == 2
        assert ends is None or guide.palette == ends
        weights = guide.weights(0 if ends is None else 1)  # the second colour is darker
        assert np.abs(weights - between[..., 0]).max() < 0.1
        assert np.abs(weights - between[..., 0]).mean() < 0.01
        assert str(guide).startswith("2 regions with soft edges: ")


def test_smoothed_edges_of_a_few_levels_are_weights() -> None:
    smooth = bands(BLACK, WHITE, height=100, width=200)
    smooth[:, 95:105] = np.linspace(0, 1, 10)[:, None]
    guide = Guide.of(smooth)
    assert guide.palette == (BLACK, WHITE)
    assert_allclose(
        guide.weights(1)[:, 95:105], np.linspace(0, 1, 10) * np.ones((100, 1)), atol=0.01
    )


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_smoothed_labels_are_the_nearest(mode: str, ending: str, tmp_path: Path) -> None:
    colors = (0, 128, 255) if mode == "L" else ("navy", "red", "yellow")
    large = drawn(mode, *colors, scale=4).resize((WIDTH, HEIGHT), Pil.Resampling.LANCZOS)
    large.save(tmp_path / f"guide.{ending}")
    guide = Guide.of(tmp_path / f"guide.{ending}")
    assert len(guide.palette) == 3
    assert np.mean(guide.levels == THREE) > 0.96


def test_noise_makes_no_colour_rare() -> None:
    noisy = bands(RED, (0.1, 0.6, 0.2), (0.1, 0.1, 0.5), height=60, width=60)
    noisy += np.random.default_rng(0).integers(-5, 6, noisy.shape) / 255
    guide = Guide.of(np.clip(noisy, 0, 1))
    assert len(guide.palette) == 3
    assert guide.levels[0].tolist() == [1] * 20 + [2] * 20 + [0] * 20


def test_noise_of_compression_is_no_colour() -> None:
    noisy = bands(BLACK, WHITE, height=60, width=60)
    noisy += np.random.default_rng(0).integers(-3, 4, noisy.shape) / 255
    guide = Guide.of(np.clip(noisy, 0, 1))
    assert len(guide.palette) == 2
    assert not guide.is_soft


@pytest.mark.parametrize("grays", [(0, 1, 253, 254, 255), (0, 1, 255)])
def test_grays_that_compression_made_are_no_labels(grays: tuple[int, ...]) -> None:
    compressed = np.where(DISC, 255, 0).astype(np.uint8)
    for gray, (row, column) in zip(grays[1:-1], [(0, 0), (30, 40), (36, 40)], strict=False):
        compressed[row : row + 6, column : column + 6] = gray
    assert Guide.of(compressed).palette == (BLACK, WHITE)


def test_labels_have_a_void() -> None:
    guide = Guide.of(np.choose(THREE, [0, 1, 255]).astype(np.uint8))
    assert guide.palette == (BLACK, (1 / 255,) * 3, WHITE)
    assert_array_equal(guide.levels, THREE)


def test_thin_lines_are_a_region() -> None:
    scribble = Pil.new("L", (WIDTH * 4, HEIGHT * 4), 0)
    ImageDraw.Draw(scribble).line([(10, 10), (300, 200), (40, 250)], fill=255, width=6)
    guide = Guide.of(scribble.resize((WIDTH, HEIGHT), Pil.Resampling.BOX))
    assert guide.palette == (BLACK, WHITE)


@pytest.mark.parametrize(
    ("picture", "count"),
    [
        (np.random.default_rng(0).uniform(size=(40, 40, 3)), 1600),
        (np.arange(20, dtype=np.uint8).repeat(8) * np.ones((40, 1), np.uint8), 20),
    ],
    ids=["noise", "20 labels"],
)
def test_what_is_no_guide_is_refused(picture: np.ndarray, count: int) -> None:
    with pytest.raises(ImageError, match=rf"the guide g\.png has {count} colours; a guide has"):
        Guide.of(picture, "g.png")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((2, 4, 4, 3)), r"of the content must be an array .* not \[2, 4, 4, 3\], a batch"),
        (np.zeros((3, 8, 8)), r"not \[3, 8, 8\], channels first: move them"),
        (np.full((8, 8), 255.0), "of the content must have floats in 0–1, or labels as integers"),
        (np.full((8, 8), -1), "has values from -1 to -1; labels are in 0–65535"),
        ([1, 2], "must be a path, a Pillow image or an array .* not list"),
    ],
)
def test_other_things_are_refused(source: object, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        Guides.of(source)


def test_guides_say_what_was_understood() -> None:
    guides = Guides.of(DISC, [bands(BLACK, WHITE), bands(WHITE)])
    share = DISC.mean()
    assert str(guides) == (
        f"content: 2 regions: #000000 {1 - share:.1%}, #ffffff {share:.1%}\n"
        "style 1: 2 regions: #000000 50.0%, #ffffff 50.0%\n"
        "style 2: 1 region: #ffffff 100.0%"
    )


def test_the_middle_is_cropped() -> None:
    guide = Guide.of(bands(BLACK, WHITE)).cropped((12, 12))
    assert_array_equal(guide.weights(1)[0], [0] * 6 + [1] * 6)
