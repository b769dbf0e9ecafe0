"""Peak memory of a process, without imports that would need memory themselves."""

import itertools
import resource
from pathlib import Path


def peak_resident() -> int:
    """Return the peak resident memory of this process in bytes."""
    # Linux reports it for the current program; getrusage also counts memory from the parent's fork.
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text(encoding="utf-8").splitlines()
        line = next(itertools.dropwhile(lambda line: not line.startswith("VmHWM"), lines))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
