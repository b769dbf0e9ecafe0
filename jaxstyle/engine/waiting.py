"""Reading from devices, with a warning if one does not answer."""

import threading
import time
import warnings
from typing import Any, TypeVar

import jax

from jaxstyle.config import counted

T = TypeVar("T")

_LEAST_SECONDS = 300.0
_TIMES_LONGEST = 20
"""Multiple of the longest wait so far after which a device is reported as not answering."""


class Reader:
    """A reader that copies values of one run from its devices to the host.

    It warns once, then continues waiting, if a read takes minutes and far longer than any before
    in this run, as it does on a stuck device.
    """

    def __init__(self) -> None:
        self._longest = 0.0
        self._warned = False

    def get(self, tree: T, meaning: str) -> T:
        """Return `tree` with its arrays copied to NumPy arrays.

        Args:
            tree: a pytree of arrays.
            meaning: name of the values, for the warning.
        """
        if self._warned or all(map(_is_ready, jax.tree.leaves(tree))):
            return jax.device_get(tree)
        limit = max(_LEAST_SECONDS, _TIMES_LONGEST * self._longest)
        timer = threading.Timer(limit, self._warn, (limit, meaning))
        timer.daemon = True
        started = time.monotonic()
        timer.start()
        try:
            return jax.device_get(tree)
        finally:
            timer.cancel()
            self._longest = max(self._longest, time.monotonic() - started)

    def _warn(self, seconds: float, meaning: str) -> None:
        self._warned = True
        warnings.warn(
            f"no answer from the device for {counted(round(seconds / 60), 'minute')}; "
            f"still waiting for {meaning}",
            stacklevel=2,
        )


def _is_ready(leaf: Any) -> bool:
    return not isinstance(leaf, jax.Array) or leaf.is_ready()  # pyright: ignore[reportAttributeAccessIssue]
