"""Implementation of `jaxstyle stylize`, as far as it needs no JAX."""

import dataclasses

from jaxstyle.cli.backend import start_jax
from jaxstyle.cli.commands import Stylize
from jaxstyle.cli.imports import quick_imports
from jaxstyle.cli.process import Interrupt
from jaxstyle.cli.terminal import say, silence_libtiff
from jaxstyle.config import ConfigError, to_toml
from jaxstyle.imaging import files, images
from jaxstyle.storage import (
    Schedule,
    cells,
    check_parent,
    check_same,
    check_unused,
    has_checkpoint,
    is_recorded,
)


def stylize(command: Stylize, interrupted: Interrupt) -> int:
    """Run the command and return the exit code; a user error is a `JaxstyleError`."""
    if command.print_config:
        say(to_toml(command.settings).rstrip())
        return 0
    if command.output is None and command.workdir is None:
        raise ConfigError("name the file to write, -o FILE, or a folder for the run, --workdir RUN")
    if not command.style:
        raise ConfigError("name a style image after the content")
    if command.style_guide and command.content_guide is None:
        raise ConfigError("--style-guide needs --content-guide FILE")
    command = dataclasses.replace(command, style=tuple(cells.list_pictures(command.style)))
    if command.workdir is None:
        needing = ("fork_from", "checkpoints", "checkpoint_seconds", "snapshots", "tensorboard")
        for name in needing:
            if getattr(command, name) is not None:
                raise ConfigError(f"--{name.replace('_', '-')} needs --workdir RUN")
    Schedule.parse(command.snapshots, "--snapshots")
    if command.checkpoints is not None and command.checkpoints < 1:
        raise ConfigError(f"--checkpoints must be at least 1, not {command.checkpoints}")
    if command.checkpoint_seconds is not None and not command.checkpoint_seconds > 0:
        raise ConfigError(
            f"--checkpoint-seconds must be greater than 0, not {command.checkpoint_seconds:g}"
        )
    if not command.distributed:  # else the other hosts would wait
        if command.output is not None:
            images.check_output(command.output, command.bits)
        if command.workdir is not None:
            check_run(command, command.workdir)
    # Only now, so that mistakes need not wait for JAX.
    with quick_imports():
        start_jax(deterministic=command.deterministic)
        from jaxstyle.cli.rendering import render

    silence_libtiff()
    return render(command, interrupted)


def check_run(command: Stylize, folder: str) -> None:
    """Raise a `JaxstyleError` for what would keep the run from having its folder.

    It is found before weights are fetched, with which the run is compared only later.
    """
    files.check_folder(folder)
    if command.fork_from is not None and files.same(command.fork_from, folder):
        raise ConfigError(f"{folder} cannot be forked from itself; name another --workdir")
    check_unused(folder)
    if is_recorded(folder):
        digests = {
            role: [images.glance(path).sha256 for path in paths]
            for role, paths in command.inputs.items()
        }
        check_same(folder, command.identity(digests))
    # A run that has progress of its own resumes from it.
    if command.fork_from is not None and not has_checkpoint(folder):
        check_parent(command.fork_from)
    if command.tensorboard is not None:
        from jaxstyle.reporting import check_tensorboard

        check_tensorboard(command.tensorboard)
