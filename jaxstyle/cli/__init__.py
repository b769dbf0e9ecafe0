"""The command line: parsing, wiring, exit codes, signals and progress bars."""

import os

from jaxstyle.cli.imports import quick_imports

# Before NumPy is imported: the threads of its linear algebra keep cores busy that XLA needs, for
# matrices too small to share.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

with quick_imports():
    from jaxstyle.cli.app import main, run

__all__ = ["main", "run"]
