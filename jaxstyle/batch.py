"""Batches: many contents, styles and settings, as few compiled programs as their shapes allow."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxstyle import pyramid
from jaxstyle.config import Config
from jaxstyle.errors import ConfigError, ImageError, JaxstyleError
from jaxstyle.images import resize_image
from jaxstyle.lanes import Job, optimize_lanes, paying_lanes, replicate
from jaxstyle.loop import Result
from jaxstyle.objective import (
    assemble_objective,
    check_inputs,
    check_layers,
    content_targets,
    prepare_params,
    style_shares,
    style_targets,
)
from jaxstyle.transfer import (
    ENDS,
    at_scale,
    fitted_shape,
    initial_image,
    join_scales,
    plan,
    style_at_scale,
)
from jaxstyle.types import Device, Image, Params
from jaxstyle.vgg import check_size
from jaxstyle.weights import load_weights

_CONTENTS_KEPT = 8
"""Contents that are kept at a time: a grid's cells come content by content."""


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A picture to be had when it is needed; the same object for the same picture."""

    shape: tuple[int, ...]
    """`(height, width, …)` of what `load` returns."""
    load: Callable[[], Image]


class Cell(NamedTuple):
    """One content in some styles under one setting: a lane's worth of work."""

    content: Source
    styles: tuple[Source, ...]
    config: Config


def stylize_batch(
    contents: Image | Sequence[Image],
    styles: Image | Sequence[Image],
    config: Config | Sequence[Config],
    params: Params | None = None,
    *,
    lanes: int | None = None,
    devices: Sequence[Device] | None = None,
) -> list[Result]:
    """`stylize` for many at once: lanes of one program that share what they can.

    Contents, styles and configs belong together by position; a single one of them serves all.
    What differs between configs by value (weights, seed, init, budgets) shares a program, what
    differs by structure (size, layers, pooling, optimizer …) is grouped.

    Args:
        contents: sRGB 0–1 `[h, w, 3]` each, of any shapes: one program a shape.
        styles: one image for each.
        config: as for `stylize`, for each; `optimizer` is `lbfgs` or `adam`.
        params: from `load_weights`; loaded, and on first use fetched, if not given.
        lanes: images at a time on each device; by default as many as fit its memory and pay.
        devices: of this host; all if not given.

    Returns:
        A result for each, in order; one whose loss is not finite says so in its `reason`. Where
        a run ends early, the evaluation that was under way is not in its history.

    Raises:
        ConfigError, ImageError, WeightsError: before anything is computed.
    """
    configs = [config] if isinstance(config, Config) else list(config)
    sources: dict[int, Source] = {}
    content_sources, style_sources = (
        [sources.setdefault(id(picture), _source(picture)) for picture in _several(given)]
        for given in (contents, styles)
    )
    lengths = len(content_sources), len(style_sources), len(configs)
    counts = set(lengths) - {1}
    if len(counts) > 1:
        given = "{} contents, {} styles and {} configs".format(*lengths)
        raise ConfigError(f"{given} do not go together; give as many of each, or one for all")
    count = counts.pop() if counts else 1
    cells: list[Cell] = []
    for i in range(count):
        content, style = (
            content_sources[i % len(content_sources)],
            style_sources[i % len(style_sources)],
        )
        cells.append(Cell(content, (style,), configs[i % len(configs)]))
        plan(content.load(), style.load(), cells[-1].config)
    params = load_weights() if params is None else params
    results: dict[int, Result] = {}
    for index, outcome in stylize_cells(cells, params, lanes=lanes, devices=devices):
        if isinstance(outcome, JaxstyleError):
            raise outcome
        results[index] = outcome
    return [results[i] for i in range(count)]


def _several(given: Image | Sequence[Image]) -> Sequence[Image]:
    if isinstance(given, (jax.Array, np.ndarray)) and given.ndim == 3:
        return (given,)
    return tuple(given)


def _source(picture: Image) -> Source:
    return Source(tuple(np.shape(picture)), lambda: picture)


def program_of(config: Config) -> Config:
    """`config` without what is data: equal for those that share a compiled program."""
    return config.replace(
        content_weight=1.0,
        style_weight=1.0,
        tv_weight=1.0,
        content_layer_weights=(),
        style_layer_weights=(),
        style_weights=(),
        init="content",
        seed=0,
        evaluations=1,
        coarse_evaluations=None,
    )


def check_batch(config: Config, styles: int) -> None:
    """Raise `ConfigError` if no batch could be made with `config` and so many styles a cell."""
    check_layers(config)
    style_shares(styles, config)
    if config.optimizer == "optax-lbfgs":
        raise ConfigError("optax-lbfgs is a baseline for single runs; use lbfgs or adam in batches")


def stylize_cells(
    cells: Sequence[Cell],
    params: Params,
    *,
    skip: Collection[int] = (),
    lanes: int | None = None,
    devices: Sequence[Device] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[int, Result | JaxstyleError]]:
    """Stylize every cell; yields its position and its result, or what is wrong with it.

    Args:
        cells: pictures are loaded when their turn comes.
        params: from `load_weights`.
        skip: positions of cells that are done. They count where lanes are shared out, so that
            a batch that goes on where another was cut off runs the same programs.
        lanes: see `optimize_lanes`.
        devices: see `optimize_lanes`.
        progress: see `optimize_lanes`.

    Raises:
        ConfigError: see `check_batch`.
    """
    for cell in cells:
        check_batch(cell.config, len(cell.styles))
    devices = tuple(jax.local_devices() if devices is None else devices)
    targets: _Targets | None = None
    groups: dict[tuple[Config, tuple[int, int], int], list[int]] = {}
    for index, cell in enumerate(cells):
        program = program_of(cell.config)
        shape = fitted_shape(cell.content.shape, program)
        targets_each = len(cell.styles) if program.style_blend == "loss" else 1
        groups.setdefault((program, shape, targets_each), []).append(index)
    for (program, shape, _), members in groups.items():
        # With one scale every cell waits in one queue; with several, a round goes through all
        # scales before the next, so that cells are finished all along.
        most = lanes or paying_lanes(shape, devices)
        step = most * len(devices) if program.scales > 1 else len(members)
        for start in range(0, len(members), step):
            chunk = members[start : start + step]
            alive: dict[int, list[Result]] = {index: [] for index in chunk if index not in skip}
            if not alive:
                continue
            if targets is None or targets.program != program:
                targets = _Targets(params, program, devices)
            for level in range(program.scales):
                order = list(alive)
                jobs = [
                    functools.partial(_job, targets, cells[index], level, alive[index])
                    for index in order
                ]
                outcomes = optimize_lanes(
                    targets.replicated,
                    jobs,
                    program,
                    lanes=lanes,
                    devices=devices,
                    balance=len(chunk),
                    progress=progress,
                )
                for position, outcome in outcomes:
                    index = order[position]
                    if isinstance(outcome, JaxstyleError):
                        del alive[index]
                        yield index, outcome
                        continue
                    alive[index].append(outcome)
                    if level == program.scales - 1 or outcome.reason in ENDS:
                        yield index, join_scales(alive.pop(index), shape)


def _job(targets: "_Targets", cell: Cell, level: int, before: list[Result]) -> Job:
    ratio, budget = pyramid.levels(cell.config)[level]
    content, content_target = targets.of_content(cell.content, ratio)
    if before:
        image = resize_image(before[-1].image, content.shape)
    elif cell.config.init == "style":
        image = initial_image(content, [cell.styles[0].load()], cell.config)
    else:
        image = initial_image(content, (), cell.config)
    # Only a style that is stretched depends on the content's shape.
    like = content.shape if cell.config.style_shape == "content" else None
    objective = assemble_objective(
        targets.params,
        content_target,
        [targets.of_style(style, ratio, like) for style in cell.styles],
        cell.config,
    )
    history = [record for result in before for record in result.history]
    return Job(dataclasses.replace(objective, params=None), image, budget, history)


class _Targets:
    """What the cells of a program share, each computed once; targets wait on the host."""

    def __init__(self, params: Params, program: Config, devices: Sequence[Device]) -> None:
        self.program = program
        self.params = prepare_params(params, program)
        self.replicated = replicate(self.params, devices)
        self.of_content = functools.lru_cache(_CONTENTS_KEPT)(self._of_content)
        self.of_style = functools.lru_cache(None)(self._of_style)

    def _of_content(self, source: Source, ratio: float) -> tuple[Image, Any]:
        whole = source.load()
        if whole.shape[:2] != tuple(source.shape[:2]):
            raise ImageError("the picture has changed its shape since it was looked at")
        content = at_scale(whole, self.program, ratio)
        check_inputs(content, (), self.program)
        return content, jax.device_get(content_targets(self.params, content, self.program))

    def _of_style(self, source: Source, ratio: float, like: tuple[int, ...] | None) -> Any:
        style = style_at_scale(source.load(), self.program, ratio)
        if like is None:
            check_size(style.shape, self.program.style_layers, self.program.padding, "style")
        targets = style_targets(self.params, style, self.program, like or style.shape)
        return jax.device_get(targets)
