"""Preservation of the content's colours, in Oklab.

After Gatys et al. 2016, Preserving Color in Neural Artistic Style Transfer. Oklab (Ottosson 2020)
separates lightness from hue and chroma. All functions work on NumPy float arrays. Colours outside
the sRGB gamut keep their lightness and hue and lose as little chroma as possible.
"""

import numpy as np
from jaxtyping import Bool, Float

from jaxstyle.config import Config
from jaxstyle.imaging.arrays import Image
from jaxstyle.imaging.resampling import resize_image

Lab = Float[np.ndarray, "_h _w 3"]
"""Oklab values: lightness in 0–1 and two opponent colours within about ±0.4."""

_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
_HALVINGS = 16
_SLACK = 1e-4
_FLOOR = 1e-6
"""Variance below which a colour direction counts as constant."""


def to_oklab(image: Image) -> Lab:
    """Convert an sRGB image to Oklab; the transfer curve is extended beyond 0–1."""
    encoded = np.asarray(image, np.float64)
    magnitude = np.abs(encoded)
    linear = np.where(magnitude <= 0.04045, magnitude / 12.92, ((magnitude + 0.055) / 1.055) ** 2.4)
    return np.cbrt((np.sign(encoded) * linear) @ _TO_LMS.T) @ _TO_LAB.T


def from_oklab(lab: Lab) -> Image:
    """Convert Oklab to sRGB in 0–1; colours outside the gamut keep their lightness and hue."""
    light = np.clip(lab[..., :1], 0, 1)

    def with_chroma(factor: Float[np.ndarray, "h w 1"]) -> Float[np.ndarray, "h w 3"]:
        return _unclipped(np.concatenate([light, factor * lab[..., 1:]], axis=2))

    low, high = np.zeros_like(light), np.ones_like(light)
    rgb = with_chroma(high)
    inside = _in_gamut(rgb)
    if not inside.all():
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            fits = _in_gamut(with_chroma(middle))
            low, high = np.where(fits, middle, low), np.where(fits, high, middle)
        rgb = with_chroma(np.where(inside, 1.0, low))
    return np.clip(rgb, 0, 1).astype(np.float32)


def _unclipped(lab: Lab) -> Float[np.ndarray, "h w 3"]:
    linear = (lab @ np.linalg.inv(_TO_LAB).T) ** 3 @ np.linalg.inv(_TO_LMS).T
    magnitude = np.abs(linear)
    encoded = np.where(
        magnitude <= 0.0031308, magnitude * 12.92, 1.055 * magnitude ** (1 / 2.4) - 0.055
    )
    return np.sign(linear) * encoded


def _in_gamut(rgb: Float[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w 1"]:
    return np.all((rgb >= -_SLACK) & (rgb <= 1 + _SLACK), axis=2, keepdims=True)


def colored_content(content: Image, config: Config) -> Image:
    """Return the content as network input: grey where only lightness is transferred."""
    return content if config.preserve_color != "luminance" else _gray(to_oklab(content)[..., :1])


def colored_style(style: Image, content: Image, config: Config) -> Image:
    """Return the style as network input, with the colours of `content`.

    Where only lightness is transferred, it is grey, with the mean and spread of the content's
    lightness.
    """
    if config.preserve_color == "none":
        return style
    own, wanted = to_oklab(style), to_oklab(content)
    if config.preserve_color == "histogram":
        return from_oklab(match_histograms(own, wanted))
    if config.preserve_color == "match":
        return from_oklab(match_moments(own, wanted))
    return _gray(match_moments(own[..., :1], wanted[..., :1]))


def colored_result(image: Image, content: Image, config: Config) -> Image:
    """Return the result with its final colours.

    Where only lightness was transferred, `image` gives the lightness and `content`, at any size,
    the rest.
    """
    if config.preserve_color != "luminance":
        return image
    content = resize_image(content, image.shape)
    gray = np.clip(np.asarray(image).mean(axis=2, keepdims=True), 0, 1)
    light = to_oklab(np.repeat(gray, 3, axis=2))[..., :1]
    return from_oklab(np.concatenate([light, to_oklab(content)[..., 1:]], axis=2))


def _gray(light: Float[np.ndarray, "h w 1"]) -> Image:
    return from_oklab(np.concatenate([light, np.zeros((*light.shape[:2], 2))], axis=2))


def match_moments(
    colors: Float[np.ndarray, "h w c"],
    wanted: Float[np.ndarray, "h2 w2 c"],
) -> Float[np.ndarray, "h w c"]:
    """Map `colors` linearly to the mean and covariance of `wanted` (Gatys et al. 2016, eq. 2–6).

    Of the square roots that such a map may take, the symmetric one changes colours least. A
    direction in which `colors` do not vary stays constant.
    """
    flat, other = (array.reshape(-1, array.shape[2]) for array in (colors, wanted))
    mean, other_mean = flat.mean(axis=0), other.mean(axis=0)
    covariances = [np.cov(array.T, bias=True).reshape(2 * (len(mean),)) for array in (flat, other)]
    own, target = (covariance + _FLOOR * np.eye(len(mean)) for covariance in covariances)
    transform = _power(target, 0.5) @ _power(own, -0.5)
    return (colors - mean) @ transform.T + other_mean


def _power(matrix: Float[np.ndarray, "c c"], exponent: float) -> Float[np.ndarray, "c c"]:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * values**exponent) @ vectors.T


def match_histograms(
    colors: Float[np.ndarray, "h w c"], wanted: Float[np.ndarray, "h2 w2 c"]
) -> Float[np.ndarray, "h w c"]:
    """Give `colors` the histogram of `wanted` in each channel; equal values stay equal."""
    matched = np.empty_like(colors)
    for channel in range(colors.shape[2]):
        _, positions, counts = np.unique(
            colors[..., channel], return_inverse=True, return_counts=True
        )
        quantiles = (np.cumsum(counts) - counts / 2) / counts.sum()
        ordered = np.sort(wanted[..., channel].ravel())
        places = (np.arange(len(ordered)) + 0.5) / len(ordered)
        mapped = np.interp(quantiles, places, ordered)
        matched[..., channel] = mapped[positions].reshape(colors.shape[:2])
    return matched
