"""Kinds of files that cameras, phones and programs make, each made small here."""

import io
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image as Pil, ImageCms, features

from jaxstyle import ImageError, load_image, save_image
from jaxstyle.imaging.formats import opened
from jaxstyle.imaging.images import glance, read_picture
from jaxstyle.imaging.resampling import middle_box, resize_image
from tests.conftest import pattern, picture

RGB = pattern(20, 30, 0)


def encoded(array: np.ndarray, name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Pil.fromarray(array).save(buffer, name, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("suffix", "tolerance"),
    [
        pytest.param(
            "avif",
            0.1,
            marks=pytest.mark.skipif(
                "avif" not in features.get_supported_modules(), reason="Pillow without AVIF"
            ),
        ),
        ("jp2", 0.1),
        ("tga", 0),
    ],
)
def test_formats_beside_the_common_ones(tmp_path: Path, suffix: str, tolerance: float) -> None:
    path = tmp_path / f"a.{suffix}"
    Pil.fromarray(RGB).save(path)
    assert glance(path).shape == (20, 30)
    assert np.abs(load_image(path) - RGB / 255).mean() <= tolerance / 2 + 1e-6


def test_heic_is_read_with_its_extra(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    path = tmp_path / "a.heic"
    exif = Pil.Exif()
    exif[0x0112] = 6
    smooth = pattern(40, 60, 0)
    pillow_heif.from_pillow(Pil.fromarray(smooth)).save(path, exif=exif.tobytes(), quality=95)
    found = load_image(path)
    assert glance(path).shape == found.shape[:2] == (60, 40)
    np.testing.assert_allclose(found, np.rot90(smooth, -1) / 255, atol=0.1)


def test_heic_without_its_extra_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    path = tmp_path / "a.heic"
    path.write_bytes(b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf")
    with pytest.raises(ImageError, match=r"a\.heic: HEIC needs pip install 'jaxstyle\[heif\]'"):
        load_image(path)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"8BPS\0\1", "a Photoshop document"),
        (b"%PDF-1.7", "PDF"),
        (b"\xff\x0a\xfa\x7f", "JPEG XL"),
        (b"v/1\x01\2\0\0\0", "OpenEXR"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0isommp42", "a video"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "a camera's raw file"),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "AVIF|damaged"),
    ],
)
def test_known_formats_that_are_not_read_are_named(tmp_path: Path, data: bytes, name: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(data)
    for read in (load_image, glance):
        with pytest.raises(ImageError, match=f"a.png: {name}") as caught:
            read(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3), (20, 30, 4)], ids=["gray", "rgb", "rgba"])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_a_tiff_of_floats(tmp_path: Path, shape: tuple, kind: type, planar: str) -> None:
    values = np.random.default_rng(0).uniform(size=shape).astype(kind)
    colors = {"photometric": "rgb", "planarconfig": planar} if len(shape) == 3 else {}
    options = {"extrasamples": ["unassalpha"]} if shape[2:] == (4,) else {}
    stored = np.moveaxis(values, 2, 0) if len(shape) == 3 and planar == "separate" else values
    tifffile.imwrite(tmp_path / "a.tif", stored, compression="zlib", **colors, **options)
    found = read_picture(tmp_path / "a.tif")
    expected = values[..., :3] if len(shape) == 3 else np.repeat(values[..., None], 3, axis=2)
    np.testing.assert_allclose(found.pixels, expected, atol=1e-6)
    assert glance(tmp_path / "a.tif").shape == (20, 30)
    if shape[2:] == (4,):
        np.testing.assert_allclose(found.alpha, values[..., 3], atol=1e-6)


@pytest.mark.parametrize(("letter", "channels"), [(b"f", 1), (b"F", 3)])
@pytest.mark.parametrize("order", ["<f4", ">f4"])
def test_a_portable_float_map(tmp_path: Path, letter: bytes, channels: int, order: str) -> None:
    values = np.random.default_rng(0).uniform(size=(4, 5, channels)).astype(np.float32)
    header = b"P%s\n5 4\n%s1.0\n" % (letter, b"-" if order == "<f4" else b"")
    data = header + values[::-1].astype(order).tobytes()
    path = tmp_path / "a.pfm"
    path.write_bytes(data)
    np.testing.assert_array_equal(load_image(path), np.repeat(values, 3 // channels, axis=2))
    assert glance(path).shape == (4, 5)
    path.write_bytes(data[:-4])
    with pytest.raises(ImageError, match="damaged or truncated"):
        load_image(path)
    path.write_bytes(header + (values * 2).tobytes())
    with pytest.raises(ImageError, match="must hold values in 0–1"):
        load_image(path)


def gray_tiff(values: np.ndarray, bits: int, white_is_zero: bool = False) -> bytes:
    """An uncompressed grey TIFF of packed values."""
    unpacked = (values[..., None] >> np.arange(bits)[::-1]) & 1
    rows = np.packbits(unpacked.reshape(len(values), -1).astype(np.uint8), axis=1).tobytes()
    height, width = values.shape
    tags = [
        (256, width),
        (257, height),
        (258, bits),
        (259, 1),
        (262, 0 if white_is_zero else 1),
        (273, 8 + 2 + 9 * 12 + 4),
        (277, 1),
        (278, height),
        (279, len(rows)),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + rows


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 10, 12, 14, 16])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_gray_of_any_depth_is_scaled_by_it_or_refused(
    tmp_path: Path, bits: int, white_is_zero: bool
) -> None:
    values = np.linspace(0, 2**bits - 1, 256).round().astype(np.int64).reshape(8, 32)
    path = tmp_path / "a.tif"
    path.write_bytes(gray_tiff(values, bits, white_is_zero))
    if bits in (10, 14) or (bits, white_is_zero) == (12, True):
        with pytest.raises(ImageError, match="TIFF of this kind"):
            load_image(path)
        return
    expected = values / (2**bits - 1)
    found = load_image(path)[..., 0]
    np.testing.assert_allclose(found, 1 - expected if white_is_zero else expected, atol=1e-6)


def test_signed_values_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8), np.int16))
    with pytest.raises(ImageError, match="16-bit signed TIFF is not supported"):
        load_image(tmp_path / "a.tif")


def test_a_raw_file_is_not_taken_for_its_preview(tmp_path: Path) -> None:
    tags = [(50706, "B", 4, (1, 4, 0, 0), True)]
    tifffile.imwrite(tmp_path / "a.dng", RGB, photometric="rgb", extratags=tags)
    with pytest.raises(ImageError, match="a camera's raw file"):
        load_image(tmp_path / "a.dng")


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_of_colour_are_read(tmp_path: Path, suffix: str) -> None:
    levels = np.random.default_rng(0).integers(1, 65536, (9, 7, 4))
    image = (levels / 65535).astype(np.float32)
    path = tmp_path / f"a.{suffix}"
    for alpha in (None, image[..., 3]):
        save_image(path, image[..., :3], alpha=alpha, bits=16)
        found = read_picture(path)
        np.testing.assert_array_equal(np.rint(found.pixels * 65535), levels[..., :3])
        if alpha is not None:
            np.testing.assert_array_equal(np.rint(found.alpha * 65535), levels[..., 3])


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bits_in_either_order(tmp_path: Path, order: str) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (9, 7, 3)).astype(np.uint16)
    for compression in (None, "zlib"):
        options = {"photometric": "rgb", "byteorder": order, "compression": compression}
        tifffile.imwrite(tmp_path / "a.tif", values, **options)
        np.testing.assert_array_equal(np.rint(load_image(tmp_path / "a.tif") * 65535), values)


def sixteen_bit_png(values: np.ndarray, chunk: bytes, body: bytes) -> bytes:
    """A 16-bit RGB PNG with one more chunk."""
    height, width, _ = values.shape
    rows = np.pad(values.astype(">u2").view(np.uint8).reshape(height, -1), ((0, 0), (1, 0)))
    chunks = [
        (b"IHDR", struct.pack(">2I5B", width, height, 16, 2, 0, 0, 0)),
        (chunk, body),
        (b"IDAT", zlib.compress(rows.tobytes())),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def test_sixteen_bits_with_a_profile_are_converted(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (9, 7, 3))
    path = tmp_path / "a.png"
    for profile, kept in ((srgb_profile(), True), (p3_profile(), False)):
        path.write_bytes(sixteen_bit_png(values, b"iCCP", b"profile\0\0" + zlib.compress(profile)))
        same = np.array_equal(np.rint(load_image(path) * 65535), values)
        assert same == kept


def test_a_transparent_colour_of_sixteen_bits(tmp_path: Path) -> None:
    values = np.full((4, 4, 3), 40000)
    values[:2] = 10000
    (tmp_path / "a.png").write_bytes(
        sixteen_bit_png(values, b"tRNS", struct.pack(">3H", 10000, 10000, 10000))
    )
    np.testing.assert_allclose(load_image(tmp_path / "a.png")[2:], 40000 / 65535, atol=1 / 255)


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def p3_profile() -> bytes:
    """Display P3: sRGB's profile with other primaries."""
    profile = bytearray(srgb_profile())
    primaries = {
        b"rXYZ": (0.51512, 0.2412, -0.00105),
        b"gXYZ": (0.29198, 0.69225, 0.04189),
        b"bXYZ": (0.1571, 0.06657, 0.78407),
    }
    for tag in range(int.from_bytes(profile[128:132], "big")):
        name, offset, _ = struct.unpack_from(">4sII", profile, 132 + 12 * tag)
        if name in primaries:
            fixed = [round(value * 65536) for value in primaries[name]]
            struct.pack_into(">3i", profile, offset + 8, *fixed)
    return bytes(profile)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_display_p3_becomes_srgb(tmp_path: Path, suffix: str) -> None:
    # The colour of P3 that sRGB calls (200, 100, 100).
    Pil.new("RGB", (8, 8), (187, 105, 102)).save(tmp_path / f"a.{suffix}", icc_profile=p3_profile())
    found = load_image(tmp_path / f"a.{suffix}")
    np.testing.assert_allclose(found[4, 4] * 255, (200, 100, 100), atol=3)


def noisy(height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(0).integers(-40, 41, (height, width, 3))
    return np.clip(pattern(height, width, 0) + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_a_jpeg_without_its_end_is_used(tmp_path: Path, options: dict) -> None:
    path = tmp_path / "a.jpg"
    data = encoded(noisy(640, 480), "JPEG", **options)
    path.write_bytes(data)
    whole = load_image(path)
    path.write_bytes(data[: int(len(data) * 0.97)])
    with pytest.warns(UserWarning, match=r"a\.jpg: the file ends early") as caught:
        found = load_image(path)
    assert "\n" not in str(caught[0].message)
    assert np.abs(found - whole)[:-40].mean() < 0.02


def test_a_jpeg_without_much_of_its_end_is_damaged(tmp_path: Path) -> None:
    data = encoded(noisy(640, 480), "JPEG")
    (tmp_path / "a.jpg").write_bytes(data[: int(len(data) * 0.8)])
    with pytest.raises(ImageError, match="damaged or truncated"):
        load_image(tmp_path / "a.jpg")


def test_a_gain_map_behind_the_picture_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    gain = Pil.new("L", (15, 10), 200)
    Pil.fromarray(RGB).save(path, "MPO", save_all=True, append_images=[gain], quality=95)
    found = load_image(path)
    np.testing.assert_allclose(found, RGB / 255, atol=0.12)
    path.write_bytes(path.read_bytes()[:-40])  # the gain map is cut
    np.testing.assert_array_equal(load_image(path), found)


@pytest.mark.parametrize("suffix", ["gif", "png", "tif"])
def test_only_the_first_frame_is_used(tmp_path: Path, suffix: str) -> None:
    frames = [Pil.new("RGB", (8, 8), color) for color in ("red", "blue", "green")]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    what = "page" if suffix == "tif" else "frame"
    with pytest.warns(UserWarning, match=f"a.{suffix}: only the first {what} is used"):
        found = load_image(tmp_path / f"a.{suffix}")
    np.testing.assert_allclose(found, np.broadcast_to([1, 0, 0], (8, 8, 3)), atol=0.01)


@pytest.mark.parametrize("size", [24, 40, (24, 24), (20, 40)])
@pytest.mark.parametrize("kind", ["jpg", "png", "alpha", "gray", *range(2, 9)])
def test_decoding_at_fewer_pixels_shows_nowhere(
    tmp_path: Path, size: object, kind: str | int
) -> None:
    smooth = Pil.fromarray(pattern(131, 200, 0)).resize((797, 521))
    noise = np.random.default_rng(0).integers(-15, 16, (521, 797, 3))
    pixels = np.clip(np.asarray(smooth) + noise, 0, 255).astype(np.uint8)
    path = tmp_path / ("a.png" if kind in ("png", "alpha") else "a.jpg")
    image = Pil.fromarray(pixels)
    exif = Pil.Exif()
    if kind == "alpha":
        image.putalpha(Pil.fromarray(pixels[..., 0]))
    if kind == "gray":
        image = image.convert("L")
    if isinstance(kind, int):
        exif[0x0112] = kind
    image.save(path, exif=exif, **({} if path.suffix == ".png" else {"quality": 95}))
    found = read_picture(path, size)
    whole = read_picture(path)
    color = whole.pixels if whole.alpha is None else whole.pixels * whole.alpha[..., None]
    box = middle_box(color.shape, size) if isinstance(size, tuple) else None
    expected = resize_image(color, found.pixels.shape, box)
    color = found.pixels if found.alpha is None else found.pixels * found.alpha[..., None]
    difference = np.abs(color - expected) * 255
    assert difference.mean() < 0.5
    assert difference[1:-1, 1:-1].max() < 4
    assert difference.max() < 8


def test_a_picture_of_two_hundred_megapixels_is_read_at_a_size(tmp_path: Path) -> None:
    Pil.new("L", (16384, 12288), 128).save(tmp_path / "a.jpg")
    assert glance(tmp_path / "a.jpg").shape == (12288, 16384)
    found = load_image(tmp_path / "a.jpg", 64)
    np.testing.assert_allclose(found, np.full((48, 64, 3), 128 / 255), atol=0.005)
    limit = Pil.MAX_IMAGE_PIXELS
    assert limit is not None  # left as it was


def test_a_small_picture_is_not_decoded_at_fewer_pixels(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", picture(64, 96, 0))
    whole = load_image(tmp_path / "a.png")
    np.testing.assert_array_equal(load_image(tmp_path / "a.png", 48), resize_image(whole, (32, 48)))


def test_damaged_tiffs_of_floats_are_refused_and_not_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((4, 6), np.float32), photometric="minisblack")
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        width = file.pages.first.tags["ImageWidth"].offset
        kind = file.pages.first.tags["XResolution"].offset + 2
    for at in (width + 8, kind):
        changed = data.copy()
        changed[at : at + 2] = b"\0\0"
        changed[width + 8 : width + 10] = b"\0\0"
        path.write_bytes(changed)
        with pytest.raises(ImageError, match=r"a\.tif: "):
            load_image(path)
    assert caplog.messages == []


def test_memory_that_runs_out_is_not_taken_for_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 1 GiB")

    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((4, 6, 3), np.float32), photometric="rgb")
    monkeypatch.setattr(tifffile.TiffPage, "asarray", read)
    with pytest.raises(ImageError, match="too many pixels for this machine's memory"):
        load_image(path)


def test_threads_that_decode_at_once_leave_the_warning_filters_as_they_were() -> None:
    data = encoded(np.zeros((2, 2, 3), np.uint8), "PNG")
    filters = list(warnings.filters)
    first_in, second_in, first_out = (threading.Event() for _ in range(3))

    def first() -> None:
        with opened("first.png", data):
            first_in.set()
            second_in.wait(0.2)  # for ever, if only one may be in
        first_out.set()

    thread = threading.Thread(target=first)
    thread.start()
    first_in.wait()
    with opened("second.png", data):
        second_in.set()
        first_out.wait()
    thread.join()
    assert list(warnings.filters) == filters
