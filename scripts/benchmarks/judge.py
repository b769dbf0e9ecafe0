"""Quality measures that no preset optimizes: the same for all, on layers that none uses."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxstyle import extract_features, preset
from jaxstyle.imaging import Image
from jaxstyle.imaging.color import to_oklab
from jaxstyle.network import Params
from jaxstyle.objective import sliced
from jaxstyle.objective.losses import gram_matrix, style_loss

STYLE_LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_4")
CONTENT_LAYER = "relu4_3"
BAND = 16
_DIRECTIONS = 64
_BINS = [np.linspace(0, 1, 13), np.linspace(-0.3, 0.3, 13), np.linspace(-0.3, 0.3, 13)]


class Judgement(NamedTuple):
    """Quality of a picture relative to its content and its style; lower is better throughout."""

    style: float
    """Sliced Wasserstein distance to the style over the content's, averaged over layers."""
    content: float
    """Distance to the content's features over their norm."""
    color: float
    """Distance of the Oklab histogram to the style's: 0 if equal, 1 if disjoint."""
    border: float
    """See `border_ratio`."""


def judge(params: Params, image: Image, content: Image, style: Image) -> Judgement:
    """Judge `image`, which has the shape of `content`; all are sRGB in 0–1."""
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
    axes = sliced.directions(0, channels, _DIRECTIONS, seed=0)
    image, style = (
        sliced.Projected(jnp.matmul(each.reshape(-1, channels), axes, precision="highest"), None)
        for each in (features, wanted)
    )
    return sliced.distance(image, sliced.quantiles(style, len(image.values)))


def _histogram(image: Image) -> np.ndarray:
    counts, _ = np.histogramdd(to_oklab(image).reshape(-1, 3), _BINS)
    return counts / counts.sum()


def border_ratio(params: Params, image: Image, style: Image) -> float:
    """Return the mean style loss of 16-pixel tiles at the border over that of the tiles inside.

    Tiles are compared, because the objective only makes the mean of the whole picture right: an
    excess in one half is then a deficit in the other, and both are equally far from the style.
    Padding reflects: a mirrored texture is still a texture, but the network sees a repeated last
    row as stripes.

    Args:
        params: from `load_weights`.
        image: at least 48 pixels high and wide, so that it has inner tiles.
        style: the picture the tiles are compared with.
    """
    layers = list(preset("default").style_layers)
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
