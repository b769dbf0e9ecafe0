"""Memory of devices."""

import os
from pathlib import Path
from typing import Any

import jax

Device = Any
"""A `jax.Device`, which type checkers do not recognize as a type."""

USABLE = 0.85
"""Fraction of a device's memory that plans may use."""

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def device_memory(device: Device) -> int:
    """Return the bytes a program on `device` may use; on a CPU, its part of the machine's."""
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in map(Path, _LIMITS):  # limits of a container
        try:
            limits.append(int(path.read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue
    return min(limits) // jax.local_device_count(device.platform)
