"""Exit codes and signals."""

import contextlib
import os
import signal
import stat
from collections.abc import Iterator
from typing import Any

EXIT_FAILED, EXIT_MISTAKE, EXIT_CELLS_FAILED = 1, 2, 3
EXIT_SIGNAL = 128
"""Added to the signal's number: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""

AGAIN = "run the same command again to continue"
"""What a user can do about a run or a grid that was cut off."""

_ENDING = (signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))
"""Signals besides Ctrl-C that end a run; a lost connection sends the second."""


class Interrupt:
    """The request to end this process, if any, and its signal."""

    def __init__(self) -> None:
        self.signal: int = signal.SIGINT
        self.requested = self._armed = False

    @property
    def word(self) -> str:
        """A word for the outcome: "terminated" or "interrupted"."""
        return "terminated" if self.signal in _ENDING else "interrupted"

    def arm(self) -> None:
        """Let the evaluation finish on a first signal, since there is now something to keep."""
        if not self._armed:
            self._armed = True
            self._on_ending(self.handle)

    def disarm(self) -> None:
        """Restore the default action of signals but Ctrl-C, since everything is on disk.

        Python cannot handle signals while XLA compiles.
        """
        self._armed = False
        self._on_ending(signal.SIG_DFL)
        if self.requested:
            raise KeyboardInterrupt

    def handle(self, signum: int, frame: object) -> None:
        """Note the signal; end at once on a second one, or on a first with nothing to keep."""
        del frame
        if signum not in (signal.SIGINT, signal.SIGTERM):
            _leave_terminal()
        at_once = self.requested or not self._armed
        # Noted before raising, since an exception raised inside a finalizer is swallowed.
        self.requested, self.signal = True, signum
        if at_once:
            raise KeyboardInterrupt

    def _on_ending(self, action: Any) -> None:
        for number in _ENDING:
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup has a hangup ignored
                with contextlib.suppress(ValueError):  # not in the main thread, which they go to
                    signal.signal(number, action)


def _leave_terminal() -> None:
    """Redirect output to a terminal, which has hung up: writing to it would fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        if stat.S_ISCHR(os.fstat(stream).st_mode):
            os.dup2(nowhere, stream)
    os.close(nowhere)


@contextlib.contextmanager
def interruptible(state: Interrupt) -> Iterator[None]:
    """Let a first Ctrl-C end the loop between evaluations, and a second one at once."""
    try:
        previous: dict[int, Any] = {number: signal.getsignal(number) for number in _ENDING}
        previous[signal.SIGINT] = signal.signal(signal.SIGINT, state.handle)
    except ValueError:  # not in the main thread, which signals go to
        yield
        return
    try:
        yield
    finally:
        for number, action in previous.items():
            signal.signal(number, action)
