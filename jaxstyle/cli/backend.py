"""Start of JAX: environment variables, the compilation cache, CPU devices."""

import contextlib
import errno
import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import filelock

from jaxstyle.cli.terminal import complain
from jaxstyle.config import ConfigError, brief
from jaxstyle.imaging import files

_FATAL = re.compile(r"^[EF]\d+ .*?\] (.*)$", re.MULTILINE)
"""A line of XLA's log that tells of an error."""

_CACHE_BYTES = 2**31
"""Size of the cache of compiled programs, 1 to 4 MB each; those unused for longest make room."""

_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


def start_jax(*, deterministic: bool = False) -> None:
    """Import JAX and set up its compilation cache.

    Args:
        deterministic: whether XLA must choose operations that give the same bits every time, as it
            does on CPUs and TPUs in any case.

    Raises:
        ConfigError: JAX or XLA refuses an environment variable.
    """
    _check_xla_flags()
    if deterministic:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DETERMINISTIC}".strip()
    try:
        import jax
    except ValueError as error:
        raise ConfigError(f"JAX cannot start: {error}") from None
    if not importlib.metadata.entry_points(group="jax_plugins"):
        # Only GPUs keep more than programs in the folder, which are then found by its path, too.
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    folder = jax.config.values["jax_compilation_cache_dir"]
    distant = folder is not None and "://" in folder
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ and not distant:
        # Also what compiles quickly: a start compiles several small programs beside the large ones.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if folder is None:
        default = _default_cache()
        if default is not None:
            jax.config.update("jax_compilation_cache_dir", str(default))
            if "JAX_COMPILATION_CACHE_MAX_SIZE" not in os.environ and _has_locks(default):
                jax.config.update("jax_compilation_cache_max_size", _CACHE_BYTES)
    elif not distant:
        try:
            _check_folder(Path(folder))
        except OSError as error:
            complain(f"{folder}: compiled programs cannot be kept there ({error.strerror})")
            jax.config.update("jax_compilation_cache_dir", None)


def missing_platform(error: Exception) -> str | None:
    """Return a message if JAX raised `error` because it finds no device of a platform."""
    import jax

    if "Unable to initialize backend" not in str(error):
        try:
            jax.devices()
        except AssertionError:  # for cuda without a plugin
            pass
        except RuntimeError as other:
            error = other
        else:
            return None
    platforms = os.environ.get("JAX_PLATFORMS")
    if platforms:
        return f"JAX_PLATFORMS={platforms}: no such devices here; unset it to use any"
    return f"JAX finds no devices: {brief(error)}"


def share_out_cpu() -> None:
    """Split a CPU into two devices, whose lanes keep its cores busy while one waits."""
    import jax

    asked = jax.config.values["jax_num_cpu_devices"] != -1
    asked |= "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not asked and (os.cpu_count() or 1) > 1:
        with contextlib.suppress(RuntimeError):  # JAX is in use already
            jax.config.update("jax_num_cpu_devices", 2)


def _check_xla_flags() -> None:
    """Let a process of its own read `XLA_FLAGS`, since XLA aborts at a flag it does not know."""
    if not os.environ.get("XLA_FLAGS") or "jax" in sys.modules:
        return
    code = "import jaxlib.xla_client as xla; xla.CompileOptions()"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    reason = _FATAL.search(process.stderr)
    if process.returncode and reason:
        raise ConfigError(f"XLA cannot start: {reason[1]}")


def _default_cache() -> Path | None:
    """Return the folder for compiled programs; None if there is no writable home."""
    cache = files.user_cache()
    if cache is None:
        return None
    try:
        _check_folder(cache / "xla")
    except OSError:
        return None
    return cache / "xla"


def _has_locks(folder: Path) -> bool:
    """Return whether files can be locked there, as JAX does in a cache of limited size."""
    try:
        with filelock.FileLock(folder / ".lock"):
            return True
    except OSError:
        return False


def _check_folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # Permissions do not tell of file systems that are read-only or full.
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except FileNotFoundError:  # raised by TemporaryFile for any folder it cannot write to
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None
