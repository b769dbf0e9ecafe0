"""Batches: many contents, styles and settings in as few compiled programs as shapes allow."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxstyle.config import Config, ConfigError, ImageError, JaxstyleError, OneScale, equal
from jaxstyle.engine import pyramid
from jaxstyle.engine.fitting import fit, fit_targets, spreadable
from jaxstyle.engine.lane_program import Job, replicate
from jaxstyle.engine.lanes import optimize_lanes, paying_lanes
from jaxstyle.engine.memory import Device
from jaxstyle.engine.records import Result
from jaxstyle.engine.sharding import sharing
from jaxstyle.engine.transfer import (
    ENDS,
    at_scale,
    check_scales,
    finished_image,
    fitted_shape,
    initial_image,
    join_scales,
    style_at_scale,
)
from jaxstyle.engine.waiting import Reader
from jaxstyle.imaging import Image, colored_content, colored_style, resize_image
from jaxstyle.network import Params, check_size, load_weights
from jaxstyle.objective import (
    Guide,
    Guided,
    Guides,
    Region,
    StylePart,
    as_styles,
    assemble_objective,
    blend,
    check_settings,
    check_shapes,
    content_targets,
    depends_on_shape,
    everywhere_there,
    guided_content,
    guided_targets,
    needs_directions,
    prepare_params,
    regions,
    style_part,
    style_shares,
)

_CONTENTS_KEPT = 8
"""Number of contents cached at a time: a grid's cells are ordered by content."""

_STYLES_KEPT, _FEW_STYLES_KEPT = 256, 32
"""Numbers of style targets cached, each for one scale and megabytes in size; the smaller one if
they are as large as the image, or specific to one content's colours."""


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A lazily loaded picture; the same object stands for the same picture."""

    shape: tuple[int, ...]
    """`(height, width, …)` of the picture that `load` returns."""
    load: Callable[[], Image]


@dataclasses.dataclass(frozen=True, eq=False)
class GuideSource:
    """A lazily loaded guide; the same object stands for the same guide."""

    load: Callable[[], Guide]


class Cell(NamedTuple):
    """One content, its styles and one config: the work of one lane."""

    content: Source
    styles: tuple[Source, ...]
    config: Config
    content_guide: GuideSource | None = None
    style_guides: tuple[GuideSource, ...] = ()

    def guides(self) -> Guides | None:
        """Load the guides.

        Raises:
            ImageError: a file cannot be read, or is not a guide.
        """
        if self.content_guide is None:
            return None
        return Guides(self.content_guide.load(), tuple(guide.load() for guide in self.style_guides))

    def regions(self) -> tuple[Region, ...]:
        """Assign the styles to regions; see `regions.assign`."""
        return regions.assign(self.guides(), style_shares(len(self.styles), self.config))


def stylize_batch(
    contents: Image | Sequence[Image],
    styles: Image | Sequence[Image | Sequence[Image]],
    config: Config | Sequence[Config],
    params: Params | None = None,
    *,
    guides: Guides | Sequence[Guides | None] | None = None,
    lanes: int | None = None,
    devices: Sequence[Device] | None = None,
    space: int = 1,
) -> list[Result]:
    """Stylize many images at once, as lanes of one program that share their common work.

    Contents, styles, configs and guides correspond by position; a single one serves all. Configs
    that differ by value (weights, seed, init, budgets) share a program; those that differ by
    structure (size, layers, pooling, optimizer …) are grouped.

    Args:
        contents: sRGB 0–1 `[h, w, 3]` each, of any shapes; each shape has its own program.
        styles: for each content, one image, or several to blend.
        config: as for `stylize`, one per content.
        guides: as for `stylize`, one per content.
        params: from `load_weights`; by default loaded, and downloaded on first use.
        lanes: images at a time on each device; by default as many as fit its memory and pay off.
        devices: devices of this host; all by default.
        space: number of devices that share the rows of each image. At scales whose rows they
            cannot share evenly, fewer do, and the others work on other images.

    Returns:
        The results in order; the `reason` of one whose loss is not finite says so. If a run ends
        early, its history lacks the evaluation that was under way.

    Raises:
        ConfigError, ImageError, WeightsError: before anything is computed.
        JaxstyleError: memory ran out for one image, even alone.
    """
    devices = _checked(devices, lanes, space)
    sources: dict[int, Source] = {}

    def source(picture: Image) -> Source:
        return sources.setdefault(id(picture), Source(tuple(np.shape(picture)), lambda: picture))

    given = {
        "contents": [source(picture) for picture in _several(contents)],
        "styles": [tuple(map(source, _several(each))) for each in _several(styles)],
        "configs": [config] if isinstance(config, Config) else list(config),
        "guides": [guides] if guides is None or isinstance(guides, Guides) else list(guides),
    }
    counts = {len(items) for items in given.values()} - {1}
    if len(counts) > 1:
        numbers = ", ".join(f"{len(items)} {name}" for name, items in given.items())
        raise ConfigError(f"{numbers} do not go together; give as many of each, or one for all")
    count = counts.pop() if counts else 1
    cells: list[Cell] = []
    guide_sources: dict[int, GuideSource] = {}
    for i in range(count):
        content, cell_styles, setting, cell_guides = (
            items[i % len(items)] for items in given.values()
        )
        as_styles(content.load(), [style.load() for style in cell_styles])
        check_scales(content.shape, [style.shape for style in cell_styles], setting, cell_guides)
        sourced = [
            guide_sources.setdefault(id(guide), GuideSource(lambda guide=guide: guide))
            for guide in (() if cell_guides is None else (cell_guides.content, *cell_guides.styles))
        ]
        content_guide = sourced[0] if sourced else None
        cells.append(Cell(content, cell_styles, setting, content_guide, tuple(sourced[1:])))
    params = load_weights() if params is None else params
    for program, shape in {
        (program_of(cell.config), fitted_shape(cell.content.shape, cell.config)) for cell in cells
    }:
        chosen = program if space == 1 else spreadable(program)
        fit(chosen, shape, prepare_params(params, chosen), sharing(shape[0], space))
    results: dict[int, Result] = {}
    for index, outcome in stylize_cells(cells, params, lanes=lanes, devices=devices, space=space):
        if isinstance(outcome, JaxstyleError):
            raise outcome
        results[index] = outcome
    return [results[i] for i in range(count)]


def _several(given: Any) -> Sequence[Any]:
    if isinstance(given, (jax.Array, np.ndarray)) and given.ndim == 3:
        return (given,)
    return tuple(given)


def _checked(devices: Sequence[Device] | None, lanes: int | None, space: int) -> tuple[Device, ...]:
    devices = tuple(jax.local_devices() if devices is None else devices)
    if not 1 <= space <= len(devices):
        raise ConfigError(f"space must be from 1 to the {len(devices)} devices, not {space}")
    if lanes is not None and lanes < 1:
        raise ConfigError(f"lanes must be at least 1, not {lanes}")
    return devices


def program_of(config: Config) -> Config:
    """Return `config` without settings that are data: equal results share a compiled program."""
    scales = config.scales
    if not (config.scheduled or isinstance(scales, OneScale)):
        scales = dataclasses.replace(scales, coarse_evaluations=None, first_evaluations=None)
    return dataclasses.replace(
        config,
        content_weight=1.0,
        style_weight=1.0,
        tv_weight=1.0,
        content_layers=equal(*config.content_layers),
        style_layers=equal(*config.style_layers),
        style_statistics=equal(*config.style_statistics),
        style_weights=(),
        init="content",
        # Directions are drawn once per program, and a schedule depends on its length.
        seed=config.seed if needs_directions(config) else 0,
        evaluations=config.evaluations if config.scheduled else 1,
        scales=scales,
    )


def check_batch(config: Config, styles: int) -> None:
    """Raise `ConfigError` if a batch is impossible with `config` and `styles` styles per cell."""
    check_settings(config)
    style_shares(styles, config)


def stylize_cells(
    cells: Sequence[Cell],
    params: Params,
    *,
    skip: Collection[int] = (),
    lanes: int | None = None,
    devices: Sequence[Device] | None = None,
    space: int = 1,
    on_evaluations: Callable[[int], None] | None = None,
) -> Iterator[tuple[int, Result | JaxstyleError]]:
    """Stylize every cell, yielding its position and its result or error.

    Args:
        cells: the cells, whose pictures are loaded when needed.
        params: from `load_weights`.
        skip: positions of finished cells. They still count when lanes are shared out, so that a
            resumed batch runs the same programs as the interrupted one.
        lanes: see `optimize_lanes`.
        devices: see `optimize_lanes`.
        space: see `stylize_batch`.
        on_evaluations: see `optimize_lanes`.

    Raises:
        ConfigError: see `check_batch`; also invalid `lanes` or `space`.
    """
    for cell in cells:
        check_batch(cell.config, len(cell.styles))
    devices = _checked(devices, lanes, space)
    targets: _Targets | None = None
    groups: dict[tuple[Config, tuple[int, int], tuple[Any, ...]], list[int]] = {}
    for index, cell in enumerate(cells):
        program = program_of(cell.config if space == 1 else spreadable(cell.config))
        shape = fitted_shape(cell.content.shape, program)
        try:
            cell_regions = cell.regions()
        except JaxstyleError as error:
            if index not in skip:
                yield index, error
            continue
        blended = program.style_blend == "statistics"
        parts = [(r.color is None, 1 if blended else len(r.styles)) for r in cell_regions]
        groups.setdefault((program, shape, tuple(parts)), []).append(index)
    for (program, shape, _), members in groups.items():
        # With one scale, all cells wait in one queue. With several, each round goes through all
        # scales before the next one starts, so that cells are finished steadily.
        most = lanes or paying_lanes(shape, devices, sharing(shape[0], space))
        levels = pyramid.levels(program, shape)
        step = most * (len(devices) // space) if len(levels) > 1 else len(members)
        for start in range(0, len(members), step):
            chunk = members[start : start + step]
            alive: dict[int, list[Result]] = {index: [] for index in chunk if index not in skip}
            if not alive:
                continue
            if targets is None or targets.program != program:
                targets = _Targets(params, program, devices, space)
            for level, (ratio, _) in enumerate(levels):
                order = list(alive)
                jobs = [
                    functools.partial(_job, targets, cells[index], level, alive[index])
                    for index in order
                ]
                rows, _ = pyramid.level_shape(shape, ratio)
                outcomes = optimize_lanes(
                    targets.replicated,
                    jobs,
                    program,
                    lanes=lanes,
                    devices=devices,
                    space=sharing(rows, space),
                    balance=len(chunk),
                    on_evaluations=on_evaluations,
                )
                for position, outcome in outcomes:
                    index = order[position]
                    if isinstance(outcome, JaxstyleError):
                        del alive[index]
                        yield index, outcome
                        continue
                    alive[index].append(outcome)
                    if level == len(levels) - 1 or outcome.reason in ENDS:
                        yield index, _finished(join_scales(alive.pop(index), shape), cells[index])


def _finished(result: Result, cell: Cell) -> Result | JaxstyleError:
    if cell.config.preserve_color != "luminance":
        return result
    try:
        content = cell.content.load()
    except JaxstyleError as error:
        return error
    return dataclasses.replace(result, image=finished_image(result.image, content, cell.config))


def _job(targets: "_Targets", cell: Cell, level: int, before: list[Result]) -> Job:
    shape = fitted_shape(cell.content.shape, cell.config)
    ratio, budget = pyramid.levels(cell.config, shape)[level]
    content, content_target = targets.of_content(cell.content, ratio)
    colors = cell.content if cell.config.preserve_color != "none" else None
    if before:
        image = resize_image(before[-1].image, content.shape)
    else:
        first = cell.styles[:1] if cell.config.init == "style" else ()
        styles = [_style_at(style, colors, cell.config, ratio) for style in first]
        image = initial_image(content, styles, cell.config)
    parts: list[StylePart] = []
    guides = cell.guides()
    for region in regions.assign(guides, style_shares(len(cell.styles), cell.config)):
        whole = region.color is None or not cell.style_guides
        styles = tuple(
            _StyleTarget(
                cell.styles[i],
                ratio,
                content.shape if depends_on_shape(cell.config) else None,
                colors,
                None if whole else cell.style_guides[i],
                region._replace(area=0.0, styles=()),
            )
            for i, _ in region.styles
        )
        blended = len(styles) > 1 and cell.config.style_blend == "statistics"
        shares = tuple(share for _, share in region.styles) if blended else None
        guided = guided_content(guides, region, content.shape, cell.config)
        parts.append(style_part(region, guided, targets.of_styles(styles, shares), cell.config))
    objective = assemble_objective(
        targets.params,
        content.shape,
        content_target,
        parts,
        fit(cell.config, content.shape, targets.params, sharing(content.shape[0], targets.space)),
    )
    history = [record for result in before for record in result.history]
    return Job(dataclasses.replace(objective, params=None), image, budget, history)


def _style_at(source: Source, colors: Source | None, config: Config, ratio: float) -> Image:
    """Return the style at a scale of `ratio`, recoloured after the content `colors` if given."""
    style = style_at_scale(source.load(), config, ratio)
    if colors is None:
        return style
    return colored_style(style, at_scale(colors.load(), config, ratio), config)


class _StyleTarget(NamedTuple):
    """Everything that the statistics of a style depend on."""

    source: Source
    ratio: float
    """Ratio of the scale."""
    like: tuple[int, ...] | None
    """Shape of the images, if the statistics depend on it."""
    colors: Source | None
    """The content, if the statistics depend on its colours."""
    guide: GuideSource | None
    region: Region
    """Region of the style, without its area and shares."""


class _Targets:
    """Data shared by a program's cells, each computed once; targets are cached on the host."""

    def __init__(
        self, params: Params, program: Config, devices: Sequence[Device], space: int
    ) -> None:
        self.program, self.space, self._reader = program, space, Reader()
        self.params = prepare_params(params, program)
        self.replicated = replicate(self.params, devices)
        self.of_content = functools.lru_cache(_CONTENTS_KEPT)(self._of_content)
        few = needs_directions(program) or program.preserve_color != "none"
        kept = _FEW_STYLES_KEPT if few else _STYLES_KEPT
        self.of_style = functools.lru_cache(kept)(self._of_style)
        self.of_styles = functools.lru_cache(kept)(self._of_styles)

    def _of_content(self, source: Source, ratio: float) -> tuple[Image, Any]:
        whole = source.load()
        if whole.shape[:2] != tuple(source.shape[:2]):
            raise ImageError("the picture has changed its shape since it was looked at")
        content = at_scale(whole, self.program, ratio)
        check_shapes(content.shape, (), self.program)
        content = colored_content(content, self.program)
        fitted = fit_targets(self.program, content.shape, self.params)
        targets = content_targets(self.params, content, fitted)
        return content, self._reader.get(targets, "a content's features")

    def _of_styles(
        self, styles: tuple[_StyleTarget, ...], shares: tuple[float, ...] | None
    ) -> Guided:
        """Return the blended targets of styles; `shares` is None where it makes no difference."""
        # A single style is cached only in its blended form.
        of_style = self._of_style if len(styles) == 1 else self.of_style
        guided = [of_style(style) for style in styles]
        values = [style.value for style in guided]
        shares = shares or (1.0,) * len(styles)
        return Guided(blend(values, shares, self.program), everywhere_there(guided))

    def _of_style(self, wanted: _StyleTarget) -> Guided:
        """Compute the statistics of a style, or of a region in it, regardless of its share."""
        source, ratio, like, colors, guide, region = wanted
        style = _style_at(source, colors, self.program, ratio)
        if self.program.style_shape == "own":
            check_size(style.shape, self.program.style_layers, self.program.padding, "style")
        loaded = None if guide is None else guide.load()
        shape = like or style.shape
        evaluated = shape if self.program.style_shape == "content" else style.shape
        fitted = fit_targets(self.program, evaluated, self.params)
        guided = guided_targets(self.params, style, fitted, shape, loaded, region)
        return guided._replace(value=self._reader.get(guided.value, "a style's statistics"))
