"""Preparation of scales in threads, while earlier ones run."""

import concurrent.futures
import os
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, Self, TypeVar

import jax

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Ahead(Generic[K, T]):
    """Values prepared in the background: XLA compiles without holding Python's lock."""

    def __init__(self, prepare: Callable[[K], T], keys: Sequence[K]) -> None:
        """Start `prepare` for each of `keys`, in order."""
        # A context manager's settings apply to its own thread only.
        x64, device = jax.enable_x64.value, jax.default_device.value
        precision = jax.default_matmul_precision.value

        def prepared(key: K) -> T:
            with (
                jax.enable_x64(x64),
                jax.default_device(device),
                jax.default_matmul_precision(precision),
            ):
                return prepare(key)

        workers = max(1, min(len(keys), usable_cores() - 1))
        self._executor = concurrent.futures.ThreadPoolExecutor(workers, "jaxstyle-ahead")
        self._futures = {key: self._executor.submit(prepared, key) for key in keys}

    def take(self, key: K | None) -> T | None:
        """Wait for a value and return it, once; None if there is none or it has failed."""
        future = self._futures.pop(key, None) if key is not None else None
        # What failed is tried again where its error can be handled.
        if future is None or future.exception() is not None:
            return None
        return future.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Cancel what has not started; what has, runs on in its thread."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def usable_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
