"""Cache keys of programs, and compiler options by purpose."""

import functools
import os
import threading
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar

import jax
import numpy as np

P = ParamSpec("P")
T = TypeVar("T")

Options = dict[str, str | bool]

_QUICK: Options = {"xla_backend_optimization_level": "1"}
if jax.__version_info__ < (0, 12):  # later versions have no other emitters
    _QUICK["xla_cpu_use_fusion_emitters"] = False


class Signature(NamedTuple):
    """Structure, shapes and dtypes of a pytree: the key by which programs are cached."""

    structure: Any
    leaves: tuple[tuple[tuple[int, ...], Any], ...]

    @classmethod
    def of(cls, tree: Any) -> "Signature":
        """Return the signature of a pytree of arrays or of their shapes."""
        leaves, structure = jax.tree.flatten(tree)
        return cls(structure, tuple((np.shape(leaf), dtype_of(leaf)) for leaf in leaves))

    @property
    def shapes(self) -> Any:
        """The pytree, with shapes in place of arrays."""
        return self.structure.unflatten(jax.ShapeDtypeStruct(*leaf) for leaf in self.leaves)


def dtype_of(leaf: Any) -> Any:
    """Return the type that an array or a number has on a device."""
    dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
    return jax.dtypes.canonicalize_dtype(dtype, allow_extended_dtype=True)


def quick_options() -> Options:
    """Return compiler options for programs that run too briefly to be worth optimizing.

    On a CPU they halve the time of compilation, and cost 2–5 % of an evaluation's time. Options
    set in `XLA_FLAGS` stay as they are.
    """
    if jax.default_backend() != "cpu":
        return {}
    flags = os.environ.get("XLA_FLAGS", "")
    return {name: value for name, value in _QUICK.items() if f"--{name}" not in flags}


def thrifty_options() -> Options:
    """Return compiler options for programs that must need little memory."""
    if jax.default_backend() != "cpu":
        return {}
    # The default keeps all threads busy, but holds a third more arrays at a time.
    return {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


def needed_memory(program: jax.stages.Compiled) -> int:
    """Return the bytes that a program needs on each device, arguments included."""
    usage = program.memory_analysis()
    assert usage is not None
    # Donated inputs also count as outputs.
    need = usage.argument_size_in_bytes + usage.output_size_in_bytes
    return need + usage.temp_size_in_bytes - usage.alias_size_in_bytes


def cached(size: int) -> Callable[[Callable[P, T]], "Cached[P, T]"]:
    """Cache a function's last `size` results, each computed once however many threads ask."""
    return functools.partial(Cached, size)


class Cached(Generic[P, T]):
    """A function with a cache of its results; see `cached`."""

    def __init__(self, size: int, function: Callable[P, T]) -> None:
        self.__wrapped__ = function
        self._lock = threading.Lock()
        self._results = functools.lru_cache(size)(
            lambda *args, **kwargs: _Once(functools.partial(function, *args, **kwargs))
        )
        self.cache_info = self._results.cache_info
        self.cache_clear = self._results.cache_clear

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the result for these arguments, computing it if no other thread does."""
        with self._lock:
            result = self._results(*args, **kwargs)
        return result.get()


class _Once(Generic[T]):
    """A value computed at its first use; if that fails, at the next."""

    def __init__(self, compute: Callable[[], T]) -> None:
        self._compute: Callable[[], T] | None = compute
        self._value: Any = None
        self._lock = threading.Lock()

    def get(self) -> T:
        with self._lock:
            if self._compute is not None:
                self._value = self._compute()
                self._compute = None
            return self._value
