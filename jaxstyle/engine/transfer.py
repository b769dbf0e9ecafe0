"""`stylize`: pictures and settings to the runs of the loop, from coarse to fine."""

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
"""Reasons for which no finer scale follows."""


class Scale(NamedTuple):
    """The pictures at one scale, and how many evaluations it gets."""

    content: Image
    styles: tuple[Image, ...]
    evaluations: int


def plan(
    content: Image,
    styles: Image | Sequence[Image],
    config: Config,
    guides: Guides | None = None,
) -> tuple[Scale, ...]:
    """The pictures at every scale of `config`, coarsest first; all that can be wrong is checked.

    Raises:
        ConfigError, ImageError: see `build_objective`.
    """
    several = as_styles(content, styles)
    check_scales(content.shape, [style.shape for style in several], config, guides)
    scales: list[Scale] = []
    for level in pyramid.levels(config, fitted_shape(content.shape, config)):
        content_here = at_scale(content, config, level.ratio)
        styles_here = tuple(
            color.colored_style(style_at_scale(style, config, level.ratio), content_here, config)
            for style in several
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
    """Raise what `plan` would for pictures of these shapes, without making any.

    Raises:
        ConfigError, ImageError: see `build_objective`.
    """
    style_shares(len(styles), config)
    fitted = fitted_shape(content, config)
    for ratio, _ in pyramid.levels(config, fitted):
        here = pyramid.level_shape(fitted, ratio)
        styles_here = [_style_shape(style, config, ratio) for style in styles]
        check_shapes(here, styles_here, config)
        if guides is not None:
            check_guides(here, styles_here, config, guides)


def at_scale(picture: Image, config: Config, ratio: float) -> Image:
    """`picture` fitted to `config.size`, then at a scale of `ratio` to that."""
    picture = resize_image(picture, fitted_shape(picture.shape, config))
    return resize_image(picture, pyramid.level_shape(picture.shape, ratio))


def fitted_shape(shape: tuple[int, ...], config: Config) -> tuple[int, int]:
    """`(height, width)` that `config.size` gives a picture of `shape`."""
    if config.size == "original":
        return shape[0], shape[1]
    return fit_shape(shape, config.size)


def style_at_scale(style: Image, config: Config, ratio: float) -> Image:
    """A style at a scale of `ratio` to its own size, but no smaller than a coarsest scale is.

    As it is where it is going to be stretched to the content's shape anyway.
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
    """`(height, width)` that a style of `shape` has at the last scale.

    Raises:
        ImageError: that would be too large.
    """
    size = config.style_size or config.size
    long_side = max(shape[:2]) if size == "original" else size
    return fit_shape(shape, max(1, round(long_side * config.style_scale)))


def initial_image(content: Image, styles: Sequence[Image], config: Config) -> Image:
    """The start that `config.init` names, of the content's shape: content, noise, style, a file.

    Noise is uniform in 0–1 from `config.seed`.
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
        config: what to do; `preset(name)` has the well-known ones.
        params: from `load_weights`; loaded, and on first use fetched, if not given.
        callback: called with each `Record`; a true result ends the run early.
        guides: which style goes where; all of them everywhere if not given.
        keeper: is shown the progress, so that a run that was cut off can go on.
        devices: that share the image's rows, if several are to, from `space.pick_devices`. At
            scales whose rows they cannot share evenly, fewer do.
        progress: what a keeper was shown of a run of the same inputs and settings, to go on from.

    Returns:
        The best image of the last scale run, with the history of all scales: the same bits
        wherever the run was cut off and went on.

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
    # The last one first: memory that would run out there is told now.
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
        here = fit_targets(config, _largest(scale, config), params)
        objective = build_objective(params, scale.content, scale.styles, here, guides)
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
            return result._replace(image=finished_image(image, content, config))
        image = resize_image(result.image, scales[position + 1].content.shape)
        progress = begin(image, config, result, meshes[position + 1])
    raise AssertionError("a run has more scales than its settings")


def _shared(devices: Sequence[Device], rows: int) -> Mesh | None:
    """The devices that share so many rows, if several do."""
    mesh = row_mesh(devices, rows) if len(devices) > 1 else None
    return mesh if mesh is not None and mesh.size > 1 else None


def _largest(scale: Scale, config: Config) -> tuple[int, ...]:
    """The shape of the largest picture that the network looks at."""
    styles = scale.styles if config.style_shape == "own" else ()
    return max((picture.shape for picture in (scale.content, *styles)), key=np.prod)


def finished_image(image: Image, content: Image, config: Config) -> Image:
    """What a run makes of an image of its loop: with its colours, where they were kept apart."""
    return color.colored_result(image, resize_image(content, image.shape), config)


def join_scales(results: Sequence[Result], shape: tuple[int, ...]) -> Result:
    """One result of a run's scales, coarsest first, with its image at `shape`."""
    # A scale that was never finite leaves the one before as the best there is.
    best = next((r for r in reversed(results) if np.isfinite(r.loss)), results[0])
    history = tuple(record for result in results for record in result.history)
    return best._replace(
        image=resize_image(best.image, shape),
        history=history,
        evaluations=history[-1].evaluation,
        reason=results[-1].reason,
        seconds=sum(result.seconds for result in results),
        compile_seconds=sum(result.compile_seconds for result in results),
    )
