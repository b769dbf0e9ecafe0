"""SciPy's L-BFGS-B as in the Keras example: restarted every 20 evaluations."""

import time
from collections.abc import Callable

import numpy as np

from jaxstyle.imaging.arrays import Image

_CALL = 20
_GREY_LEVELS = 255.0


def minimize(
    evaluate: Callable[[Image], tuple[float, np.ndarray]], image: Image, evaluations: int
) -> tuple[list[float], list[float]]:
    """Minimize from `image` and return the loss and seconds of each evaluation.

    As in the example, the vector is flat, float64 and in grey levels; `evaluate` returns the loss
    and gradient of an image in 0–1.
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
        if len(losses) - before < 2:  # converged: it would evaluate the same point forever
            break
    return losses[:evaluations], seconds[:evaluations]
