"""Process-level setup: exit codes, signals, the compilation cache, CPU devices."""

import contextlib
import os
import signal
import stat
from collections.abc import Iterator
from typing import Any

EXIT_FAILED, EXIT_MISTAKE, EXIT_CELLS_FAILED = 1, 2, 3
EXIT_SIGNAL = 128
"""Added to the signal's number: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""

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


def keep_compiled_programs() -> None:
    """Enable JAX's persistent compilation cache, by default in the user's cache folder."""
    import jax
    import platformdirs

    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    path = platformdirs.user_cache_path("jaxstyle") / "compiled"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:  # no writable home: every start compiles
        return
    jax.config.update("jax_compilation_cache_dir", str(path))
    # Cache even fast compilations: a start compiles many small programs beside the large one.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def is_missing_platform(error: Exception) -> bool:
    """Return whether JAX raised `error` because a platform that was asked for is not there."""
    import jax

    if "Unable to initialize backend" in str(error):
        return True
    try:
        jax.devices()
    except AssertionError:  # for cuda without a plugin
        return True
    return False


def share_out_cpu() -> None:
    """Split a CPU into two devices, whose lanes keep its cores busy while one waits."""
    import jax

    asked = jax.config.values["jax_num_cpu_devices"] != -1
    asked |= "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not asked and (os.cpu_count() or 1) > 1:
        with contextlib.suppress(RuntimeError):  # JAX is in use already
            jax.config.update("jax_num_cpu_devices", 2)
