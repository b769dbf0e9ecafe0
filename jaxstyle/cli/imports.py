"""Imports of many modules at once."""

import contextlib
import gc
import signal
import sys
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Import modules without the garbage collector, which would search them again and again.

    They are left out of later searches, too. Ctrl-C ends the process at once, since an exception
    in the middle of an extension module's start may crash it. Does nothing once JAX is there, as
    for a second command in one process.
    """
    if "jax" in sys.modules or threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGINT)
    ours = callable(handler)  # neither ignored nor set by other code than Python's
    if ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        if ours:
            signal.signal(signal.SIGINT, handler)
