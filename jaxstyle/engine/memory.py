"""How much memory a device has, and how a program is compiled to need little of it."""

import os
from pathlib import Path
from typing import Any

import jax

Device = Any
"""A `jax.Device`, which is no type to type checkers."""

USABLE = 0.85
"""Share of a device's memory that is planned with."""

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def device_memory(device: Device) -> int:
    """Bytes that a program on `device` may use; on a CPU, this device's part of the machine's."""
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in map(Path, _LIMITS):  # what a container may use of it
        try:
            limits.append(int(path.read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue
    return min(limits) // jax.local_device_count(device.platform)


def thrifty_options() -> dict[str, str | bool]:
    """Compiler options for programs that are to need little memory."""
    if jax.default_backend() != "cpu":
        return {}
    # The default, which keeps all threads busy, also keeps a third more arrays at a time.
    return {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
