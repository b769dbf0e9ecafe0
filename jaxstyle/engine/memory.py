"""Memory of devices."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

Device = Any
"""A `jax.Device`, which type checkers do not recognize as a type."""

USABLE = 0.85
"""Fraction of a device's memory that plans may use."""

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def least_memory(devices: Sequence[Device]) -> int:
    """Return the bytes that a program may use on each of `devices`.

    The first device of a process counts for all of its devices. If there are several processes, all
    of them must call, so that they plan alike for the one with least.
    """
    here = [device for device in devices if device.process_index == jax.process_index()]
    memory = device_memory(here[0])
    if len(here) == len(devices):
        return memory
    # In units that fit 32 bits.
    return int(np.min(multihost_utils.process_allgather(np.int32(memory >> 20)))) << 20


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
