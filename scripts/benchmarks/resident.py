"""How much memory a process has had, without anything that would need memory itself."""

import itertools
import resource
from pathlib import Path


def peak_resident() -> int:
    """Bytes that this process has had in memory at most."""
    # Linux says it for the program that runs now; getrusage's lasts from the parent's fork on.
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text(encoding="utf-8").splitlines()
        line = next(itertools.dropwhile(lambda line: not line.startswith("VmHWM"), lines))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
