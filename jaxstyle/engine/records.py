"""Records of evaluations, scales and runs."""

import dataclasses
import io
import math
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import jax
import numpy as np
from jaxtyping import PyTree, UInt8
from PIL import Image as Pil

from jaxstyle.config import counted
from jaxstyle.engine.update import Info, State
from jaxstyle.imaging import Image, to_uint8
from jaxstyle.objective import Objective
from jaxstyle.optim import CONVERGED, NOT_FINITE, RUNNING, STALLED

REASONS = {CONVERGED: "converged", STALLED: "stalled", NOT_FINITE: "not finite"}
"""Reasons why a run ended before its budget, by the optimizer's status."""

ENDS = ("stopped", "not finite")
"""Reasons after which no finer scale follows."""


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

    image: Image | Any  # not PyTree, of which a strict type checker knows nothing
    """sRGB `[h, w, 3]`, not clipped (`to_uint8` and `save_image` clip), so that its loss is `loss`.
    Exceptions: a run that stopped at a coarse scale, whose image is enlarged; `ema`, whose mean is
    not evaluated; and `preserve_color` where it restores the content's colours. For `optimize`,
    a pytree like its starting point."""
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
    convolution: Literal["direct", "winograd"] | None = None
    """The resolved value of `config.convolution`, used in all or some of the layers; None if the
    objective is not one of `build_objective`."""
    activations: Literal["kept", "recomputed", "tiled"] | None = None
    """The resolved value of `config.activations`, or None likewise."""

    @property
    def rejected(self) -> int:
        """Evaluations whose trial the line search did not accept."""
        return sum(not record.accepted for record in self.history)

    def to_uint8(self) -> UInt8[np.ndarray, "h w 3"]:
        """Return the image as grey levels, clipped and rounded.

        A cast alone would truncate, and wrap values outside 0–1 around.
        """
        return to_uint8(self.image)

    def __repr__(self) -> str:
        """Summarize the result in one line."""
        terms = ", ".join(f"{name} {value:.4g}" for name, value in self.terms.items())
        return (
            f"Result({self._size}, loss {self.loss:.4g}{terms and f' ({terms})'}, "
            f"{counted(self.evaluations, 'evaluation')} in {self.seconds:.1f} s, {self.reason})"
        )

    @property
    def _size(self) -> str:
        shapes = [np.shape(leaf) for leaf in jax.tree.leaves(self.image)]
        if len(shapes) == 1 and shapes[0][2:] == (3,):
            return f"{shapes[0][1]}×{shapes[0][0]}"
        return counted(sum(map(math.prod, shapes)), "parameter")

    def _repr_png_(self) -> bytes | None:
        """Return the image as a PNG file, which notebooks show."""
        if np.ndim(self.image) != 3 or self.image.shape[2] != 3:
            return None
        buffer = io.BytesIO()
        Pil.fromarray(self.to_uint8()).save(buffer, "PNG")
        return buffer.getvalue()


Callback = Callable[[Record], bool | None]
"""A function called with each evaluation's record while the device computes the next. A true
result ends the run; the evaluation then under way is recorded only in the history."""


class Progress(NamedTuple):
    """Everything needed to resume a run between two evaluations."""

    state: State
    """State of the current scale."""
    history: tuple[Record, ...] = ()
    """Records of the current scale."""
    earlier: Result | None = None
    """Joint result of the earlier scales."""
    status: int = RUNNING
    compile_seconds: float = 0.0
    """Compilation time of the current scale."""

    @property
    def records(self) -> tuple[Record, ...]:
        """Records of all scales."""
        return (*(self.earlier.history if self.earlier else ()), *self.history)

    @property
    def evaluations(self) -> int:
        """Number of evaluations in all scales."""
        return self.records[-1].evaluation if self.records else 0

    @property
    def scale(self) -> int:
        """Position of the current scale, counted from the coarsest."""
        return self.earlier.history[-1].scale + 1 if self.earlier else 0


class Keeper(Protocol):
    """An observer that is shown a run's progress at chosen evaluations, for example to save it.

    Progress is shown once its evaluations are read and no other is under way. Its arrays are
    valid only until the call returns: the next update reuses their memory.
    """

    def wants(self, evaluation: int) -> bool:
        """Return whether to show the progress after `evaluation`, counted over all scales."""
        ...

    def keep(self, progress: Progress) -> None:
        """Receive the progress that `wants` asked for."""
        ...

    def save(self, progress: Progress) -> None:
        """Receive the progress of a new scale, or of a run that is stopped or ends."""
        ...


class Journal:
    """The host's log of one scale of a run: the records read, with their times."""

    def __init__(self, earlier: Result | None, resumed: Progress | None) -> None:
        last = earlier.history[-1] if earlier else None
        self.spent = last.evaluation if last else 0
        self._began = last.seconds if last else 0.0
        self._compiled = last.compile_seconds if last else 0.0
        self._scale = last.scale + 1 if last else 0
        self.history = list(resumed.history) if resumed else []
        self.status = resumed.status if resumed else RUNNING
        self.compile_seconds = resumed.compile_seconds if resumed else 0.0
        self.start()

    @property
    def evaluations(self) -> int:
        """Number of evaluations of this scale that have been read."""
        return len(self.history)

    @property
    def _elapsed(self) -> float:
        return self.history[-1].seconds if self.history else self._began

    def start(self, compile_seconds: float = 0.0) -> None:
        """Start measuring time, after `compile_seconds` more of compilation."""
        self.compile_seconds += compile_seconds
        self._offset = self._elapsed - time.perf_counter()

    def read(self, info: Info) -> None:
        """Append the record of one update whose `info` is on the host."""
        self.history.append(
            Record(
                evaluation=self.spent + self.evaluations + 1,
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

    def result(self, image: PyTree[np.ndarray], objective: Any, reason: str) -> Result:
        """Return the result of the whole scale, whose best image is `image`."""
        # If no loss is finite, take the first: NaN compares false.
        best = min(self.history, key=lambda record: (not np.isfinite(record.loss), record.loss))
        ours = isinstance(objective, Objective)
        return Result(
            image=image,
            loss=best.loss,
            terms=best.terms,
            history=tuple(self.history),
            evaluations=self.evaluations,
            reason=reason,
            seconds=self._elapsed - self._began,
            compile_seconds=self.compile_seconds,
            convolution=objective.convolution if ours else None,
            activations=objective.activations if ours else None,
        )
