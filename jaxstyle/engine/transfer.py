"""`stylize`: run the loop for pictures and a config, from coarse to fine scales."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxstyle.config import Config
from jaxstyle.engine import pyramid
from jaxstyle.engine.fitting import fit, fit_targets, spreadable
from jaxstyle.engine.loop import Keeper, Progress, begin, proceed
from jaxstyle.engine.memory import Device
from jaxstyle.engine.records import Callback, Result
from jaxstyle.engine.sharding import row_mesh
from jaxstyle.imaging import Image, color, fit_shape, load_image, resize_image
from jaxstyle.network import Params, load_weights
from jaxstyle.objective import (
    Guides,
    as_styles,
    build_objective,
    check_guides,
    check_shapes,
    hold,
    prepare_params,
    style_shares,
)

ENDS = ("stopped", "not finite")
"""Reasons after which no finer scale follows."""


class Scale(NamedTuple):
    """The pictures at one scale, and its budget of evaluations."""

    content: Image
    styles: tuple[Image, ...]
    evaluations: int


def plan(
    content: Image,
    styles: Image | Sequence[Image],
    config: Config,
    guides: Guides | None = None,
) -> tuple[Scale, ...]:
    """Return the pictures at every scale of `config`, coarsest first, after checking all inputs.

    Raises:
        ConfigError, ImageError: see `build_objective`.
    """
    originals = as_styles(content, styles)
    check_scales(content.shape, [style.shape for style in originals], config, guides)
    scales: list[Scale] = []
    for level in pyramid.levels(config, fitted_shape(content.shape, config)):
        content_here = at_scale(content, config, level.ratio)
        styles_here = tuple(
            color.colored_style(style_at_scale(style, config, level.ratio), content_here, config)
            for style in originals
        )
        content_here = color.colored_content(content_here, config)
        scales.append(Scale(content_here, styles_here, level.evaluations))
    return tuple(scales)


def check_scales(
    content: tuple[int, ...],
    styles: Sequence[tuple[int, ...]],
    config: Config,
    guides: Guides | None = None,
) -> None:
    """Raise the errors of `plan` for pictures of these shapes, without making any picture.

    Raises:
        ConfigError, ImageError: see `build_objective`.
    """
    style_shares(len(styles), config)
    fitted = fitted_shape(content, config)
    for ratio, _ in pyramid.levels(config, fitted):
        content_shape = pyramid.level_shape(fitted, ratio)
        style_shapes = [_style_shape(style, config, ratio) for style in styles]
        check_shapes(content_shape, style_shapes, config)
        if guides is not None:
            check_guides(content_shape, style_shapes, config, guides)


def at_scale(picture: Image, config: Config, ratio: float) -> Image:
    """Resize `picture` to `config.size`, then by `ratio`."""
    picture = resize_image(picture, fitted_shape(picture.shape, config))
    return resize_image(picture, pyramid.level_shape(picture.shape, ratio))


def fitted_shape(shape: tuple[int, ...], config: Config) -> tuple[int, int]:
    """Return the `(height, width)` that `config.size` gives a picture of `shape`."""
    if config.size == "original":
        return shape[0], shape[1]
    return fit_shape(shape, config.size)


def style_at_scale(style: Image, config: Config, ratio: float) -> Image:
    """Resize a style to `ratio` times its last scale's size, but not below `pyramid.SHORTEST`.

    A style that is stretched to the content's shape later is returned as it is.
    """
    shape = _style_shape(style.shape, config, ratio)
    if config.style_shape == "own":
        style = resize_image(style, fitted_style_shape(style.shape, config))
    return resize_image(style, shape)


def _style_shape(shape: tuple[int, ...], config: Config, ratio: float) -> tuple[int, int]:
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
        return np.asarray(
            jax.random.uniform(jax.random.key(config.seed), content.shape, np.float32)
        )
    start = styles[0] if config.init == "style" else load_image(config.init)
    return resize_image(start, content.shape)


def stylize(
    content: Image,
    styles: Image | Sequence[Image],
    config: Config,
    params: Params | None = None,
    callback: Callback | None = None,
    *,
    guides: Guides | None = None,
    keeper: Keeper | None = None,
    progress: Progress | None = None,
    devices: Sequence[Device] = (),
) -> Result:
    """Render `content` in the style of `styles`.

    Args:
        content: sRGB 0–1, float `[h, w, 3]`; resized to `config.size`.
        styles: one such image, or several, blended as `config` says.
        config: the settings; `preset(name)` returns well-known ones.
        params: from `load_weights`; by default loaded, and downloaded on first use.
        callback: called with each `Record`; a true result ends the run early.
        guides: regions and their styles; by default all styles apply everywhere.
        keeper: is shown the progress, so that an interrupted run can be resumed.
        devices: several devices to share the image's rows, from `sharding.pick_devices`. At scales
            whose rows they cannot share evenly, fewer do.
        progress: shown to a keeper by a run of the same inputs and settings, to resume from.

    Returns:
        The best image of the last scale run, with the history of all scales; bit for bit the
        same wherever the run was interrupted and resumed.

    Raises:
        ConfigError, ImageError, WeightsError: before anything is computed.
    """
    scales = plan(content, styles, config, guides)
    if params is None:
        params = load_weights()
    config = spreadable(config) if len(devices) > 1 else config
    # Once for all scales.
    params = prepare_params(params, config)
    shape = scales[-1].content.shape
    # The last scale first: if it does not fit in memory, that is reported now.
    meshes = [_shared(devices, scale.content.shape[0]) for scale in scales]
    fits = [
        fit(config, scale.content.shape, params, mesh.size if mesh else 1)
        for scale, mesh in reversed(list(zip(scales, meshes, strict=True)))
    ][::-1]
    if progress is None:
        image = initial_image(scales[0].content, scales[0].styles, config)
        progress = begin(image, config, mesh=meshes[0])
    for position in range(progress.scale, len(scales)):
        scale = scales[position]
        if progress.history == () and progress.earlier is not None and keeper is not None:
            keeper.save(progress)
        fitted = fit_targets(config, _largest(scale, config), params)
        objective = build_objective(params, scale.content, scale.styles, fitted, guides)
        objective = hold(objective, scale.content.shape, fits[position])
        progress, result = proceed(
            objective,
            progress,
            config,
            scale.evaluations,
            callback=callback,
            keeper=keeper,
            mesh=meshes[position],
        )
        earlier = [progress.earlier] if progress.earlier else []
        result = join_scales([*earlier, result], scale.content.shape)
        if result.reason in ENDS or position == len(scales) - 1:
            if keeper is not None:
                keeper.save(progress)
            image = resize_image(result.image, shape)
            return dataclasses.replace(result, image=finished_image(image, content, config))
        image = resize_image(result.image, scales[position + 1].content.shape)
        progress = begin(image, config, result, meshes[position + 1])
    raise AssertionError("a run has more scales than its settings")


def _shared(devices: Sequence[Device], rows: int) -> Mesh | None:
    """Return a mesh of the devices that share `rows` rows, or None if only one would."""
    mesh = row_mesh(devices, rows) if len(devices) > 1 else None
    return mesh if mesh is not None and mesh.size > 1 else None


def _largest(scale: Scale, config: Config) -> tuple[int, ...]:
    """Return the shape of the largest picture that the network evaluates."""
    styles = scale.styles if config.style_shape == "own" else ()
    return max((picture.shape for picture in (scale.content, *styles)), key=np.prod)


def finished_image(image: Image, content: Image, config: Config) -> Image:
    """Turn an image of the loop into the final one, restoring colours that were set aside."""
    return color.colored_result(image, resize_image(content, image.shape), config)


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
