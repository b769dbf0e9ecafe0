"""Implementation of `jaxstyle info`: facts for bug reports, nothing private."""

import contextlib
import importlib.metadata
import os
import platform
from collections.abc import Iterator

import jax

from jaxstyle.engine import device_memory
from jaxstyle.network import weights

PACKAGES = ("jax", "jaxlib", "jax-cuda12-plugin", "jax-cuda13-plugin", "libtpu", "flax", "optax")
PACKAGES += ("orbax-checkpoint", "numpy", "pillow", "tyro")
VARIABLES = ("JAX_PLATFORMS", "XLA_FLAGS", "CUDA_VISIBLE_DEVICES")


def describe() -> Iterator[str]:
    """Describe this installation and machine, line by line."""
    yield f"jaxstyle {importlib.metadata.version('jaxstyle')}, Python {platform.python_version()}"
    yield f"packages: {', '.join(_versions())}"
    yield f"system: {platform.platform()}, {os.cpu_count()} cores"
    yield from (f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ)
    path = weights.chosen_path()
    yield f"weights: {_short(path)}{'' if path.exists() else ' (missing)'}"
    cache = jax.config.values["jax_compilation_cache_dir"]
    yield f"compiled programs: {_short(cache) if cache else 'not kept'}"
    # Last, since it may fail.
    for device in jax.local_devices():
        yield f"device: {device}, {device.device_kind}, {device_memory(device) / 2**30:.1f} GiB"


def _versions() -> Iterator[str]:
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield f"{name} {importlib.metadata.version(name)}"


def _short(path: object) -> str:
    """Write `path` without the name of the user's folder."""
    text, home = str(path), os.path.expanduser("~")  # noqa: PTH111 - need not be there
    return f"~{text.removeprefix(home)}" if text.startswith(f"{home}/") else text
