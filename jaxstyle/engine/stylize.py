"""From pictures and settings to images: one, or many in as few programs as shapes allow."""

import dataclasses
import functools
import os
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal

import jax
import numpy as np

from jaxstyle.config import (
    Adam,
    Config,
    ConfigError,
    FileError,
    ImageError,
    JaxstyleError,
    OneScale,
    OutOfMemoryError,
    counted,
    equal,
    is_out_of_memory,
    preset,
)
from jaxstyle.engine import pyramid
from jaxstyle.engine.fitting import fit, for_space
from jaxstyle.engine.layout import Layout
from jaxstyle.engine.memory import Device, least_memory
from jaxstyle.engine.pictures import check_scales
from jaxstyle.engine.records import Callback, Keeper, Progress, Record, Result
from jaxstyle.engine.scales import Outcomes, Passage, compile_scales, through_scales
from jaxstyle.engine.targets import Cell, GuideSource, Source, Targets
from jaxstyle.imaging import PictureLike, as_several, fit_shape, load_image
from jaxstyle.network import Params, common_network, load_weights
from jaxstyle.objective import (
    Guides,
    as_styles,
    check_params,
    check_settings,
    needs_directions,
    prepare_params,
    style_shares,
)

_PIXELS = {"cpu": 2**17}
_PIXELS_ELSEWHERE = 2**23
"""Total pixels of a device's lanes above which more lanes no longer pay off."""


def stylize(
    content: PictureLike,
    styles: PictureLike | Sequence[PictureLike],
    config: Config | str = "default",
    params: Params | None = None,
    callback: Callback | None = None,
    *,
    guides: Guides | PictureLike | None = None,
    keeper: Keeper | None = None,
    progress: Progress | None = None,
    devices: Sequence[Device] = (),
) -> Result:
    """Render `content` in the style of `styles`.

    Args:
        content: a path, a Pillow image, or an array `[h, w, 3]` of floats in 0–1 or of uint8 (see
            `load_image`); resized to `config.size`.
        styles: one such picture, or several, blended as `config` says.
        config: the settings, or the name of a preset.
        params: from `load_weights`, or those of your own network; by default loaded, and downloaded
            on first use.
        callback: called with each `Record`; a true result ends the run early.
        guides: regions and their styles, or just the content's guide; by default all styles apply
            everywhere.
        keeper: is shown the progress, so that an interrupted run can be resumed.
        progress: shown to a keeper by a run of the same inputs and settings, to resume from; arrays
            of it that are on a device are invalid afterwards.
        devices: several devices to share the image's rows, from `pick_devices`.

    Returns:
        The best image of the last scale run, with the history of all scales; bit for bit the
        same wherever the run was interrupted and resumed.

    Raises:
        ConfigError, FileError, ImageError, WeightsError: before anything is computed.
        OutOfMemoryError: memory ran out.
    """
    config = _as_config(config)
    devices = tuple(devices) or (jax.local_devices()[0],)
    cell = _Sources().cell(content, as_styles(styles), config, guides)
    adapted = for_space(config, len(devices))
    params = _as_params(params, [config])
    fitted = fit_shape(cell.content.shape, config.size)
    _check_memory(fitted, adapted, params, len(devices), least_memory(devices))
    ((_, outcome),) = stylize_cells(
        [cell],
        params,
        callback=lambda _, record: callback is not None and callback(record),
        keepers=lambda _: keeper,
        progress=lambda _: progress,
        lanes=1,
        devices=devices,
        space=len(devices),
    )
    if isinstance(outcome, JaxstyleError):
        raise outcome
    return outcome


def _as_config(config: Any) -> Config:
    if isinstance(config, str):
        return preset(config)
    if not isinstance(config, Config):
        raise ConfigError(f"config must be a Config or the name of a preset, not {config!r}")
    return config


def _as_params(params: Params | None, configs: Sequence[Config]) -> Params:
    check_params(params)
    return load_weights(network=common_network(configs)) if params is None else params


def compile_ahead(shape: tuple[int, int], config: Config, params: Params) -> None:
    """Compile what `stylize` needs on one device for contents of `shape` (height, width).

    Raises:
        ConfigError, ImageError, OutOfMemoryError: see `stylize`.
    """
    picture = np.random.default_rng(0).random((*shape, 3), np.float32)
    cell = _Sources().cell(picture, (picture,), config, None)
    fitted, devices = fit_shape(shape, config.size), (jax.local_devices()[0],)
    _check_memory(fitted, config, params, 1, least_memory(devices))
    budgets = [level.evaluations for level in pyramid.levels(config, fitted)]
    try:
        compile_scales(cell, Targets(params, structure_of(config), devices, 1, 1), fitted, budgets)
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError() from None


def _check_memory(
    shape: tuple[int, int], config: Config, params: Params, space: int, memory: int
) -> None:
    """Raise `ConfigError` if a scale does not fit the devices' memory, the last scale first."""
    prepared = jax.eval_shape(functools.partial(prepare_params, config=config), params)
    for level in reversed(pyramid.levels(config, shape)):
        fit(config, level.shape, prepared, memory, space)


def stylize_batch(
    contents: PictureLike | Sequence[PictureLike],
    styles: PictureLike | Sequence[PictureLike | Sequence[PictureLike]],
    config: Config | str | Sequence[Config] = "default",
    params: Params | None = None,
    callback: Callable[[int, Record], bool | None] | None = None,
    *,
    guides: Guides | PictureLike | Sequence[Guides | PictureLike | None] | None = None,
    lanes: int | None = None,
    devices: Sequence[Device] | None = None,
    space: int = 1,
) -> list[Result | JaxstyleError]:
    """Stylize many images at once, as lanes of one program that share their common work.

    Contents, styles, configs and guides correspond by position; a single one serves all. Configs
    that differ by value (weights, seed, init, budgets, learning rate) share a program; those that
    differ by structure (size, layers, pooling, optimizer …) are grouped.

    Args:
        contents: as for `stylize`, of any shapes; each shape has its own program.
        styles: for each content, one picture, or several to blend.
        config: as for `stylize`, one per content.
        params: from `load_weights`, or those of your own network; by default loaded, and downloaded
            on first use.
        callback: called with the position of an image and each of its records; a true result ends
            that image's run early.
        guides: as for `stylize`, one per content.
        lanes: images at a time on each device; by default as many as fit its memory and pay off.
        devices: devices of this host; all by default.
        space: number of devices that share the rows of each image.

    Returns:
        The results in order; the `reason` of one whose loss is not finite says so. In the place of
        an image that failed alone, such as for a picture that is too small, is its error.

    Raises:
        ConfigError, WeightsError: before anything is computed.
    """
    devices = _checked(devices, lanes, space)
    given = {
        "contents": as_several(contents),
        "styles": as_several(styles),
        "configs": [*map(_as_config, as_several(config))],
        "guides": (guides,) if isinstance(guides, Guides) else as_several(guides),
    }
    counts = {len(items) for items in given.values()} - {1}
    if len(counts) > 1:
        numbers = ", ".join(f"{len(items)} {name}" for name, items in given.items())
        raise ConfigError(
            f"{numbers} do not go together; give the same number of each, or one for all"
        )
    count = counts.pop() if counts else 1
    sources = _Sources()
    outcomes: dict[int, Result | JaxstyleError] = {}
    cells: dict[int, Cell] = {}
    for i in range(count):
        content, several, setting, guide = (items[i % len(items)] for items in given.values())
        try:
            cells[i] = sources.cell(content, as_styles(several), setting, guide)
        except (FileError, ImageError) as error:
            outcomes[i] = error
    params = _as_params(params, given["configs"])
    for structure, shape in {
        (structure_of(cell.config), fit_shape(cell.content.shape, cell.config.size))
        for cell in cells.values()
    }:
        adapted = for_space(structure, space)
        _check_memory(shape, adapted, params, space, least_memory(devices))
    positions = list(cells)
    for index, outcome in stylize_cells(
        list(cells.values()),
        params,
        callback=lambda index, record: callback is not None and callback(positions[index], record),
        lanes=lanes,
        devices=devices,
        space=space,
    ):
        outcomes[positions[index]] = outcome
    return [outcomes[i] for i in range(count)]


class _Sources:
    """Cells of pictures as they were given: the same one is loaded once and is the same source."""

    def __init__(self) -> None:
        self._made: dict[tuple[int | str, Any], Any] = {}
        self._given: list[Any] = []
        """What keys are made of, kept so that no other object gets its identity."""

    def cell(
        self,
        content: PictureLike,
        styles: Sequence[PictureLike],
        config: Config,
        guides: Guides | PictureLike | None,
    ) -> Cell:
        """Return a cell, once it is known that its pictures and settings go together."""
        source = self._picture(content, "content", config.size)
        style_sources = tuple(self._picture(style, "style", "original") for style in styles)
        if guides is None or isinstance(guides, Guides):
            parsed = guides
        else:
            parsed: Guides | None = self._once("mask", guides, functools.partial(Guides.of, guides))
        check_scales(source.shape, [style.shape for style in style_sources], config, parsed)
        sourced = [
            self._once("guide", guide, lambda guide=guide: GuideSource(lambda: guide))
            for guide in (() if parsed is None else (parsed.content, *parsed.styles))
        ]
        content_guide, *style_guides = sourced or (None,)
        return Cell(source, style_sources, config, content_guide, tuple(style_guides))

    def _picture(self, given: PictureLike, name: str, size: int | Literal["original"]) -> Source:
        def load() -> Source:
            picture = load_image(given, size, name=name)
            return Source(picture.shape, lambda: picture)

        return self._once(size, given, load)

    def _once(self, kind: int | str, given: Any, make: Callable[[], Any]) -> Any:
        key = kind, given if isinstance(given, (str, os.PathLike)) else id(given)
        if key not in self._made:
            self._given.append(given)
            self._made[key] = make()
        return self._made[key]


def _checked(devices: Sequence[Device] | None, lanes: int | None, space: int) -> tuple[Device, ...]:
    devices = tuple(jax.local_devices() if devices is None else devices)
    if not 1 <= space <= len(devices):
        raise ConfigError(_unshared(space, len(devices)))
    if len({device.process_index for device in devices}) > 1 and space != len(devices):
        raise ConfigError(
            f"{len(devices)} devices of several processes can only share one image: space must be "
            f"{len(devices)}, not {space}"
        )
    if lanes is not None and lanes < 1:
        raise ConfigError(f"lanes must be at least 1, not {lanes}")
    return devices


def pick_devices(count: int) -> tuple[Device, ...]:
    """Return the first `count` devices of all processes.

    Raises:
        ConfigError: fewer devices exist, or a process has none of them.
    """
    if not 1 <= count <= jax.device_count():
        raise ConfigError(_unshared(count, jax.device_count()))
    chosen = tuple(jax.devices()[:count])
    if len({device.process_index for device in chosen}) < jax.process_count():
        raise ConfigError(
            f"sharing an image among {counted(count, 'device')} leaves some processes without one; "
            f"share it among all {jax.device_count()}"
        )
    return chosen


def _unshared(count: int, devices: int) -> str:
    asked = f"an image cannot be shared by {counted(count, 'device')}"
    return f"{asked}: there {'is' if devices == 1 else 'are'} {devices}"


def structure_of(config: Config) -> Config:
    """Return `config` without settings that are data: equal results share a compiled program."""
    scales, optimizer = config.scales, config.optimizer
    if not isinstance(scales, OneScale):
        scales = dataclasses.replace(scales, coarse_evaluations=None, first_evaluations=None)
    if isinstance(optimizer, Adam):
        ema = optimizer.ema and 0.5
        optimizer = dataclasses.replace(optimizer, learning_rate=1.0, ema=ema)
    return dataclasses.replace(
        config,
        content_weight=1.0,
        style_weight=1.0,
        tv_weight=1.0,
        content_layers=equal(*config.content_layers),
        style_layers=equal(*config.style_layers),
        style_statistics=equal(*config.style_statistics),
        extra_terms=equal(*config.extra_terms),
        style_weights=(),
        init="content",
        # Directions are drawn once per program.
        seed=config.seed if needs_directions(config) else 0,
        evaluations=1,
        optimizer=optimizer,
        scales=scales,
    )


def check_cell(config: Config, styles: int) -> None:
    """Raise `ConfigError` if a cell of `styles` styles is impossible with `config`."""
    check_settings(config)
    style_shares(styles, config)


def stylize_cells(
    cells: Sequence[Cell],
    params: Params,
    *,
    skip: Collection[int] = (),
    callback: Callable[[int, Record], bool | None] | None = None,
    keepers: Callable[[int], Keeper | None] = lambda _: None,
    progress: Callable[[int], Progress | None] = lambda _: None,
    lanes: int | None = None,
    devices: Sequence[Device] | None = None,
    space: int = 1,
    on_evaluations: Callable[[int], None] | None = None,
) -> Outcomes:
    """Stylize every cell, yielding its position and its result or error.

    Args:
        cells: the cells, whose pictures are loaded when needed.
        params: from `load_weights`.
        skip: positions of finished cells. They keep their slots, so that the others are bit for
            bit the same as with them.
        callback: called with the position of a cell and each of its records; a true result ends it.
        keepers: the keeper of the cell at a position.
        progress: the progress to resume the cell at a position from.
        lanes: images at a time on each device, or on each group of `space` devices; by default as
            many as fit in memory, but no more than pay off.
        devices: devices of this host; all by default.
        space: see `stylize_batch`.
        on_evaluations: called with the number of evaluations read since the last call.

    Raises:
        ConfigError: see `check_cell`; also invalid `lanes` or `space`.
    """
    for cell in cells:
        check_cell(cell.config, len(cell.styles))
    devices = _checked(devices, lanes, space)
    groups: dict[tuple[Config, tuple[int, int], tuple[Any, ...]], list[int]] = {}
    for index, cell in enumerate(cells):
        structure = structure_of(for_space(cell.config, space))
        shape = fit_shape(cell.content.shape, structure.size)
        try:
            cell_regions = cell.regions()
        except JaxstyleError as error:
            if index not in skip:
                yield index, error
            continue
        blended = structure.style_blend == "statistics"
        parts = [(r.color is None, 1 if blended else len(r.styles)) for r in cell_regions]
        groups.setdefault((structure, shape, tuple(parts)), []).append(index)
    targets: Targets | None = None
    for (structure, shape, _), members in groups.items():
        most = lanes or _paying_lanes(shape, devices, space)
        levels = [pyramid.levels(cells[index].config, shape) for index in members]
        longest = [max(level.evaluations for level in same) for same in zip(*levels, strict=True)]
        # With one scale, all cells wait for one program. With several, each wave of cells goes
        # through all scales before the next one starts, so that cells are finished steadily.
        step = len(members)
        if len(longest) > 1:
            step = Layout.of(devices, lanes=most, space=space, jobs=step).slots
        new = True
        for first in range(0, len(members), step):
            wave = members[first : first + step]
            if all(index in skip for index in wave):
                continue
            if targets is None or targets.structure != structure:
                targets = Targets(params, structure, devices, space, most)
            passages = [
                None
                if index in skip
                else Passage(
                    index,
                    cells[index],
                    functools.partial(callback, index) if callback is not None else None,
                    keepers(index),
                    progress(index),
                )
                for index in wave
            ]
            yield from through_scales(
                passages,
                targets,
                shape,
                longest,
                most,
                shrink=lanes is None,
                new=new,
                on_evaluations=on_evaluations,
            )
            new = False


def _paying_lanes(shape: tuple[int, ...], devices: Sequence[Device], space: int) -> int:
    """Return the largest number of lanes that pays off on `space` devices, given `shape`."""
    pixels = space * _PIXELS.get(devices[0].platform, _PIXELS_ELSEWHERE)
    return max(1, pixels // (shape[0] * shape[1]))
