"""The objectives of cells; parameters, contents and styles they share are computed once."""

import collections
import dataclasses
import functools
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from jaxstyle.config import Config, ImageError
from jaxstyle.engine import pyramid, stored
from jaxstyle.engine.compiling import Signature, cached, quick_options
from jaxstyle.engine.fitting import estimate, fit, fit_targets
from jaxstyle.engine.layout import Layout
from jaxstyle.engine.memory import Device, least_memory
from jaxstyle.engine.pictures import (
    at_scale,
    initial_image,
    style_at_scale,
    style_shape,
)
from jaxstyle.engine.waiting import Reader
from jaxstyle.imaging import Image, colored_content, colored_style, fit_shape
from jaxstyle.network import Features, Params, check_size, network_of
from jaxstyle.objective import (
    Bind,
    Guide,
    Guided,
    Guides,
    Objective,
    Region,
    StylePart,
    assemble_objective,
    blend,
    check_shapes,
    content_targets,
    depends_on_shape,
    everywhere_there,
    guided_content,
    guided_targets,
    needs_directions,
    prepare_params,
    regions,
    statistics_of,
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
    """The inputs of one image: a content, its styles and a config."""

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


_LOWERED_KEPT, _PROGRAMS_KEPT = 16, 256
"""Numbers of programs kept, lowered and compiled: one for each shape of a content or a style."""


class _Call(NamedTuple):
    """A function with its static arguments and the form of the others."""

    function: Any
    static: tuple[Hashable, ...]
    arguments: Signature
    device: Device
    identity: str | None


@cached(_LOWERED_KEPT)
def _lowered(call: _Call) -> jax.stages.Lowered:
    where = SingleDeviceSharding(call.device)
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        call.arguments.shapes,
    )
    bound = functools.partial(call.function, *call.static)
    return stored.lowered(bound, shapes, call.identity)


@cached(_PROGRAMS_KEPT)
def _compiled(call: _Call) -> jax.stages.Compiled:
    return _lowered(call).compile(quick_options())


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


class Targets:
    """Cache of the parameters, content targets and style targets that cells share."""

    def __init__(
        self, params: Params, structure: Config, devices: Sequence[Device], space: int, lanes: int
    ) -> None:
        """Prepare the parameters.

        Args:
            params: from `load_weights`.
            structure: from `structure_of`.
            devices: see `stylize_cells`.
            space: see `stylize_cells`.
            lanes: largest number of cells at a time.
        """
        self.structure, self._reader = structure, Reader()
        self._devices, self._space = tuple(devices), space
        self._memory = least_memory(devices)
        # The device that computes targets.
        self._device = next(each for each in devices if each.process_index == jax.process_index())
        self._params = prepare_params(jax.device_put(params, self._device), structure)
        self.params = Layout(self._devices).place(self._params)
        """The parameters on every device."""
        # Weakly, so that the memory of targets is freed with the last reference to them.
        this = weakref.proxy(self)
        contents = min(lanes, _CONTENTS_KEPT)
        compute = functools.partial(Targets._compute_content, this)
        # Of each scale, since later ones are prepared while the cells go through the first.
        self._of_content = collections.defaultdict(lambda: cached(contents)(compute))
        few = needs_directions(structure) or structure.preserve_color != "none"
        kept = _FEW_STYLES_KEPT if few else _STYLES_KEPT
        self._of_style = cached(kept)(functools.partial(Targets._compute_style, this))
        self._of_styles = cached(kept)(functools.partial(Targets._compute_styles, this))

    def layout(self, lanes: int = 1, jobs: int = 1) -> Layout:
        """Return the layout for a number of images; see `Layout.of`."""
        return Layout.of(self._devices, lanes=lanes, space=self._space, jobs=jobs)

    def have_room_beside(self, shape: tuple[int, int], lanes: int) -> bool:
        """Return whether targets may be computed while `lanes` images of `shape` are optimized.

        Each is planned for a device of its own otherwise.
        """
        whole = self.structure.replace(activations="kept", tile=None)
        need = lanes * estimate(whole, shape, self._params) / self._space
        return need <= self._memory / 2

    def identity(self, *depends: Hashable) -> str | None:
        """Return an identity for a program that depends on this; see `stored.lowered`.

        None if the network, a statistic or a term is the user's, whose code may change.
        """
        statistics = statistics_of(self.structure).values()
        ours = all(type(each).__module__.startswith("jaxstyle.") for each in statistics)
        ours &= isinstance(self.structure.network, str) and not self.structure.extra_terms
        return repr(depends) if ours else None

    def _bind(self, function: Any, *static: Hashable) -> Callable[..., Any]:
        """Bind a jitted function's static arguments, and compile it for a single call."""

        def call(*arguments: Any) -> Any:
            program = _compiled(self._call(function, static, arguments))
            return program(*jax.device_put(arguments, self._device))

        return call

    def _bind_shapes(self, function: Any, *static: Hashable) -> Callable[..., Any]:
        """Like `_bind`, but return zeros shaped like the results without running the program."""

        def call(*arguments: Any) -> Any:
            results = _lowered(self._call(function, static, arguments)).out_info
            return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), results)

        return call

    def _call(self, function: Any, static: tuple[Hashable, ...], arguments: Any) -> _Call:
        identity = self.identity(function.__name__, static)
        return _Call(function, static, Signature.of(arguments), self._device, identity)

    def start(self, cell: Cell, ratio: float) -> Image:
        """Return the image that a cell starts from, at a first scale of `ratio`."""
        first = cell.styles[:1] if cell.config.init == "style" else ()
        styles = [_style_at(style, _colors(cell), cell.config, ratio) for style in first]
        return initial_image(self._content(cell.content, ratio), styles, cell.config)

    def objective(self, cell: Cell, ratio: float) -> Objective:
        """Return the objective of a cell at a scale of `ratio`, without parameters."""
        content, content_target = self._of_content[ratio](cell.content, ratio)
        return self._objective(cell, ratio, content, content_target, self._of_styles)

    def outline(self, cell: Cell, ratio: float) -> Objective:
        """Return an objective like a cell's, but of zeros: no picture is loaded."""
        fitted = fit_shape(cell.content.shape, self.structure.size)
        content = _blank(pyramid.image_shape(fitted, ratio, self.structure))
        content_target = self._content_targets(content, self._bind_shapes)
        return self._objective(cell, ratio, content, content_target, self._outline_styles)

    def _objective(
        self,
        cell: Cell,
        ratio: float,
        content: Image,
        content_target: Features,
        of_styles: Callable[[tuple[_StyleTarget, ...], tuple[float, ...] | None], Guided],
    ) -> Objective:
        parts: list[StylePart] = []
        dtype = jnp.promote_types(jax.dtypes.canonicalize_dtype(content.dtype), jnp.float32)
        guides = cell.guides()
        for region in cell.regions():
            whole = region.color is None or not cell.style_guides
            styles = tuple(
                _StyleTarget(
                    cell.styles[i],
                    ratio,
                    content.shape if depends_on_shape(cell.config) else None,
                    _colors(cell),
                    None if whole else cell.style_guides[i],
                    region._replace(area=0.0, styles=()),
                )
                for i, _ in region.styles
            )
            blended = len(styles) > 1 and cell.config.style_blend == "statistics"
            shares = tuple(share for _, share in region.styles) if blended else None
            there = guided_content(guides, region, content.shape, cell.config)
            targets = of_styles(styles, shares)
            parts.append(style_part(region, there, targets, cell.config, dtype))
        fitted = fit(cell.config, content.shape, self._params, self._memory, self._space)
        objective = assemble_objective(
            self._params, content.shape, content_target, parts, fitted, dtype
        )
        return dataclasses.replace(objective, params=None, shared=self._space > 1)

    def _content(self, source: Source, ratio: float) -> Image:
        whole = source.load()
        if whole.shape[:2] != tuple(source.shape[:2]):
            raise ImageError("the picture's shape has changed since it was first read")
        content = at_scale(whole, self.structure, ratio)
        check_shapes(content.shape, (), self.structure)
        return colored_content(content, self.structure)

    def _compute_content(self, source: Source, ratio: float) -> tuple[Image, Features]:
        content = self._content(source, ratio)
        targets = self._content_targets(content, self._bind)
        # Waited for, so that running out of memory is known to be due to this cell.
        return content, jax.block_until_ready(targets)

    def _content_targets(self, content: Image, bind: Bind) -> Features:
        fitted = fit_targets(self.structure, content.shape, self._params, self._memory)
        return content_targets(self._params, content, fitted, bind)

    def _compute_styles(
        self, styles: tuple[_StyleTarget, ...], shares: tuple[float, ...] | None
    ) -> Guided:
        """Return the blended targets of styles; `shares` is None where it makes no difference."""
        # A single style is cached only in its blended form.
        of_style = self._compute_style if len(styles) == 1 else self._of_style
        return self._blended([of_style(style) for style in styles], shares)

    def _outline_styles(
        self, styles: tuple[_StyleTarget, ...], shares: tuple[float, ...] | None
    ) -> Guided:
        return self._blended([self._outline_style(style) for style in styles], shares)

    def _outline_style(self, wanted: _StyleTarget) -> Guided:
        blank = _blank(style_shape(wanted.source.shape, self.structure, wanted.ratio))
        return self._style_targets(wanted, blank, self._bind_shapes)

    def _blended(self, styles: Sequence[Guided], shares: tuple[float, ...] | None) -> Guided:
        values = [style.value for style in styles]
        shares = shares or (1.0,) * len(styles)
        return Guided(blend(values, shares, self.structure), everywhere_there(styles))

    def _compute_style(self, wanted: _StyleTarget) -> Guided:
        """Compute the statistics of a style, or of a region in it, regardless of its share."""
        style = _style_at(wanted.source, wanted.colors, self.structure, wanted.ratio)
        if self.structure.style_shape == "own":
            network = network_of(self.structure)
            check_size(network, style.shape, self.structure.style_layers, "style")
        guided = self._style_targets(wanted, style, self._bind)
        return guided._replace(value=self._reader.get(guided.value, "a style's statistics"))

    def _style_targets(self, wanted: _StyleTarget, style: Image, bind: Bind) -> Guided:
        loaded = None if wanted.guide is None else wanted.guide.load()
        shape = wanted.like or style.shape
        evaluated = shape if self.structure.style_shape == "content" else style.shape
        fitted = fit_targets(self.structure, evaluated, self._params, self._memory)
        return guided_targets(self._params, style, fitted, shape, loaded, wanted.region, bind)


def _blank(shape: tuple[int, int]) -> Image:
    return np.zeros((*shape, 3), np.float32)


def _colors(cell: Cell) -> Source | None:
    """Return the picture whose colours the styles are given, if they are."""
    return cell.content if cell.config.preserve_color != "none" else None


def _style_at(source: Source, colors: Source | None, config: Config, ratio: float) -> Image:
    """Return the style at a scale of `ratio`, recoloured after the content `colors` if given."""
    style = style_at_scale(source.load(), config, ratio)
    if colors is None:
        return style
    return colored_style(style, at_scale(colors.load(), config, ratio), config)
