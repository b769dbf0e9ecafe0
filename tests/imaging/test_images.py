import io
import os
from pathlib import Path

import numpy as np
import png
import pytest
import tifffile
from PIL import ExifTags, Image as Pil, ImageCms

from jaxstyle import FileError, ImageError, JaxstyleError, load_image, save_image
from jaxstyle.imaging import files, images
from jaxstyle.imaging.images import glance, read_picture
from jaxstyle.imaging.resampling import nearest_shape, resize_image
from tests.conftest import pattern, picture


@pytest.fixture
def rgb() -> np.ndarray:
    return pattern(20, 30, 0)


def save(path: Path, array: np.ndarray, mode: str | None = None, **options: object) -> Path:
    image = Pil.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def test_png_is_read_exactly(tmp_path: Path, rgb: np.ndarray) -> None:
    image = load_image(save(tmp_path / "a.png", rgb))
    assert image.dtype == np.float32
    np.testing.assert_array_equal(np.rint(np.asarray(image) * 255), rgb)


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "LA", "RGBA", "PA"])
def test_every_mode_becomes_rgb(tmp_path: Path, rgb: np.ndarray, mode: str) -> None:
    suffix = "tif" if mode in ("CMYK", "PA") else "png"
    if mode == "PA":
        suffix, source = "png", Pil.fromarray(rgb).convert("P")
        source.info["transparency"] = 3
        source.save(tmp_path / "a.png", transparency=3)
    else:
        save(tmp_path / f"a.{suffix}", rgb, mode)
    expected = np.asarray(Pil.fromarray(rgb).convert(mode if mode != "PA" else "P").convert("RGB"))
    image = np.asarray(load_image(tmp_path / f"a.{suffix}"))
    assert image.shape == (20, 30, 3)
    assert image.dtype == np.float32
    if mode != "PA":
        np.testing.assert_allclose(image * 255, expected, atol=1e-4)


def test_sixteen_bit_gray_keeps_its_values(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 600).astype(np.uint16).reshape(20, 30)
    image = np.asarray(load_image(save(tmp_path / "a.png", values)))
    np.testing.assert_allclose(image, np.repeat(values[..., None] / 65535, 3, axis=2), atol=1e-6)


def test_float_tiff_is_read_as_gray(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 600).astype(np.float32).reshape(20, 30)
    image = np.asarray(load_image(save(tmp_path / "a.tif", values)))
    np.testing.assert_array_equal(image[..., 1], values)


def test_exif_orientation_is_applied(tmp_path: Path, rgb: np.ndarray) -> None:
    exif = Pil.Exif()
    exif[ExifTags.Base.Orientation] = 6  # the camera was turned: rotate by 90° clockwise
    path = save(tmp_path / "a.png", rgb, exif=exif)
    np.testing.assert_array_equal(np.rint(np.asarray(load_image(path)) * 255), np.rot90(rgb, k=-1))


def test_embedded_profile_is_converted_to_srgb(tmp_path: Path, rgb: np.ndarray) -> None:
    lab_white = ImageCms.createProfile("sRGB")
    same = ImageCms.ImageCmsProfile(lab_white).tobytes()
    path = save(tmp_path / "srgb.png", rgb, icc_profile=same)
    np.testing.assert_allclose(np.asarray(load_image(path)) * 255, rgb, atol=1.01)
    linear = save(tmp_path / "linear.tif", rgb, icc_profile=linear_rgb_profile())
    encoded = np.where(
        rgb / 255 <= 0.0031308, 12.92 * rgb / 255, 1.055 * (rgb / 255) ** (1 / 2.4) - 0.055
    )
    np.testing.assert_allclose(np.asarray(load_image(linear)), encoded, atol=0.02)


def linear_rgb_profile() -> bytes:
    """An sRGB profile whose curves are replaced by the identity (an ICC `curv` of length 0)."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(profile[128:132], "big")
    for tag in range(count):
        entry = 132 + 12 * tag
        if profile[entry : entry + 4] in (b"rTRC", b"gTRC", b"bTRC"):
            offset = int.from_bytes(profile[entry + 4 : entry + 8], "big")
            profile[offset : offset + 12] = b"curv" + bytes(8)
    return bytes(profile)


def test_a_broken_profile_is_left_aside(tmp_path: Path, rgb: np.ndarray) -> None:
    path = save(tmp_path / "a.png", rgb, icc_profile=b"not a profile at all")
    np.testing.assert_allclose(np.asarray(load_image(path)) * 255, rgb, atol=1e-4)


def test_a_gray_profile_is_applied_with_and_without_alpha(tmp_path: Path) -> None:
    profile = linear_gray_profile()
    for mode in ("L", "LA"):
        Pil.new(mode, (8, 8), 128 if mode == "L" else (128, 255)).save(
            tmp_path / "a.png", icc_profile=profile
        )
        np.testing.assert_allclose(np.asarray(load_image(tmp_path / "a.png")), 0.735, atol=0.01)


def linear_gray_profile() -> bytes:
    """The shortest ICC profile there is of linear grey: a white point and an identity curve."""
    xyz = b"XYZ " + bytes(4) + bytes.fromhex("0000f6d6000100000000d32d")
    curve = b"curv" + bytes(8)
    offset = 128 + 4 + 2 * 12
    tags = (2).to_bytes(4, "big")
    tags += b"wtpt" + offset.to_bytes(4, "big") + len(xyz).to_bytes(4, "big")
    tags += b"kTRC" + (offset + len(xyz)).to_bytes(4, "big") + len(curve).to_bytes(4, "big")
    size = offset + len(xyz) + len(curve)
    header = size.to_bytes(4, "big") + b"lcms" + bytes.fromhex("02400000") + b"mntrGRAYXYZ "
    header += bytes(12) + b"acsp" + bytes(28) + bytes.fromhex("0000f6d6000100000000d32d")
    return header.ljust(128, b"\0") + tags + xyz + curve


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_damaged_exif_is_left_aside(tmp_path: Path, rgb: np.ndarray, suffix: str) -> None:
    path = save(tmp_path / f"a.{suffix}", rgb, exif=b"garbage")
    assert load_image(path).shape == rgb.shape


@pytest.mark.parametrize("suffix", ["eps", "png"])
def test_formats_that_start_programs_are_not_opened(tmp_path: Path, suffix: str) -> None:
    Pil.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / f"b.{suffix}")
    with pytest.raises(ImageError, match="not an image that can be read"):
        load_image(tmp_path / f"b.{suffix}")


def test_tiffs_that_would_be_misread_are_refused_or_read(tmp_path: Path) -> None:
    values = (pattern(20, 30, 0).astype(np.uint16)) * 257
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.moveaxis(values, 2, 0), photometric="rgb", planarconfig="separate")
    with pytest.raises(ImageError, match="16-bit planar TIFF is not supported"):
        load_image(path)
    tifffile.imwrite(path, values[..., 0].astype(np.uint32))
    with pytest.raises(ImageError, match="32-bit integer TIFF is not supported"):
        load_image(path)
    tifffile.imwrite(path, values[..., 0].astype(np.float32))
    with pytest.raises(ImageError, match="a file of floats must hold values in 0–1"):
        load_image(path)
    tifffile.imwrite(path, values[..., 0], photometric="miniswhite")
    inverted = 1 - values[..., 0] / 65535
    np.testing.assert_allclose(np.asarray(load_image(path))[..., 0], inverted, atol=1e-6)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(FileError, match="not a file"):
        load_image(tmp_path / "pipe.png")
    with pytest.raises(FileError, match="neither a local file nor gs://"):
        load_image("https://example.org/a.png")


@pytest.mark.parametrize("size", [0, -5, 20.0, "banana", True])
def test_a_size_is_a_positive_integer(tmp_path: Path, rgb: np.ndarray, size: object) -> None:
    with pytest.raises(ImageError, match="size must be a whole number of at least 1"):
        load_image(save(tmp_path / "a.png", rgb), size)
    assert load_image(tmp_path / "a.png", np.int64(15)).shape == (10, 15, 3)


def test_a_size_that_makes_too_many_pixels_is_refused(tmp_path: Path, rgb: np.ndarray) -> None:
    with pytest.raises(ImageError, match="more than 134 megapixels are refused"):
        load_image(save(tmp_path / "a.png", rgb), 1_000_000)


def test_first_frame_of_an_animation(tmp_path: Path, rgb: np.ndarray) -> None:
    frames = [Pil.fromarray(rgb), Pil.fromarray(255 - rgb)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    with pytest.warns(UserWarning, match=r"a\.webp: only the first frame is used"):
        image = np.asarray(load_image(tmp_path / "a.webp"))
    np.testing.assert_allclose(image * 255, rgb, atol=1.01)


def test_alpha_is_kept_apart_and_put_back(tmp_path: Path, rgb: np.ndarray) -> None:
    alpha = np.zeros((20, 30, 1), np.uint8)
    alpha[:, 10:] = 128
    alpha[:, 20:] = 255
    path = save(tmp_path / "a.png", np.concatenate([rgb, alpha], axis=2))
    read = read_picture(path)
    assert read.alpha is not None
    np.testing.assert_array_equal(np.rint(read.alpha * 255), alpha[..., 0])
    pixels = np.asarray(read.pixels)
    np.testing.assert_array_equal(pixels[:, :10], np.ones((20, 10, 3)))
    np.testing.assert_array_equal(np.rint(pixels[:, 10:] * 255), rgb[:, 10:])
    save_image(tmp_path / "b.png", read.pixels, alpha=read.alpha)
    with Pil.open(tmp_path / "b.png") as back:
        np.testing.assert_array_equal(np.asarray(back)[:, 10:], np.asarray(Pil.open(path))[:, 10:])


def test_hidden_colour_does_not_bleed_when_resized(tmp_path: Path) -> None:
    rgba = np.zeros((40, 40, 4), np.uint8)
    rgba[:, :20] = (0, 255, 0, 0)  # invisible green beside opaque red
    rgba[:, 20:] = (255, 0, 0, 255)
    read = read_picture(save(tmp_path / "a.png", rgba), 10)
    assert read.alpha is not None
    visible = np.asarray(read.pixels)[read.alpha > 0.1]
    np.testing.assert_allclose(visible, np.broadcast_to([1.0, 0, 0], visible.shape), atol=0.02)


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [((20, 30), 15, (10, 15)), ((33, 7), 66, (66, 14)), ((1, 500), 10, (1, 10))],
)
def test_size_is_the_long_side(tmp_path: Path, shape: tuple, size: int, expected: tuple) -> None:
    path = save(tmp_path / "a.png", pattern(*shape, 0))
    assert load_image(path, size).shape[:2] == expected


def test_resizing_averages_what_it_drops() -> None:
    checks = np.indices((64, 64)).sum(axis=0) % 2
    image = np.repeat(checks[..., None], 3, axis=2).astype(np.float32)
    np.testing.assert_allclose(resize_image(image, (8, 8)), 0.5, atol=0.02)


def test_resizing_does_not_ring_out_of_range() -> None:
    edge = np.zeros((8, 8, 3), np.float32)
    edge[:, 4:] = 1
    larger = resize_image(edge, (64, 64))
    assert larger.min() >= 0
    assert larger.max() <= 1


def test_values_are_rounded_and_clipped(tmp_path: Path) -> None:
    values = np.array([-0.5, 0.0, 0.4981, 0.4999, 1.0, 1.5], np.float32)
    image = np.repeat(values.reshape(1, 6, 1), 3, axis=2)
    save_image(tmp_path / "a.png", image)
    with Pil.open(tmp_path / "a.png") as back:
        assert np.asarray(back)[0, :, 0].tolist() == [0, 0, 127, 127, 255, 255]


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_sixteen_bits_are_written(tmp_path: Path, suffix: str, channels: int) -> None:
    rng = np.random.default_rng(0)
    image = rng.uniform(0.1, 1, (9, 7, 4)).astype(np.float32)
    alpha = image[..., 3] if channels == 4 else None
    path = tmp_path / f"a.{suffix}"
    save_image(path, image[..., :3], alpha=alpha, bits=16, metadata='{"a": 1}')
    expected = np.rint(image[..., :channels] * 65535)
    if suffix == "png":
        width, height, rows, info = png.Reader(bytes=path.read_bytes()).read()
        found = np.vstack(list(map(np.asarray, rows))).reshape(height, width, channels)
        assert info["bitdepth"] == 16
        with Pil.open(path) as opened:
            assert opened.info["jaxstyle"] == '{"a": 1}'
    else:
        found = tifffile.imread(path)
        assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(np.asarray(load_image(path)), image[..., :3], atol=1 / 254)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_metadata_is_kept_and_the_picture_comes_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    image = picture(32, 48, 0)
    save_image(path, image, metadata="settings")
    with Pil.open(path) as opened:
        if suffix == "png":
            assert opened.info["jaxstyle"] == "settings"
        else:
            assert opened.getexif()[ExifTags.Base.ImageDescription] == "settings"
    np.testing.assert_allclose(np.asarray(load_image(path)), image, atol=0.1)


def test_jpeg_is_not_subsampled(tmp_path: Path) -> None:
    save_image(tmp_path / "a.jpg", picture(32, 48, 0))
    with Pil.open(tmp_path / "a.jpg") as opened:
        assert [layer[1:3] for layer in opened.layer] == [(1, 1)] * 3


def test_jpeg_shows_white_where_it_was_transparent(tmp_path: Path) -> None:
    black = np.zeros((16, 16, 3), np.float32)
    save_image(tmp_path / "a.jpg", black, alpha=np.zeros((16, 16), np.float32))
    np.testing.assert_allclose(np.asarray(load_image(tmp_path / "a.jpg")), 1, atol=0.01)


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for suffix in ("png", "tif", "jpg", "webp"):
        first, second = tmp_path / f"1.{suffix}", tmp_path / f"2.{suffix}"
        for path in (first, second):
            save_image(path, picture(16, 16, 0), metadata="m")
        assert first.read_bytes() == second.read_bytes()


def bad_files(folder: Path) -> dict[str, Path]:
    good = save(folder / "good.png", pattern(64, 64, 0)).read_bytes()
    jpeg = save(folder / "good.jpg", pattern(64, 64, 0)).read_bytes()
    contents = {
        "empty": b"",
        "text": b"hello, world",
        "cut.png": good[: len(good) // 2],
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "head": good[:20],
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "folder").mkdir()
    return {name: folder / name for name in [*contents, "missing", "folder"]}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "no such file"),
        ("empty", "the file is empty"),
        ("text", "not an image that can be read"),
        ("head", "not an image|damaged"),
        ("cut.png", "damaged or truncated"),
        ("cut.jpg", "damaged or truncated"),
        ("folder", "not a file"),
    ],
)
def test_unreadable_files_are_named_in_one_line(tmp_path: Path, name: str, message: str) -> None:
    path = bad_files(tmp_path)[name]
    with pytest.raises(JaxstyleError, match=message) as caught:
        load_image(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    # A PNG header that claims 60000×60000 pixels over an empty body.
    buffer = io.BytesIO()
    Pil.new("1", (1, 1)).save(buffer, "PNG")
    chunks = list(png.Reader(bytes=buffer.getvalue()).chunks())
    header = (60000).to_bytes(4, "big") * 2 + chunks[0][1][8:]
    with (tmp_path / "bomb.png").open("wb") as file:
        png.write_chunks(file, [(b"IHDR", header), *chunks[1:]])
    with pytest.raises(ImageError, match="megapixels are refused"):
        load_image(tmp_path / "bomb.png")


@pytest.mark.parametrize(
    ("name", "bits", "message"),
    [
        ("a.bmp", 8, "must end in .png, .tif, .tiff, .jpg, .jpeg or .webp"),
        ("noending", 8, "must end in"),
        ("a.jpg", 16, "only .png and .tif hold 16 bits"),
        ("nowhere/a.png", 8, "does not exist"),
        ("n" * 300 + ".png", 8, "File name too long"),
        ("folder.png", 8, "is a folder"),
    ],
)
def test_unwritable_outputs_are_found_early(
    tmp_path: Path, name: str, bits: int, message: str
) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(JaxstyleError, match=message):
        images.check_output(tmp_path / name, bits)


def test_a_side_that_the_format_cannot_hold_is_found_early(tmp_path: Path) -> None:
    images.check_output(tmp_path / "a.png", 8, (16, 17000))
    with pytest.raises(ImageError, match=r".webp holds at most 16383 pixels a side"):
        images.check_output(tmp_path / "a.webp", 8, (16, 17000))


def test_a_folder_without_permission_is_found_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(**_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("tempfile.TemporaryFile", denied)
    with pytest.raises(FileError, match="cannot write"):
        images.check_output(tmp_path / "a.png")
    for folder in (tmp_path, tmp_path / "new" / "one"):
        with pytest.raises(FileError, match="cannot write"):
            files.make_folder(folder)


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    save_image(tmp_path / "link.png", picture(8, 8, 0))
    assert (tmp_path / "link.png").is_symlink()
    assert load_image(tmp_path / "real.png").shape == (8, 8, 3)


def test_values_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    image = np.full((4, 4, 3), np.nan, np.float32)
    with pytest.raises(ImageError, match="not finite"):
        save_image(tmp_path / "a.png", image)
    assert list(tmp_path.iterdir()) == []


def test_only_our_own_leftovers_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        monkeypatch.setattr(Path, "unlink", killed)
        raise KilledError

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KilledError):
        files.write_atomically(tmp_path / "a.txt", b"new")
    monkeypatch.undo()
    (left,) = tmp_path.iterdir()
    (tmp_path / ".mine.tmp").touch()
    files.remove_leftovers(tmp_path, seconds=60)  # may be another process's
    assert left.exists()
    files.remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".mine.tmp"]
    files.remove_leftovers(tmp_path / "none")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_image(tmp_path / "a.png", picture(8, 8, 0))
    before = (tmp_path / "a.png").read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(FileError, match="No space left"):
        save_image(tmp_path / "a.png", picture(8, 8, 1))
    monkeypatch.undo()
    assert (tmp_path / "a.png").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_places_are_the_same_however_they_are_spelled(tmp_path: Path) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    path.touch()
    assert not files.same(path, other)
    other.symlink_to(path)
    assert files.same(path, other)
    other.unlink()
    other.hardlink_to(path)  # as another spelling is where names have no case
    assert files.same(path, other)
    assert files.same(tmp_path / "none" / ".." / "a", path)
    assert files.same("gs://bucket/a", "gs://bucket/./a")
    assert not files.same("gs://bucket/a", "gs://bucket/b")


def test_whatever_a_bucket_raises_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class HttpError(Exception):
        """What gcsfs raises is no OSError."""

    def failing(*_: object, **__: object) -> None:
        raise HttpError("Quota exceeded\n<html>")

    for name in ("read_bytes", "write_bytes", "mkdir"):
        monkeypatch.setattr(f"etils.epath.gpath._GPath.{name}", failing)
    monkeypatch.setattr("etils.epath.gpath._GPath.exists", lambda *_: True)
    for action in (
        files.read_bytes,
        files.make_folder,
        lambda path: files.write_atomically(path, b""),
    ):
        with pytest.raises(FileError, match=r"gs://bucket/a.* \(Quota exceeded <html>\)$"):
            action("gs://bucket/a")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_glance_sees_the_shape_that_is_read(
    suffix: str, orientation: int, tmp_path: Path
) -> None:
    exif = Pil.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"picture{suffix}"
    Pil.fromarray(pattern(20, 30, 0)).save(path, exif=exif)
    found = glance(path)
    read = read_picture(path)
    assert found.shape == read.pixels.shape[:2] == ((20, 30) if orientation < 5 else (30, 20))
    assert found.sha256 == read.sha256


def test_a_glance_refuses_what_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    for data, message in ((b"", "empty"), (b"text", "not an image")):
        path.write_bytes(data)
        with pytest.raises(ImageError, match=message):
            glance(path)
    Pil.new("1", (17000, 17000)).save(path)
    with pytest.raises(ImageError, match="megapixels"):
        glance(path)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((3000, 4000), (384, 512)),
        ((4000, 6000), (341, 512)),
        ((4016, 6016), (341, 512)),
        ((6000, 4000), (512, 341)),
        ((100, 100), (512, 512)),
        ((97, 100), (512, 512)),
        ((1080, 1920), (288, 512)),
        ((100, 900), (57, 512)),
        ((1, 9000), (1, 512)),
    ],
)
def test_the_nearest_common_shape(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    assert nearest_shape(shape, 512) == expected


def test_no_shape_is_cropped_by_much_and_few_are_left() -> None:
    shapes = set()
    for short in range(250, 1001):
        height, width = nearest_shape((short, 1000), 512)
        shapes.add((height, width))
        lost = 1 - min(height / width / (short / 1000), short / 1000 / (height / width))
        assert lost < 0.065
    assert len({shape for shape in shapes if shape[0] > 204}) <= 12


def test_the_middle_of_a_picture_fills_a_shape(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.linspace(0, 1, 60, dtype=np.float32)[None, :, None], (30, 60, 3))
    save_image(tmp_path / "ramp.png", ramp)
    found = read_picture(tmp_path / "ramp.png", (30, 30)).pixels
    assert found.shape == (30, 30, 3)
    np.testing.assert_allclose(found, ramp[:, 15:45], atol=1 / 255)
    tall = read_picture(tmp_path / "ramp.png", (40, 20)).pixels
    assert tall.shape == (40, 20, 3)
    assert 0.35 < tall.min() < 0.45
