"""Cells on their way through the scales, coarsest first."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
import optax

from jaxstyle.config import JaxstyleError
from jaxstyle.engine import pyramid
from jaxstyle.engine.ahead import Ahead
from jaxstyle.engine.layout import Layout, compile_update, whole
from jaxstyle.engine.loop import Job, run
from jaxstyle.engine.optimizers import hyperparameters, make_optimizer
from jaxstyle.engine.pictures import join_scales
from jaxstyle.engine.records import ENDS, Callback, Keeper, Progress, Result
from jaxstyle.engine.targets import Cell, Targets
from jaxstyle.engine.update import state_shapes
from jaxstyle.imaging import colored_result, resize_image
from jaxstyle.objective import Objective

Outcomes = Iterator[tuple[int, Result | JaxstyleError]]
"""Positions of cells with their results or errors, in the order in which they end."""

_QUICK = 2**24
"""Product of an image's pixels and evaluations up to which compiling quickly saves time."""


class _Scale(NamedTuple):
    """One scale of all cells."""

    number: int
    ratio: float
    shape: tuple[int, int]
    """Height and width of the images."""
    optimizer: optax.GradientTransformation
    identity: str | None
    """What tells the program from those of other settings; see `compile_update`."""
    quick: bool
    """Whether to compile quickly; see `quick_options`."""
    final: bool


@dataclasses.dataclass
class Passage:
    """A cell going through the scales, with its result so far."""

    index: int
    cell: Cell
    callback: Callback | None
    keeper: Keeper | None
    resumed: Progress | None
    before: Result | None = None
    """Joint result of the scales done."""

    @property
    def begins(self) -> int:
        """Number of the first scale to run."""
        return 0 if self.resumed is None else self.resumed.scale

    def job(
        self,
        targets: Targets,
        scale: _Scale,
        budget: int,
        layout: Layout,
        prepared: Callable[[], Objective | None],
    ) -> Job:
        """Make the job of a scale, with the objective that was prepared for it, if any."""
        started = time.perf_counter()
        objective = prepared()
        waited = time.perf_counter() - started
        resumed, self.resumed = self.resumed, None
        if resumed is not None:
            self.before, image = resumed.earlier, resumed.state.image
        elif self.before is not None:
            image = resize_image(self.before.image, scale.shape)
            if self.keeper is not None:
                state = layout.start(scale.optimizer, image)
                state = whole(state, state_shapes(scale.optimizer, image))
                self.keeper.save(Progress(state, earlier=self.before))
        else:
            image = targets.start(self.cell, scale.ratio)
        return Job(
            targets.objective(self.cell, scale.ratio) if objective is None else objective,
            image,
            budget,
            self.before,
            resumed,
            scale.final,
            self.callback,
            self.keeper,
            waited,
            hyperparameters(self.cell.config, budget),
        )

    def finished(self, shape: tuple[int, int]) -> Result | JaxstyleError:
        """Return the joint result at its final size and with its final colours."""
        assert self.before is not None
        image = resize_image(self.before.image, shape)
        if self.cell.config.preserve_color == "luminance":
            try:
                image = colored_result(image, self.cell.content.load(), self.cell.config)
            except JaxstyleError as error:
                return error
        return dataclasses.replace(self.before, image=image)


def through_scales(
    wave: Sequence[Passage | None],
    targets: Targets,
    shape: tuple[int, int],
    budgets: Sequence[int],
    lanes: int,
    *,
    shrink: bool,
    new: bool,
    on_evaluations: Callable[[int], None] | None,
) -> Outcomes:
    """Take cells through all scales of a result of `shape`.

    Meanwhile, programs of all scales are compiled, and the first cell's objectives computed.

    Args:
        wave: the cells; None stands for one that is done.
        targets: the cells' targets, which also know the settings that they share.
        shape: `(height, width)` of the last scale.
        budgets: largest number of evaluations at each scale.
        lanes: largest number of images at a time in each group of devices.
        shrink: whether to take fewer if they would not fit in memory.
        new: whether cells of this kind have not been taken through scales yet.
        on_evaluations: see `run`.
    """
    alive = list(wave)
    leader = min((each for each in wave if each is not None), key=lambda each: each.begins)
    scales = _scales(targets, shape, budgets)[leader.begins :]

    def layout_of(lanes: int) -> Layout:
        return targets.layout(lanes, len(wave))

    def compile_scale(scale: _Scale) -> None:
        _compile(scale, leader.cell, targets, layout_of(lanes), shrink=shrink)

    def objective(scale: _Scale) -> Objective:
        return targets.objective(leader.cell, scale.ratio)

    # Processes that share an image must do the same in the same order.
    alone = jax.process_count() == 1
    later = scales[1:] if alone and targets.have_room_beside(shape, lanes) else []
    with (
        Ahead(compile_scale, scales if alone and new else []),
        Ahead(objective, later) as ahead,
    ):
        for scale in scales:
            layout = layout_of(lanes)
            jobs = [
                None
                if each is None or each.begins > scale.number
                else functools.partial(
                    each.job,
                    targets,
                    scale,
                    pyramid.levels(each.cell.config, shape)[scale.number].evaluations,
                    layout,
                    functools.partial(ahead.take, scale if each is leader else None),
                )
                for each in alive
            ]
            outcomes = run(
                jobs,
                scale.optimizer,
                layout_of,
                lanes,
                targets.params,
                quick=scale.quick,
                shrink=shrink,
                identity=scale.identity,
                on_evaluations=on_evaluations,
            )
            for position, outcome in outcomes:
                passage = alive[position]
                assert passage is not None
                if isinstance(outcome, JaxstyleError):
                    alive[position] = None
                    yield passage.index, outcome
                    continue
                done = [outcome] if passage.before is None else [passage.before, outcome]
                passage.before = join_scales(done, scale.shape)
                if scale.final or outcome.reason in ENDS:
                    alive[position] = None
                    yield passage.index, passage.finished(shape)
            if not any(alive):
                return


def compile_scales(
    cell: Cell, targets: Targets, shape: tuple[int, int], budgets: Sequence[int]
) -> None:
    """Compile all that a cell alone needs; see `through_scales` for the arguments."""

    def compile_scale(scale: _Scale) -> bool:
        layout = targets.layout()
        outline = _compile(scale, cell, targets, layout)
        layout.start(scale.optimizer, np.zeros((*scale.shape, 3), outline.tv_weight.dtype))
        return True

    scales = _scales(targets, shape, budgets)
    with Ahead(compile_scale, scales) as ahead:
        for scale in scales:
            targets.objective(cell, scale.ratio)
            if not ahead.take(scale):
                compile_scale(scale)  # raises the error


def _compile(
    scale: _Scale, cell: Cell, targets: Targets, layout: Layout, *, shrink: bool = False
) -> Objective:
    """Compile an update of a scale; return the outline of its objective."""
    outline = targets.outline(cell, scale.ratio)
    compile_update(
        layout,
        scale.optimizer,
        outline,
        jax.ShapeDtypeStruct((*scale.shape, 3), outline.tv_weight.dtype),
        targets.params,
        hyperparameters=hyperparameters(cell.config, budget=1),
        quick=scale.quick,
        shrink=shrink,
        identity=scale.identity,
    )
    return outline


def _scales(targets: Targets, shape: tuple[int, int], budgets: Sequence[int]) -> list[_Scale]:
    structure = targets.structure
    levels = pyramid.levels(structure, shape)
    scales: list[_Scale] = []
    for number, (level, budget) in enumerate(zip(levels, budgets, strict=True)):
        rows = level.shape[0]
        scales.append(
            _Scale(
                number,
                level.ratio,
                level.shape,
                make_optimizer(structure, (rows, targets.layout().padded_rows(rows))),
                # The objective's own settings are part of its structure.
                targets.identity(structure.optimizer, structure.precision),
                budget * math.prod(level.shape) <= _QUICK,
                number == len(levels) - 1,
            )
        )
    return scales
