"""`stylize`: pictures and settings to the runs of the loop, from coarse to fine."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxstyle import pyramid
from jaxstyle.config import Config
from jaxstyle.images import fit_shape, load_image, resize_image
from jaxstyle.loop import Callback, Record, Result, optimize
from jaxstyle.objective import as_styles, build_objective, check_inputs
from jaxstyle.types import Image, Params
from jaxstyle.vgg import transform_kernels
from jaxstyle.weights import load_weights


class Scale(NamedTuple):
    """The pictures at one scale, and how many evaluations it gets."""

    content: Image
    styles: tuple[Image, ...]
    evaluations: int


def plan(content: Image, styles: Image | Sequence[Image], config: Config) -> tuple[Scale, ...]:
    """The pictures at every scale of `config`, coarsest first; all that can be wrong is checked.

    Raises:
        ConfigError, ImageError: see `build_objective`.
    """
    several = as_styles(content, styles)
    own_shape = config.style_shape == "own"
    content, *fitted = (np.asarray(picture, np.float32) for picture in (content, *several))
    if config.size != "original":
        content = resize_image(content, fit_shape(content.shape, config.size))
        if own_shape:
            fitted = [resize_image(s, fit_shape(s.shape, config.size)) for s in fitted]
    scales: list[Scale] = []
    for level in pyramid.levels(config):
        content_here = resize_image(content, pyramid.level_shape(content.shape, level.ratio))
        styles_here = tuple(
            resize_image(style, pyramid.level_shape(style.shape, level.ratio))
            if own_shape
            else style
            for style in fitted
        )
        check_inputs(content_here, styles_here, config)
        scales.append(Scale(content_here, styles_here, level.evaluations))
    return tuple(scales)


def initial_image(content: Image, styles: Sequence[Image], config: Config) -> Image:
    """The start that `config.init` names, of the content's shape: content, noise, style, a file.

    Noise is uniform in 0–1 from `config.seed`.
    """
    if config.init == "content":
        return content
    if config.init == "noise":
        return np.asarray(jax.random.uniform(jax.random.key(config.seed), content.shape))
    start = styles[0] if config.init == "style" else load_image(config.init)
    return resize_image(start, content.shape)


def stylize(
    content: Image,
    styles: Image | Sequence[Image],
    config: Config,
    params: Params | None = None,
    callback: Callback | None = None,
) -> Result:
    """Render `content` in the style of `styles`.

    Args:
        content: sRGB 0–1, float `[h, w, 3]`; resized to `config.size`.
        styles: one such image, or several whose statistics are averaged.
        config: what to do; `preset(name)` has the well-known ones.
        params: from `load_weights`; loaded, and on first use fetched, if not given.
        callback: called with each `Record`; a true result ends the run early.

    Returns:
        The best image of the last scale run, with the history of all scales.

    Raises:
        ConfigError, ImageError, WeightsError: before anything is computed.
    """
    scales = plan(content, styles, config)
    image = initial_image(scales[0].content, scales[0].styles, config)
    if params is None:
        params = load_weights()
    # Once for all scales.
    every = (*config.content_layers, *config.style_layers)
    params = transform_kernels(params, every, config.convolution, config.precision)
    history: list[Record] = []
    results: list[Result] = []
    for scale in scales:
        result = optimize(
            build_objective(params, scale.content, scale.styles, config),
            resize_image(image, scale.content.shape),
            config,
            callback=callback,
            budget=scale.evaluations,
            before=history,
        )
        results.append(result)
        history.extend(result.history)
        image = result.image
        if result.reason in ("stopped", "not finite"):
            break
    # A scale that was never finite leaves the one before as the best there is.
    best = next((r for r in reversed(results) if np.isfinite(r.loss)), results[0])
    return best._replace(
        image=resize_image(best.image, scales[-1].content.shape),
        history=tuple(history),
        evaluations=history[-1].evaluation,
        reason=results[-1].reason,
        seconds=sum(result.seconds for result in results),
        compile_seconds=sum(result.compile_seconds for result in results),
    )
