"""What is told of evaluations, scales and runs."""

import time
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jax import Array
from jaxtyping import Bool, Int

from jaxstyle.imaging import Image
from jaxstyle.objective import Objective, Scalar
from jaxstyle.optim import CONVERGED, NOT_FINITE, RUNNING, STALLED

REASONS = {CONVERGED: "converged", STALLED: "stalled", NOT_FINITE: "not finite"}
"""Why a run ended, by the optimizer's status, if not by its budget."""


class UpdateInfo(NamedTuple):
    """What one update has seen; on the device until it is read."""

    evaluations: Int[Array, ""]
    loss: Scalar
    terms: dict[str, Scalar]
    gradient_norm: Scalar
    step_size: Scalar
    accepted: Bool[Array, ""]
    status: Int[Array, ""]


class Record(NamedTuple):
    """One evaluation as it is reported.

    `evaluation` counts from 1, `seconds`, without compilation, and `compile_seconds` from 0,
    over all scales.
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


class Result(NamedTuple):
    """The best image of the last scale that was run, and how it came about."""

    image: Image
    """sRGB `[h, w, 3]`, not clipped (`save_image` clips), so that its loss is `loss`. Otherwise
    it is only where a run stopped at a coarse scale, which enlarges it, with `ema`, whose mean is
    not evaluated, and where `preserve_color` puts the content's colours back."""
    loss: float
    terms: dict[str, float]
    history: tuple[Record, ...]
    """One record an evaluation; an update for `optax-lbfgs`, whose updates take several."""
    evaluations: int
    reason: str
    """`budget`, `converged`, `stalled`, `not finite`, or `stopped` by the callback."""
    seconds: float
    """Wall time of the loop up to its last evaluation, compilation excluded."""
    compile_seconds: float
    convolution: Literal["direct", "winograd"]
    """What `config.convolution` came to, in all or some of the layers."""
    activations: Literal["kept", "recomputed", "tiled"]
    """What `config.activations` came to."""

    @property
    def rejected(self) -> int:
        """Evaluations whose trial the line search did not accept."""
        return sum(not record.accepted for record in self.history)


Callback = Callable[[Record], bool | None]
"""Called with each evaluation's record while the device does the next; a true result ends the
run, with one more evaluation under way, whose record is only in the history."""


class Journal:
    """The host's account of one scale of a run: what was read, and when."""

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
        """Evaluations of this scale that were read."""
        return self.history[-1].evaluation - self._spent if self.history else 0

    @property
    def _elapsed(self) -> float:
        return self.history[-1].seconds if self.history else self._began

    def start(self, compile_seconds: float = 0.0) -> None:
        """Count time from now on, after so much of compilation."""
        self.compile_seconds = compile_seconds
        self._offset = self._elapsed - time.perf_counter()

    def read(self, info: UpdateInfo) -> None:
        """Add what one update has seen, once it is on the host."""
        self.history.append(
            Record(
                evaluation=self._spent + int(info.evaluations),
                loss=float(info.loss),
                terms={name: float(value) for name, value in info.terms.items()},
                gradient_norm=float(info.gradient_norm),
                step_size=float(info.step_size),
                accepted=bool(info.accepted),
                seconds=self._offset + time.perf_counter(),
                compile_seconds=self._compiled + self.compile_seconds,
                scale=self._scale,
            )
        )
        self.status = int(info.status)

    def result(self, image: Image, objective: Objective, reason: str) -> Result:
        """The scale as a whole, whose best image is `image`."""
        # Of no finite loss at all, the first: NaN compares false.
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
