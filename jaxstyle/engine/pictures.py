"""Pictures: at each scale, where the image starts, and the image that a run ends with."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from jaxstyle.config import Config
from jaxstyle.engine import pyramid
from jaxstyle.engine.records import Result
from jaxstyle.imaging import (
    Image,
    colored_content,
    colored_style,
    fit_shape,
    load_image,
    resize_image,
)
from jaxstyle.objective import (
    Guides,
    check_guides,
    check_shapes,
    key_of,
    regions,
    style_shares,
)


def check_scales(
    content: tuple[int, ...],
    styles: Sequence[tuple[int, ...]],
    config: Config,
    guides: Guides | None = None,
) -> None:
    """Check the shapes of pictures at every scale of `config`, without making any picture.

    Raises:
        ConfigError, ImageError: see `build_objective`.
    """
    style_shares(len(styles), config)
    if guides is not None:
        regions.check_aspects(guides, content, styles)
    for level in pyramid.levels(config, fit_shape(content, config.size)):
        style_shapes = [style_shape(style, config, level.ratio) for style in styles]
        check_shapes(level.shape, style_shapes, config)
        if guides is not None:
            check_guides(level.shape, style_shapes, config, guides)


def as_used(content: Image, styles: Sequence[Image], config: Config) -> tuple[Image, list[Image]]:
    """Return the content and the styles as the network gets them at the last scale."""
    content = at_scale(content, config, 1.0)
    own = [style_at_scale(style, config, 1.0) for style in styles]
    recolored = [colored_style(style, content, config) for style in own]
    return colored_content(content, config), recolored


def at_scale(picture: Image, config: Config, ratio: float) -> Image:
    """Resize `picture` to `config.size`, then by `ratio`."""
    picture = resize_image(picture, fit_shape(picture.shape, config.size))
    return resize_image(picture, pyramid.image_shape(picture.shape, ratio, config))


def style_at_scale(style: Image, config: Config, ratio: float) -> Image:
    """Resize a style to `ratio` times its last scale's size, but not below `pyramid.SHORTEST`.

    A style that is stretched to the content's shape later is returned as it is.
    """
    shape = style_shape(style.shape, config, ratio)
    if config.style_shape == "own":
        style = resize_image(style, fitted_style_shape(style.shape, config))
    return resize_image(style, shape)


def style_shape(shape: tuple[int, ...], config: Config, ratio: float) -> tuple[int, int]:
    """Return the `(height, width)` of a style of `shape` at a scale of `ratio`."""
    if config.style_shape == "content":
        return shape[0], shape[1]
    fitted = fitted_style_shape(shape, config)
    return pyramid.level_shape(fitted, max(ratio, min(1, pyramid.SHORTEST / min(fitted))))


def fitted_style_shape(shape: tuple[int, ...], config: Config) -> tuple[int, int]:
    """Return the `(height, width)` of a style of `shape` at the last scale.

    Raises:
        ImageError: the style would be too large.
    """
    size = config.style_size or config.size
    long_side = max(shape[:2]) if size == "original" else size
    return fit_shape(shape, max(1, round(long_side * config.style_scale)))


def initial_image(content: Image, styles: Sequence[Image], config: Config) -> Image:
    """Return the starting image `config.init`: content, noise, style or a file.

    It has the content's shape. Noise is uniform in 0–1, seeded by `config.seed`.
    """
    if config.init == "content":
        return content
    if config.init == "noise":
        return np.asarray(jax.random.uniform(key_of(config.seed), content.shape, np.float32))
    start = styles[0] if config.init == "style" else load_image(config.init)
    return resize_image(start, content.shape)


def join_scales(results: Sequence[Result], shape: tuple[int, ...]) -> Result:
    """Join the results of a run's scales, coarsest first, into one with its image at `shape`."""
    # If a scale was never finite, the scale before it has the best image.
    best = next((r for r in reversed(results) if np.isfinite(r.loss)), results[0])
    history = tuple(record for result in results for record in result.history)
    return dataclasses.replace(
        best,
        image=resize_image(best.image, shape),
        history=history,
        evaluations=history[-1].evaluation,
        reason=results[-1].reason,
        seconds=sum(result.seconds for result in results),
        compile_seconds=sum(result.compile_seconds for result in results),
    )
