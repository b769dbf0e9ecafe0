"""Imports of many modules at once."""

import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Import modules without the garbage collector, which would search them again and again.

    They are left out of later searches, too. Does nothing once JAX is there, as for a second
    command in one process.
    """
    if "jax" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
