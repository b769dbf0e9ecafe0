"""Programs stored on disk before their compilation, so that later processes need not trace them.

JAX's compilation cache finds a program by its lowered form, which takes Python a second or two to
arrive at. This one finds the lowered form by what it was made from; see `jax.export`.
"""

import contextlib
import hashlib
import importlib.metadata
import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jax
from jax import export

from jaxstyle.config import FileError
from jaxstyle.imaging import files

_KEPT = 512
"""Number of programs stored, of about 0.2 MB each; those unused for longest make room."""

_DIGEST = hashlib.sha256().digest_size


def lowered(
    function: Callable[..., Any],
    arguments: Sequence[Any],
    identity: str | None,
    **options: Any,
) -> jax.stages.Lowered:
    """Lower `function`, from its stored form if there is one beside JAX's compilation cache.

    Args:
        function: returns arrays in lists, tuples and dictionaries.
        arguments: their shapes, types and shardings.
        identity: everything else that the function depends on, apart from the code of this package
            and the versions of others; None if that cannot be told.
        options: of `jax.jit`.
    """
    path = None if identity is None else _path(identity, arguments)
    chosen = function if path is None else _restored(path, function, arguments)
    return jax.jit(chosen, **options).lower(*arguments)


def _path(identity: str, arguments: Sequence[Any]) -> str | None:
    folder = jax.config.values["jax_compilation_cache_dir"]
    if not folder or not jax.config.values["jax_enable_compilation_cache"]:
        return None
    leaves, structure = jax.tree.flatten(arguments)
    devices = {device for leaf in leaves if leaf.sharding for device in leaf.sharding.device_set}
    # Programs are exported for the default platform.
    if len(devices) != 1 or devices.pop().platform != jax.default_backend():
        return None
    depends = (
        _versions(),
        export.default_export_platform(),
        jax.enable_x64.value,
        jax.default_matmul_precision.value,
        identity,
        str(structure),
        [(leaf.shape, str(leaf.dtype)) for leaf in leaves],
    )
    return f"{folder}/exported/{hashlib.sha256(repr(depends).encode()).hexdigest()}"


@cache
def _versions() -> tuple[str, ...]:
    """Return a fingerprint of this package's source and the versions of its dependencies."""
    sources = sorted(Path(__file__).parents[1].rglob("*.py"))
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    return (digest, *map(importlib.metadata.version, packages))


def _restored(
    path: str, function: Callable[..., Any], arguments: Sequence[Any]
) -> Callable[..., Any]:
    """Return the function in its stored form, so that every process lowers the same program."""
    exported = _read(path) or _store(path, function, arguments)

    def restored(*arguments: Any) -> Any:
        return exported.call(*jax.tree.leaves(arguments))

    return restored


def _read(path: str) -> export.Exported | None:
    try:
        data = files.read_bytes(path)
        if hashlib.sha256(data[_DIGEST:]).digest() != data[:_DIGEST]:
            return None
    except FileError:
        return None
    with contextlib.suppress(OSError):  # used just now, so others make room first
        os.utime(path)
    return export.deserialize(bytearray(data[_DIGEST:]))


def _store(path: str, function: Callable[..., Any], arguments: Sequence[Any]) -> export.Exported:
    """Store a function, and return it in that form."""
    leaves, structure = jax.tree.flatten(arguments)

    def flat(*leaves: Any) -> Any:
        return function(*structure.unflatten(leaves))

    data = export.export(jax.jit(flat))(*leaves).serialize()
    with contextlib.suppress(FileError, OSError):  # a full disk need not end the run
        folder = files.make_folder(path.rpartition("/")[0])
        files.write_atomically(path, hashlib.sha256(data).digest() + data)
        if files.is_local(path):
            _evict(Path(folder))
    return export.deserialize(data)


def _evict(folder: Path) -> None:
    by_age = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in by_age[_KEPT:]:
        path.unlink(missing_ok=True)
