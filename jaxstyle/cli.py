"""The command line: parse, wire, exit codes.

0: done. 1: the loss was no longer finite, or memory ran out. 2: a mistake of the user's.
3: some cells of a grid failed. 130: interrupted. 143: terminated.
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
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from jaxstyle import cells
from jaxstyle.commands import (
    Animate,
    Convert,
    Fetch,
    Grid,
    Plot,
    Presets,
    Report,
    Stylize,
    Verify,
    Weights,
    parse,
)
from jaxstyle.config import PRESETS, SUMMARIES, Config, preset, to_toml
from jaxstyle.errors import ConfigError, JaxstyleError, is_out_of_memory

# What computes is imported where it is used: help and mistakes need not wait for JAX.
if TYPE_CHECKING:
    from jaxstyle import grid, loop, runs
    from jaxstyle.images import Picture
    from jaxstyle.loop import Callback, Record, Result
    from jaxstyle.regions import Guides
    from jaxstyle.types import Image

EXIT_FAILED, EXIT_MISTAKE, EXIT_CELLS_FAILED = 1, 2, 3
EXIT_SIGNAL = 128
"""And the signal's number: 130 for Ctrl-C, 143 for SIGTERM."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    warnings.showwarning = lambda message, *_, **__: _complain(str(message))
    # Read when JAX is imported: threads of LAPACK's and of XLA's would wait for each other.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    code = run(sys.argv[1:] if argv is None else argv)
    if code > EXIT_SIGNAL:
        # XLA may be in the middle of a computation, which Python's own exit would crash into.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(argv: Sequence[str]) -> int:
    """Run the command line in this process and return the exit code."""
    command, interrupted = None, _Interrupt()
    try:
        with _interruptible(interrupted):
            command = parse(list(argv))
            if isinstance(command, Stylize):
                return _stylize(command, interrupted)
            if isinstance(command, Grid):
                return _grid(command)
            if isinstance(command, Weights):
                return _weights(command)
            if isinstance(command, Presets):
                return _presets(command)
            return _look_back(command)
    except JaxstyleError as error:
        _complain(str(error))
        return EXIT_MISTAKE
    except MemoryError:
        _complain("out of memory; try a smaller --size or --history-size")
        return EXIT_FAILED
    except KeyboardInterrupt:
        resumable = isinstance(command, Grid) or (
            isinstance(command, Stylize) and command.workdir is not None
        )
        kept = "the same command goes on" if resumable else "nothing was written"
        _complain(f"{interrupted.word}; {kept}")
        return EXIT_SIGNAL + interrupted.signal


def _look_back(command: Animate | Report | Plot) -> int:
    if isinstance(command, Animate):
        from jaxstyle.animation import write_animation

        frames = write_animation(command.run, command.output, seconds=command.seconds)
        _say(f"{command.output}: {frames} frames")
        return 0
    if isinstance(command, Report):
        from jaxstyle.report import write_report

        write_report(command.source, command.output)
    else:
        from jaxstyle.plot import plot_runs

        plot_runs(command.runs, command.output)
    _say(command.output)
    return 0


def _presets(command: Presets) -> int:
    if command.print_config is not None:
        _say(to_toml(preset(command.print_config)).rstrip())
        return 0
    default = dataclasses.asdict(PRESETS["default"])
    for name, config in PRESETS.items():
        _say(f"{name}: {SUMMARIES[name]}")
        apart = {k: v for k, v in dataclasses.asdict(config).items() if v != default[k]}
        for setting, value in apart.items():
            shown = ", ".join(map(str, value)) if isinstance(value, tuple) else value
            _say(f"    {setting} = {shown}")
    return 0


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
    guides: "Guides | None"
    sha256: dict[str, list[str]]


def _read_inputs(command: Stylize, output: str | None) -> _Inputs:
    """Read the pictures and check, before anything is fetched or computed, that all will fit."""
    from jaxstyle import images, regions, transfer

    config = command.settings
    if output is not None:
        images.check_output(output, command.bits)
    content = images.read_picture(command.content, config.size)
    styles: list[Picture] = []
    for path in command.style:
        # A style that is stretched to the content's shape is resampled once, there.
        own = config.style_shape == "own"
        shape = transfer.fitted_style_shape(images.glance(path).shape, config) if own else ()
        styles.append(images.read_picture(path, max(shape, default=None)))
    sha256 = {"content": [content.sha256], "style": [style.sha256 for style in styles]}
    paths = [command.content, *command.style]
    guides = None
    if command.content_guide is not None:
        found = [
            images.read_picture(path) for path in (command.content_guide, *command.style_guide)
        ]
        first, *others = (
            regions.Guide.of(guide.pixels, path)
            for guide, path in zip(
                found, (command.content_guide, *command.style_guide), strict=True
            )
        )
        guides = regions.Guides(first, tuple(others))
        sha256["content_guide"] = [found[0].sha256]
        sha256["style_guide"] = [guide.sha256 for guide in found[1:]]
        paths += [command.content_guide, *command.style_guide]
    if config.init not in ("content", "noise", "style"):
        sha256["init"] = [images.read_picture(config.init).sha256]
        paths.append(config.init)
    if output is not None:
        for path in map(Path, paths):
            if path.exists() and Path(output).exists() and path.samefile(output):
                raise ConfigError(f"{output} is also an input; name another file to write")
        images.check_output(output, command.bits, content.pixels.shape)
    pixels = [style.pixels for style in styles]
    transfer.plan(content.pixels, pixels, config, guides)
    return _Inputs(content, pixels, guides, sha256)


def _stylize(command: Stylize, interrupted: "_Interrupt") -> int:
    config, output = command.settings, command.output
    if command.print_config:
        _say(to_toml(config).rstrip())
        return 0
    if output is None and command.workdir is None:
        raise ConfigError("name the file to write, -o FILE, or a folder for the run, --workdir RUN")
    if not command.style:
        raise ConfigError("name a style image after the content")
    if command.style_guide and command.content_guide is None:
        raise ConfigError("--style-guide needs --content-guide FILE")
    command = dataclasses.replace(command, style=tuple(cells.list_pictures(command.style)))
    if command.workdir is None:
        for name in ("fork_from", "snapshots", "tensorboard"):
            if getattr(command, name) is not None:
                raise ConfigError(f"--{name.replace('_', '-')} needs --workdir RUN")
    import jax

    from jaxstyle import transfer, weights

    _keep_compiled_programs()
    inputs = _read_inputs(command, output)
    path = weights.locate(command.weights, offline=command.offline or None, quiet=command.quiet)
    checkpoint = weights.read(path)
    inputs = inputs._replace(sha256=inputs.sha256 | {"weights": [checkpoint.sha256]})
    with contextlib.ExitStack() as stack:
        run, progress = None, None
        if command.workdir is not None:
            run, progress = _enter_run(command, inputs, interrupted, stack)
            if run.result() is not None:
                return _say_finished(command, run)
        shape = transfer.fitted_shape(inputs.content.pixels.shape, config)
        with _progress(config, shape, command.quiet) as show:

            def callback(record: "Record") -> bool:
                if run is not None:
                    run.record(record)
                show(record)
                interrupted.arm()
                return interrupted.requested

            try:
                result = transfer.stylize(
                    inputs.content.pixels,
                    inputs.styles,
                    config,
                    weights.to_params(checkpoint),
                    callback,
                    guides=inputs.guides,
                    keeper=run,
                    progress=progress,
                )
            except jax.errors.JaxRuntimeError as error:
                if is_out_of_memory(error):
                    raise MemoryError from None
                raise
        if run is not None and result.reason == "stopped":
            _complain(
                f"{interrupted.word} at evaluation {result.evaluations}; the same command goes on"
            )
            return EXIT_SIGNAL + interrupted.signal
        return _write_result(command, inputs, result, run, interrupted)


def _enter_run(
    command: Stylize, inputs: _Inputs, interrupted: "_Interrupt", stack: contextlib.ExitStack
) -> "tuple[runs.Run, loop.Progress | None]":
    """Take the run's folder, and see how far it is."""
    from jaxstyle import runs, transfer
    from jaxstyle.loop import state_like

    assert command.workdir is not None
    config = command.settings
    if command.checkpoints < 1:
        raise ConfigError(f"--checkpoints must be at least 1, not {command.checkpoints}")
    run = runs.Run(
        command.workdir,
        checkpoints=runs.Schedule(every=command.checkpoints),
        snapshots=_schedule(command.snapshots),
        on_scale=interrupted.disarm,
        finish=lambda image: transfer.finished_image(image, inputs.content.pixels, config),
    )
    stack.enter_context(run)
    # Once there is progress of its own, a run goes on from that.
    fork = None if run.has_progress else command.fork_from
    identity = runs.Identity(
        config,
        inputs.sha256,
        command.content,
        command.style,
        command.fork_from,
        command.content_guide,
        command.style_guide,
    )
    scales = transfer.plan(inputs.content.pixels, inputs.styles, config, inputs.guides)
    shapes = [scale.content.shape for scale in scales]
    like = lambda scale: state_like(shapes[scale], config)  # noqa: E731
    start = None if fork is None else runs.fork(fork, identity, like, shapes)
    run.identify(identity)
    if run.result() is not None:
        return run, None
    progress = run.resume(like)
    if progress is None and start is not None:
        progress = run.start_from(start)
    run.show_inputs(scales[-1].content, scales[-1].styles)
    if command.tensorboard is not None:
        from jaxstyle.tensorboard import TensorBoard

        board = TensorBoard(command.tensorboard, progress.evaluations if progress else 0)
        stack.callback(board.close)
        run.board = board
    return run, progress


def _schedule(text: str | None) -> "runs.Schedule":
    from jaxstyle.runs import Schedule

    if text is None:
        return Schedule()
    if not re.fullmatch(r"\d+(,\d+)*,?", text) or 0 in (
        parts := [int(n) for n in text.split(",") if n]
    ):
        raise ConfigError(f"--snapshots is N, or N,N,… for single ones, from 1 on, not {text!r}")
    return Schedule(at=tuple(parts)) if "," in text else Schedule(every=parts[0])


def _say_finished(command: Stylize, run: "runs.Run") -> int:
    from jaxstyle import images

    if command.output is not None and not Path(command.output).exists():
        image = images.read_picture(run.folder / "image.png")
        images.save_image(command.output, image.pixels, alpha=image.alpha, bits=command.bits)
    _say(f"{command.workdir}: finished; its result is {run.folder / 'image.png'}", command.quiet)
    return 0


def _write_result(
    command: Stylize,
    inputs: _Inputs,
    result: "Result",
    run: "runs.Run | None",
    interrupted: "_Interrupt",
) -> int:
    import numpy as np

    from jaxstyle import images

    if not np.isfinite(result.loss):
        _complain("the loss was never finite and nothing was written; try smaller weights")
        return EXIT_FAILED
    summary = _summary(command.settings, inputs.sha256, result)
    metadata, alpha, bits = json.dumps(summary), inputs.content.alpha, command.bits
    written = command.output
    if written is not None:
        images.save_image(written, result.image, alpha=alpha, bits=bits, metadata=metadata)
    if run is not None:
        times = {"seconds": result.seconds, "compile_seconds": result.compile_seconds}
        rest = {"rejected": result.rejected, **times}
        run.finish(result.image, summary | rest, alpha=alpha, bits=bits, metadata=metadata)
        written = written or str(run.folder / "image.png")
    assert written is not None
    _say(_report(written, result), command.quiet)
    if result.reason == "stopped":
        _complain(f"{interrupted.word}; the best image so far is in {written}")
        return EXIT_SIGNAL + interrupted.signal
    if result.reason == "not finite":
        last = result.history[-1].evaluation
        _complain(
            f"the loss was no longer finite at evaluation {last}; "
            f"the best image before is in {written}"
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
    for cell in wanted:
        batch.check_batch(cell.config, len(cell.styles))
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
        if command.content_guides or command.style_guides:
            raise ConfigError("--cells has guides in its columns content_guide and style_guide")
        return cells.read_cells(command.cells, base)
    if not command.contents or not command.styles:
        raise ConfigError("name what to render and in which styles: --contents and --styles")
    return cells.product(
        cells.list_pictures(command.contents),
        cells.list_pictures(command.styles),
        cells.sweep(base, command.sweep),
        cells.list_pictures(command.content_guides),
        cells.list_pictures(command.style_guides),
    )


@contextlib.contextmanager
def _cells_progress(
    whole: "grid.Grid", shard: tuple[int, int], quiet: bool
) -> Iterator[tuple["grid.OnCell", Callable[[int], None]]]:
    """A bar on stderr over the evaluations of a shard, and a line for every cell that failed."""
    from jaxstyle import pyramid

    todo = [entry for entry in whole.share(shard) if not whole.is_done(entry)]
    levels = [level for e in todo for level in pyramid.levels(e.cell.config, e.shape)]
    bar = _bar(quiet, "{task.fields[cells]} cells")
    with bar:
        task = bar.add_task(
            "", total=sum(level.evaluations for level in levels), cells=f"0/{len(todo)}"
        )
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


def _summary(config: Config, sha256: dict[str, list[str]], result: "Result") -> dict[str, Any]:
    """What it takes to repeat the run; no clock, so that a repeated run writes the same file."""
    import jax

    packages = ("jaxstyle", "jax", "jaxlib", "flax", "optax", "numpy")
    device = jax.devices()[0]
    return {
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


class _Interrupt:
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
def _interruptible(state: _Interrupt) -> Iterator[None]:
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


@contextlib.contextmanager
def _progress(config: Config, shape: tuple[int, int], quiet: bool) -> Iterator["Callback"]:
    """A bar on stderr with loss and time left; none where stderr is not a terminal."""
    from jaxstyle import pyramid

    total = sum(level.evaluations for level in pyramid.levels(config, shape))
    bar = _bar(quiet, "loss {task.fields[loss]}")
    with bar:
        task = bar.add_task("", total=total, loss="…")

        def show(record: "Record") -> None:
            bar.update(task, completed=record.evaluation, loss=f"{record.loss:.4g}")

        yield show


if __name__ == "__main__":
    main()
