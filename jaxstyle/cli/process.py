"""The process as the operating system sees it: exit codes, signals, compiled programs, devices."""

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

EXIT_FAILED, EXIT_MISTAKE, EXIT_CELLS_FAILED = 1, 2, 3
EXIT_SIGNAL = 128
"""And the signal's number: 130 for Ctrl-C, 143 for SIGTERM."""


class Interrupt:
    """Whether this process was asked to end, and how."""

    def __init__(self) -> None:
        self.signal: int = signal.SIGINT
        self.requested = self._armed = False

    @property
    def word(self) -> str:
        """What happened to the run."""
        return "terminated" if self.signal == signal.SIGTERM else "interrupted"

    def arm(self) -> None:
        """There is something worth keeping: a first signal lets the evaluation end."""
        if not self._armed:
            self._armed = True
            self._on_sigterm(self.handle)

    def disarm(self) -> None:
        """Everything is on disk, so SIGTERM may end the process as it does any other.

        Python does not get to see signals while XLA compiles.
        """
        self._armed = False
        self._on_sigterm(signal.SIG_DFL)
        if self.requested:
            raise KeyboardInterrupt

    def handle(self, signum: int, frame: object) -> None:
        """Note the signal; a second one, or a first with nothing to keep, ends at once."""
        del frame
        at_once = self.requested or not self._armed
        # Noted first: raised inside a finalizer, the exception would be swallowed.
        self.requested, self.signal = True, signum
        if at_once:
            raise KeyboardInterrupt

    def _on_sigterm(self, action: Any) -> None:
        with contextlib.suppress(ValueError):  # not in the main thread, which signals go to
            signal.signal(signal.SIGTERM, action)


@contextlib.contextmanager
def interruptible(state: Interrupt) -> Iterator[None]:
    """Let the first Ctrl-C end the loop between evaluations, and a second one at once."""
    try:
        previous = {
            signal.SIGTERM: signal.getsignal(signal.SIGTERM),
            signal.SIGINT: signal.signal(signal.SIGINT, state.handle),
        }
    except ValueError:  # not in the main thread, which signals go to
        yield
        return
    try:
        yield
    finally:
        for number, action in previous.items():
            signal.signal(number, action)


def keep_compiled_programs() -> None:
    """Use JAX's persistent compilation cache, in the user's cache folder if none is set."""
    import jax
    import platformdirs

    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    path = platformdirs.user_cache_path("jaxstyle") / "compiled"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:  # no home to write to: every start compiles
        return
    jax.config.update("jax_compilation_cache_dir", str(path))
    # A start compiles many small programs beside the large one.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def share_out_cpu() -> None:
    """Let a CPU be two devices, whose lanes keep its cores busy where one waits."""
    import jax

    asked = jax.config.values["jax_num_cpu_devices"] != -1
    asked |= "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not asked and (os.cpu_count() or 1) > 1:
        with contextlib.suppress(RuntimeError):  # it is in use already
            jax.config.update("jax_num_cpu_devices", 2)
