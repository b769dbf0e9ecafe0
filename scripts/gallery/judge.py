"""Numbers that no preset optimizes, alike for all: layers that none of them uses."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxstyle import extract_features, preset
from jaxstyle.imaging.arrays import Image
from jaxstyle.imaging.color import to_oklab
from jaxstyle.network.arrays import Params
from jaxstyle.objective import sliced
from jaxstyle.objective.losses import gram_matrix, style_loss

STYLE_LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_4")
CONTENT_LAYER = "relu4_3"
BAND = 16
_BINS = [np.linspace(0, 1, 13), np.linspace(-0.3, 0.3, 13), np.linspace(-0.3, 0.3, 13)]


class Judgement(NamedTuple):
    """How a picture compares with its content and its style; less is better, of all of them."""

    style: float
    """Sliced Wasserstein distance to the style over the content's, mean over layers."""
    content: float
    """Distance to the content's features over their size."""
    color: float
    """Distance of Oklab histograms from the style's: 0 the same, 1 nothing in common."""
    border: float
    """See `border_ratio`."""


def judge(params: Params, image: Image, content: Image, style: Image) -> Judgement:
    """Judge `image`, of the shape of `content`; all sRGB in 0–1."""
    image = np.clip(image, 0, 1)
    layers = (*STYLE_LAYERS, CONTENT_LAYER)
    ours, theirs, wanted = (
        extract_features(params, picture, layers, padding="replicate")
        for picture in (image, content, style)
    )
    ratios: list[float] = []
    for layer in STYLE_LAYERS:
        near, far = (_sliced(each[layer], wanted[layer]) for each in (ours, theirs))
        ratios.append(float(near / far))
    difference = ours[CONTENT_LAYER] - theirs[CONTENT_LAYER]
    content_distance = jnp.linalg.norm(difference) / jnp.linalg.norm(theirs[CONTENT_LAYER])
    return Judgement(
        float(np.mean(ratios)),
        float(content_distance),
        float(np.abs(_histogram(image) - _histogram(style)).sum() / 2),
        border_ratio(params, image, style),
    )


def _sliced(features: jax.Array, wanted: jax.Array) -> jax.Array:
    channels = features.shape[-1]
    axes = sliced.directions(0, channels, 0)
    image, style = (
        sliced.Projected(jnp.matmul(each.reshape(-1, channels), axes, precision="highest"), None)
        for each in (features, wanted)
    )
    return sliced.distance(image, sliced.quantiles(style, len(image.values)))


def _histogram(image: Image) -> np.ndarray:
    counts, _ = np.histogramdd(to_oklab(image).reshape(-1, 3), _BINS)
    return counts / counts.sum()


def border_ratio(params: Params, image: Image, style: Image) -> float:
    """Mean style loss of the tiles of 16 pixels at the border over that of the tiles inside.

    Of tiles, because the objective makes the mean of the whole right: what is too much in one
    half of a picture is then missing in the other, and both halves are equally far from the style.
    A texture goes on as such in a mirror; of its last row repeated, the network sees stripes.

    Args:
        params: from `load_weights`.
        image: of 48 pixels at least each way, so that there is an inside.
        style: what the tiles are compared with.
    """
    layers = preset("default").style_layers
    ours, wanted = (
        extract_features(params, picture, layers, padding="reflect") for picture in (image, style)
    )
    losses: list[np.ndarray] = []
    for layer in layers:
        side = BAND >> (int(layer[4]) - 1)
        target = gram_matrix(wanted[layer]) / np.prod(wanted[layer].shape[:2])
        rows, columns = (size // side for size in ours[layer].shape[:2])
        tiles = ours[layer][: rows * side, : columns * side]
        tiles = tiles.reshape(rows, side, columns, side, -1).transpose(0, 2, 1, 3, 4)
        each = jax.vmap(jax.vmap(lambda tile, target=target: _tile_loss(tile, target)))(tiles)
        losses.append(np.asarray(each) / float(jnp.mean(each)))
    total = np.mean(losses, axis=0)
    inside = np.zeros(total.shape, bool)
    inside[1:-1, 1:-1] = True
    return float(total[~inside].mean() / total[inside].mean())


def _tile_loss(tile: jax.Array, target: jax.Array) -> jax.Array:
    return style_loss(gram_matrix(tile) / (tile.shape[0] * tile.shape[1]), target, "mean")
