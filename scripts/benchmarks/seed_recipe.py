"""SciPy's L-BFGS-B as the Keras example drives it: calls of 20 evaluations, each begun anew."""

import time
from collections.abc import Callable

import numpy as np

from jaxstyle.imaging.arrays import Image

_CALL = 20
_GREY_LEVELS = 255.0


def minimize(
    evaluate: Callable[[Image], tuple[float, np.ndarray]], image: Image, evaluations: int
) -> tuple[list[float], list[float]]:
    """Losses and seconds of each evaluation, from `image` on.

    The vector is in grey levels, flat and float64, as there; `evaluate` gives loss and gradient
    of an image in 0–1.
    """
    from scipy.optimize import fmin_l_bfgs_b

    losses: list[float] = []
    seconds: list[float] = []
    started = time.perf_counter()

    def loss_and_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
        loss, grad = evaluate((x / _GREY_LEVELS).reshape(image.shape).astype(np.float32))
        losses.append(loss)
        seconds.append(time.perf_counter() - started)
        return loss, grad.astype(np.float64).ravel() / _GREY_LEVELS

    x = image.astype(np.float64).ravel() * _GREY_LEVELS
    while len(losses) < evaluations:
        before = len(losses)
        x, _, _ = fmin_l_bfgs_b(loss_and_gradient, x, maxfun=min(_CALL, evaluations - before))
        if len(losses) - before < 2:  # converged: it would evaluate the same point for ever
            break
    return losses[:evaluations], seconds[:evaluations]
