"""Records of evaluations, scales and runs."""

import dataclasses
import io
import math
import time
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import numpy as np
from PIL import Image as Pil

from jaxstyle.imaging import Image
from jaxstyle.objective import Objective, Scalar
from jaxstyle.optim import CONVERGED, NOT_FINITE, RUNNING, STALLED, StepInfo

REASONS = {CONVERGED: "converged", STALLED: "stalled", NOT_FINITE: "not finite"}
"""Reasons why a run ended before its budget, by the optimizer's status."""


class UpdateInfo(NamedTuple):
    """Measurements of one update, on the device until they are read."""

    loss: Scalar
    terms: dict[str, Scalar]
    gradient_norm: Scalar
    step: StepInfo


class Record(NamedTuple):
    """The report of one evaluation.

    Over all scales, `evaluation` counts from 1, `seconds` (without compilation) and
    `compile_seconds` from 0.
    """

    evaluation: int
    loss: float
    terms: dict[str, float]
    gradient_norm: float
    step_size: float
    accepted: bool
    seconds: float
    compile_seconds: float
    scale: int


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Result:
    """The best image of the last scale run, and the history that led to it."""

    image: Image
    """sRGB `[h, w, 3]`, not clipped (`save_image` clips), so that its loss is `loss`. Exceptions:
    a run that stopped at a coarse scale, whose image is enlarged; `ema`, whose mean is not
    evaluated; and `preserve_color` where it restores the content's colours."""
    loss: float
    terms: dict[str, float]
    history: tuple[Record, ...]
    """One record per evaluation."""
    evaluations: int
    reason: str
    """`budget`, `converged`, `stalled`, `not finite`, or `stopped` by the callback."""
    seconds: float
    """Wall time of the loop up to its last evaluation, compilation excluded."""
    compile_seconds: float
    convolution: Literal["direct", "winograd"]
    """The resolved value of `config.convolution`, used in all or some of the layers."""
    activations: Literal["kept", "recomputed", "tiled"]
    """The resolved value of `config.activations`."""

    @property
    def rejected(self) -> int:
        """Evaluations whose trial the line search did not accept."""
        return sum(not record.accepted for record in self.history)

    def __repr__(self) -> str:
        """Summarize the result in one line."""
        terms = ", ".join(f"{name} {value:.4g}" for name, value in self.terms.items())
        return (
            f"Result({self._size}, loss {self.loss:.4g}{terms and f' ({terms})'}, "
            f"{self.evaluations} evaluations in {self.seconds:.1f} s, {self.reason})"
        )

    @property
    def _size(self) -> str:
        shapes = [np.shape(leaf) for leaf in jax.tree.leaves(self.image)]
        if len(shapes) == 1 and shapes[0][2:] == (3,):
            return f"{shapes[0][1]}×{shapes[0][0]}"
        return f"{sum(map(math.prod, shapes))} parameters"

    def _repr_png_(self) -> bytes | None:
        """Return the image as a PNG file, which notebooks show."""
        if np.ndim(self.image) != 3 or self.image.shape[2] != 3:
            return None
        buffer = io.BytesIO()
        levels = np.rint(np.clip(self.image, 0, 1) * 255)
        Pil.fromarray(levels.astype(np.uint8)).save(buffer, "PNG")
        return buffer.getvalue()


Callback = Callable[[Record], bool | None]
"""A function called with each evaluation's record while the device computes the next. A true
result ends the run; the evaluation then under way is recorded only in the history."""


class Journal:
    """The host's log of one scale of a run: the records read, with their times."""

    def __init__(self, before: Sequence[Record] = (), history: Sequence[Record] = ()) -> None:
        last = before[-1] if before else None
        self._spent = last.evaluation if last else 0
        self._began = last.seconds if last else 0.0
        self._compiled = last.compile_seconds if last else 0.0
        self._scale = last.scale + 1 if last else 0
        self.history = list(history)
        self.status = RUNNING
        self.start()

    @property
    def evaluations(self) -> int:
        """Number of evaluations of this scale that have been read."""
        return len(self.history)

    @property
    def _elapsed(self) -> float:
        return self.history[-1].seconds if self.history else self._began

    def start(self, compile_seconds: float = 0.0) -> None:
        """Start measuring time, after `compile_seconds` of compilation."""
        self.compile_seconds = compile_seconds
        self._offset = self._elapsed - time.perf_counter()

    def read(self, info: UpdateInfo) -> None:
        """Append the record of one update whose `info` is on the host."""
        self.history.append(
            Record(
                evaluation=self._spent + self.evaluations + 1,
                loss=float(info.loss),
                terms={name: float(value) for name, value in info.terms.items()},
                gradient_norm=float(info.gradient_norm),
                step_size=float(info.step.step_size),
                accepted=bool(info.step.accepted),
                seconds=self._offset + time.perf_counter(),
                compile_seconds=self._compiled + self.compile_seconds,
                scale=self._scale,
            )
        )
        self.status = int(info.step.status)

    def result(self, image: Image, objective: Objective, reason: str) -> Result:
        """Return the result of the whole scale, whose best image is `image`."""
        # If no loss is finite, take the first: NaN compares false.
        best = min(self.history, key=lambda record: (not np.isfinite(record.loss), record.loss))
        return Result(
            image=image,
            loss=best.loss,
            terms=best.terms,
            history=tuple(self.history),
            evaluations=self.evaluations,
            reason=reason,
            seconds=self._elapsed - self._began,
            compile_seconds=self.compile_seconds,
            convolution=objective.network.convolution,
            activations=objective.activations,
        )
