"""Entry point of the command line: parsing, dispatch and exit codes.

0: done. 1: the loss was no longer finite, or memory ran out. 2: user error.
3: some cells of a grid failed. 129: hung up. 130: interrupted. 143: terminated.
"""

import gc
import importlib.metadata
import os
import sys
import traceback
import warnings
from collections.abc import Sequence

from jaxstyle.cli.backend import missing_platform, start_jax
from jaxstyle.cli.commands import (
    Animate,
    Command,
    Convert,
    Fetch,
    Info,
    Locate,
    Plot,
    Presets,
    RenderGrid,
    Report,
    Stylize,
    Verify,
    Warm,
    Weights,
)
from jaxstyle.cli.grid import render_grid
from jaxstyle.cli.parsing import parse
from jaxstyle.cli.process import (
    AGAIN,
    EXIT_FAILED,
    EXIT_MISTAKE,
    EXIT_SIGNAL,
    Interrupt,
    interruptible,
)
from jaxstyle.cli.stylize import stylize
from jaxstyle.cli.terminal import complain, reader_may_leave, say
from jaxstyle.cli.warm import warm
from jaxstyle.cli.warning import Warnings
from jaxstyle.config import (
    PRESETS,
    SUMMARIES,
    JaxstyleError,
    OutOfMemoryError,
    counted,
    flat,
    is_out_of_memory,
    preset,
    to_toml,
    words,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    warnings.showwarning = Warnings()
    try:
        code = run(sys.argv[1:] if argv is None else argv)
    except BaseException:
        if _in_cluster():
            traceback.print_exc()
            os._exit(EXIT_FAILED)  # a normal exit waits for hosts that wait for this one
        raise
    # XLA may be in the middle of a computation, and a normal exit would crash.
    if code > EXIT_SIGNAL or (code and _in_cluster()):
        os._exit(code)
    gc.freeze()  # an interpreter that ends searches everything for garbage, a third of a second
    sys.exit(code)


def _in_cluster() -> bool:
    if "jax" not in sys.modules:
        return False
    import jax

    return jax.distributed.is_initialized()


def run(argv: Sequence[str]) -> int:
    """Run the command line in this process and return the exit code."""
    if list(argv) == ["--version"]:
        say(f"jaxstyle {importlib.metadata.version('jaxstyle')}")
        return 0
    command, interrupted = None, Interrupt()
    try:
        with interruptible(interrupted):
            with reader_may_leave("stdout"):
                command = parse(list(argv))
            if command is None:  # nobody reads the help
                return 0
            return _perform(command, interrupted)
    except (OutOfMemoryError, MemoryError):
        return _out_of_memory()
    except JaxstyleError as error:
        complain(str(error))
        return EXIT_MISTAKE
    except (RuntimeError, AssertionError) as error:
        if is_out_of_memory(error):
            return _out_of_memory()
        message = missing_platform(error)
        if message is None:
            raise
        complain(message)
        return EXIT_MISTAKE
    except OSError as error:  # of a path that is only looked at
        name = "" if error.filename is None else f"{error.filename}: "
        complain(f"{name}{error.strerror or error}")
        return EXIT_MISTAKE
    except KeyboardInterrupt:
        match command:
            case RenderGrid(collect=False) | Stylize(workdir=str()):
                complain(f"{interrupted.word}; {AGAIN}")
            case _:
                complain(f"{interrupted.word}; nothing was written")
        return EXIT_SIGNAL + interrupted.signal


def _out_of_memory() -> int:
    complain("out of memory; try a smaller --size or --history-size")
    return EXIT_FAILED


def _perform(command: Command, interrupted: Interrupt) -> int:
    # Imported where used: help, presets and mistakes do not wait for JAX.
    match command:
        case Stylize():
            return stylize(command, interrupted)
        case RenderGrid():
            return render_grid(command, interrupted)
        case Warm():
            warm(command)
        case Weights():
            _weights(command.action)
        case Presets():
            _presets(command.print_config)
        case Animate():
            from jaxstyle.reporting import write_animation

            frames = write_animation(command.run, command.output, seconds=command.seconds)
            say(f"{command.output}: {counted(frames, 'frame')}")
        case Report():
            from jaxstyle.reporting import write_report

            write_report(command.source, command.output)
            say(command.output)
        case Plot():
            from jaxstyle.reporting import plot_runs

            plot_runs(command.runs, command.output)
            say(command.output)
        case Info():
            start_jax()
            from jaxstyle.cli.info import describe

            for line in describe():
                say(line)
    return 0


def _presets(name: str | None) -> None:
    if name is not None:
        say(to_toml(preset(name)).rstrip())
        return
    default = flat(PRESETS["default"])
    for name, config in PRESETS.items():
        say(f"{name}: {SUMMARIES[name]}")
        differing = {k: v for k, v in flat(config).items() if v != default.get(k)}
        for setting, value in differing.items():
            say(f"    {setting} = {', '.join(words(value))}")


def _weights(action: Fetch | Convert | Verify | Locate) -> None:
    from jaxstyle.imaging import files
    from jaxstyle.network import weights

    match action:
        case Fetch():
            target = action.output or weights.default_path()
            if not files.open_path(target).exists():
                weights.fetch(target, offline=action.offline or None, quiet=action.quiet)
            say(weights.verify(target), action.quiet)
        case Convert():
            weights.convert(action.source, action.output, action.dtype, action.preprocessing)
            say(weights.verify(action.output))
        case Verify():
            say(weights.verify(action.path or weights.chosen_path()))
        case Locate():
            say(str(weights.chosen_path()))
