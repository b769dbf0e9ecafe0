"""Implementation of `jaxstyle warm`: programs compiled before they are needed."""

import re
import time

from jaxstyle.cli.backend import start_jax
from jaxstyle.cli.commands import Warm, base_settings
from jaxstyle.cli.imports import quick_imports
from jaxstyle.cli.terminal import say
from jaxstyle.config import ConfigError
from jaxstyle.imaging import fit_shape


def warm(command: Warm) -> None:
    """Run the command; a user error is a `JaxstyleError`."""
    config = base_settings(command).vary()
    for size in command.sizes:
        if size < 1:
            raise ConfigError(f"--sizes must be at least 1, not {size}")
    aspects = [_aspect(text) for text in command.aspects]
    with quick_imports():
        start_jax(deterministic=command.deterministic)
        import jax

        from jaxstyle.engine import compile_ahead
        from jaxstyle.network import load_weights

    if not jax.config.values["jax_compilation_cache_dir"]:
        raise ConfigError("there is no folder for compiled programs; see `jaxstyle info`")
    offline = command.offline or None
    params = load_weights(
        command.weights, network=config.network, offline=offline, quiet=command.quiet
    )
    for size in command.sizes:
        for width, height in aspects:
            shape = fit_shape((height, width), size)
            started = time.perf_counter()
            compile_ahead(shape, config.replace(size=size), params)
            seconds = time.perf_counter() - started
            say(f"{shape[1]}×{shape[0]}: compiled in {seconds:.1f} s", command.quiet)


def _aspect(text: str) -> tuple[int, int]:
    parts = re.fullmatch(r"([1-9]\d{0,3}):([1-9]\d{0,3})", text)
    if parts is None:
        raise ConfigError(f"--aspects must be W:H, such as 4:3, not {text!r}")
    return int(parts[1]), int(parts[2])
