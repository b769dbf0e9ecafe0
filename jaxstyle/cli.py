"""The command line: parse, wire, exit codes.

0: done. 1: the loss was no longer finite, or memory ran out. 2: a mistake of the user's.
3: some cells of a grid failed. 130: interrupted.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from jaxstyle import cells
from jaxstyle.commands import Convert, Fetch, Grid, Stylize, Verify, Weights, parse
from jaxstyle.config import Config, to_toml
from jaxstyle.errors import ConfigError, JaxstyleError, is_out_of_memory

# What computes is imported where it is used: help and mistakes need not wait for JAX.
if TYPE_CHECKING:
    from jaxstyle import grid
    from jaxstyle.images import Picture
    from jaxstyle.loop import Callback, Record, Result
    from jaxstyle.types import Image

EXIT_FAILED, EXIT_MISTAKE, EXIT_CELLS_FAILED, EXIT_INTERRUPTED = 1, 2, 3, 130


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    warnings.showwarning = lambda message, *_, **__: _complain(str(message))
    code = run(sys.argv[1:] if argv is None else argv)
    if code == EXIT_INTERRUPTED:
        # XLA may be in the middle of a computation, which Python's own exit would crash into.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(argv: Sequence[str]) -> int:
    """Run the command line in this process and return the exit code."""
    command = None
    try:
        with _interruptible() as interrupted:
            command = parse(list(argv))
            if isinstance(command, Stylize):
                return _stylize(command, interrupted)
            if isinstance(command, Grid):
                return _grid(command)
            return _weights(command)
    except JaxstyleError as error:
        _complain(str(error))
        return EXIT_MISTAKE
    except MemoryError:
        _complain("out of memory; try a smaller --size or --history-size")
        return EXIT_FAILED
    except KeyboardInterrupt:
        kept = "the same command goes on" if isinstance(command, Grid) else "nothing was written"
        _complain(f"interrupted; {kept}")
        return EXIT_INTERRUPTED


def _weights(command: Weights) -> int:
    from jaxstyle import weights

    action = command.action
    if isinstance(action, Fetch):
        target = action.output or weights.default_path()
        if not target.exists():
            weights.fetch(target, offline=action.offline or None, quiet=action.quiet)
        _say(weights.verify(target), action.quiet)
    elif isinstance(action, Convert):
        weights.convert(action.source, action.output, action.dtype, action.preprocessing)
        _say(weights.verify(action.output))
    elif isinstance(action, Verify):
        _say(weights.verify(action.path or weights.chosen_path()))
    else:
        _say(str(weights.chosen_path()))
    return 0


class _Inputs(NamedTuple):
    """The pictures of a run, and the SHA-256 of every file they came from by role."""

    content: "Picture"
    styles: list["Image"]
    sha256: dict[str, list[str]]


def _read_inputs(command: Stylize, output: str) -> _Inputs:
    """Read the pictures and check, before anything is fetched or computed, that all will fit."""
    from jaxstyle import images, transfer

    config = command.settings
    images.check_output(output, command.bits)
    content = images.read_picture(command.content, config.size)
    # A style that is stretched to the content's shape is resampled once, there.
    style_size = config.size if config.style_shape == "own" else "original"
    styles = [images.read_picture(path, style_size) for path in command.style]
    sha256 = {"content": [content.sha256], "style": [style.sha256 for style in styles]}
    paths = [command.content, *command.style]
    if config.init not in ("content", "noise", "style"):
        sha256["init"] = [images.read_picture(config.init).sha256]
        paths.append(config.init)
    for path in map(Path, paths):
        if path.exists() and Path(output).exists() and path.samefile(output):
            raise ConfigError(f"{output} is also an input; name another file to write")
    images.check_output(output, command.bits, content.pixels.shape)
    pixels = [style.pixels for style in styles]
    transfer.plan(content.pixels, pixels, config)
    return _Inputs(content, pixels, sha256)


def _stylize(command: Stylize, interrupted: "_Interrupt") -> int:
    config, output = command.settings, command.output
    if command.print_config:
        _say(to_toml(config).rstrip())
        return 0
    if output is None:
        raise ConfigError("name the file to write: -o FILE")
    if not command.style:
        raise ConfigError("name a style image after the content")
    import jax
    import numpy as np

    from jaxstyle import images, transfer, weights

    _keep_compiled_programs()
    inputs = _read_inputs(command, output)
    content = inputs.content
    path = weights.locate(command.weights, offline=command.offline or None, quiet=command.quiet)
    checkpoint = weights.read(path)
    with _progress(config, command.quiet) as show:

        def callback(record: "Record") -> bool:
            show(record)
            interrupted.armed = True
            return interrupted.requested

        try:
            params = weights.to_params(checkpoint)
            result = transfer.stylize(content.pixels, inputs.styles, config, params, callback)
        except jax.errors.JaxRuntimeError as error:
            if is_out_of_memory(error):
                raise MemoryError from None
            raise
    if not np.isfinite(result.loss):
        _complain("the loss was never finite and nothing was written; try smaller weights")
        return EXIT_FAILED
    metadata = _metadata(config, inputs.sha256 | {"weights": [checkpoint.sha256]}, result)
    images.save_image(
        output, result.image, alpha=content.alpha, bits=command.bits, metadata=metadata
    )
    _say(_report(output, result), command.quiet)
    if interrupted.requested:
        _complain(f"interrupted; the best image so far is in {output}")
        return EXIT_INTERRUPTED
    if result.reason == "not finite":
        last = result.history[-1].evaluation
        _complain(
            f"the loss was no longer finite at evaluation {last}; "
            f"the best image before is in {output}"
        )
        return EXIT_FAILED
    return 0


def _grid(command: Grid) -> int:
    output, shard = command.output, _shard(command.shard)
    if output is None:
        raise ConfigError("name the folder to write to: -o OUTDIR")
    if command.distributed + command.collect + (command.shard is not None) > 1:
        raise ConfigError("of --distributed, --shard and --collect only one has a meaning")
    if command.lanes is not None and command.lanes < 1:
        raise ConfigError(f"lanes must be at least 1, not {command.lanes}")
    wanted = _cells(command)
    from etils import epath

    from jaxstyle import batch, files, grid, hosts, weights

    for path in (*command.contents, *command.styles):
        if epath.Path(path) == epath.Path(output):
            raise ConfigError(f"{output} is also an input; name another folder to write to")
    if command.collect and not files.is_folder(output, ConfigError):
        raise ConfigError(f"{output}: no such folder; nothing to collect")
    for config in dict.fromkeys(cell.config for cell in wanted):
        batch.check_batch(config)
    _keep_compiled_programs()
    _share_out_cpu()
    if command.distributed:
        shard = hosts.join_cluster()
    path = weights.locate(command.weights, offline=command.offline or None, quiet=command.quiet)
    checkpoint = weights.read(path)
    whole = grid.Grid(wanted, output, weights_sha256=checkpoint.sha256, aspect=command.aspect)
    if command.distributed:
        hosts.agree([entry.name for entry in whole.entries])
    if not command.collect:
        files.make_folder(output, ConfigError)
        with _cells_progress(whole, shard, command.quiet) as (on_cell, on_evaluations):
            whole.run(
                weights.to_params(checkpoint),
                shard=shard,
                lanes=command.lanes,
                on_cell=on_cell,
                progress=on_evaluations,
            )
    summary = whole.summary()
    missing = f", {summary.missing} not there yet" if summary.missing else ""
    _say(f"{output}: {summary.done} cells done, {summary.failed} failed{missing}", command.quiet)
    if command.collect or not summary.missing:
        sheets = ", ".join(map(str, whole.collect()))
        _say(f"contact sheets: {sheets}", command.quiet)
    mine = [whole.row(entry) for entry in whole.share(shard)]
    failed = [row for row in mine if row is not None and row["status"] == "failed"]
    return EXIT_CELLS_FAILED if failed else 0


def _share_out_cpu() -> None:
    """Let a CPU be two devices, whose lanes keep its cores busy where one waits."""
    import jax

    asked = jax.config.values["jax_num_cpu_devices"] != -1
    asked |= "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not asked and (os.cpu_count() or 1) > 1:
        with contextlib.suppress(RuntimeError):  # it is in use already
            jax.config.update("jax_num_cpu_devices", 2)


def _shard(text: str | None) -> tuple[int, int]:
    if text is None:
        return 0, 1
    parts = re.fullmatch(r"(\d+)/(\d+)", text)
    if parts is None or int(parts[1]) >= int(parts[2]):
        raise ConfigError(f"--shard is I/N with I from 0 to N-1, as 0/4, not {text!r}")
    return int(parts[1]), int(parts[2])


def _cells(command: Grid) -> list[cells.GridCell]:
    asked = {name: getattr(command.settings, name) for name in command.asked}
    base = cells.Base(command.preset, asked)
    if command.cells is not None:
        if command.contents or command.styles or command.sweep:
            raise ConfigError("--cells goes without --contents, --styles and --sweep")
        return cells.read_cells(command.cells, base)
    if not command.contents or not command.styles:
        raise ConfigError("name what to render and in which styles: --contents and --styles")
    return cells.product(
        cells.list_pictures(command.contents),
        cells.list_pictures(command.styles),
        cells.sweep(base, command.sweep),
    )


@contextlib.contextmanager
def _cells_progress(
    whole: "grid.Grid", shard: tuple[int, int], quiet: bool
) -> Iterator[tuple["grid.OnCell", Callable[[int], None]]]:
    """A bar on stderr over the evaluations of a shard, and a line for every cell that failed."""
    from jaxstyle import pyramid

    todo = [entry for entry in whole.share(shard) if not whole.is_done(entry)]
    budgets = [sum(level.evaluations for level in pyramid.levels(e.cell.config)) for e in todo]
    bar = _bar(quiet, "{task.fields[cells]} cells")
    with bar:
        task = bar.add_task("", total=sum(budgets), cells=f"0/{len(todo)}")
        done = 0

        def on_cell(entry: "grid.Entry", problem: str | None) -> None:
            nonlocal done
            done += 1
            bar.update(task, cells=f"{done}/{len(todo)}")
            if problem is not None:
                _complain(f"{entry.name}: {problem}")

        yield on_cell, lambda count: bar.advance(task, count)


def _bar(quiet: bool, field: str) -> Progress:
    """A progress bar on stderr; none where that is not a terminal."""
    return Progress(
        TextColumn("{task.completed}/{task.total} evaluations"),
        BarColumn(),
        TextColumn(field),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=quiet or not sys.stderr.isatty(),
    )


def _keep_compiled_programs() -> None:
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


def _say(text: str, quiet: bool = False) -> None:
    if quiet:
        return
    try:
        print(text, flush=True)  # noqa: T201
    except OSError:  # a reader that has gone, or a full disk: what was asked for is done
        sys.stdout = None


def _complain(text: str) -> None:
    print(f"jaxstyle: {text}", file=sys.stderr)  # noqa: T201


def _report(output: str, result: "Result") -> str:
    height, width = result.image.shape[:2]
    lines = [
        f"{output}: {width}×{height}, {result.evaluations} evaluations in {result.seconds:.1f} s "
        f"(and {result.compile_seconds:.1f} s to compile), {result.rejected} rejected, "
        f"ended by: {result.reason}"
    ]
    lines += [f"  {name:<24}{value:>14.6g}" for name, value in result.terms.items()]
    return "\n".join([*lines, f"  {'loss':<24}{result.loss:>14.6g}"])


def _metadata(config: Config, sha256: dict[str, list[str]], result: "Result") -> str:
    """What it takes to repeat the run; no clock, so that a repeated run writes the same file."""
    import jax

    packages = ("jaxstyle", "jax", "jaxlib", "flax", "optax", "numpy")
    device = jax.devices()[0]
    record = {
        "config": {k: v for k, v in dataclasses.asdict(config).items() if v is not None},
        "sha256": sha256,
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "device": f"{device.platform} {device.device_kind}",
        "convolution": result.convolution,
        "evaluations": result.evaluations,
        "reason": result.reason,
        "loss": result.loss,
        "terms": result.terms,
    }
    return json.dumps(record)


@dataclasses.dataclass
class _Interrupt:
    """Whether Ctrl-C was pressed; armed once there is an image worth keeping."""

    armed: bool = False
    requested: bool = False


@contextlib.contextmanager
def _interruptible() -> Iterator[_Interrupt]:
    """Let the first Ctrl-C end the loop between evaluations, and a second one at once."""
    state = _Interrupt()

    def handle(signum: int, frame: object) -> None:
        del signum, frame
        at_once = state.requested or not state.armed
        # Noted first: raised inside a finalizer, the exception would be swallowed.
        state.requested = True
        if at_once:
            raise KeyboardInterrupt

    try:
        previous = signal.signal(signal.SIGINT, handle)
    except ValueError:  # not in the main thread, which signals go to
        yield state
        return
    try:
        yield state
    finally:
        signal.signal(signal.SIGINT, previous)


@contextlib.contextmanager
def _progress(config: Config, quiet: bool) -> Iterator["Callback"]:
    """A bar on stderr with loss and time left; none where stderr is not a terminal."""
    from jaxstyle import pyramid

    total = sum(level.evaluations for level in pyramid.levels(config))
    bar = _bar(quiet, "loss {task.fields[loss]}")
    with bar:
        task = bar.add_task("", total=total, loss="…")

        def show(record: "Record") -> None:
            bar.update(task, completed=record.evaluation, loss=f"{record.loss:.4g}")

        yield show


if __name__ == "__main__":
    main()
