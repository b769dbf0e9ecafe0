"""A run from its files to its result: inputs, run folder and outputs."""

import contextlib
import functools
import importlib
import itertools
import json
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from etils import epath

from jaxstyle.cli.commands import Stylize
from jaxstyle.cli.process import AGAIN, EXIT_FAILED, EXIT_SIGNAL, Interrupt
from jaxstyle.cli.stylize import check_run
from jaxstyle.cli.terminal import complain, run_progress, say
from jaxstyle.config import ConfigError, brief, counted, flat, words
from jaxstyle.engine import (
    Progress,
    Record,
    Result,
    State,
    as_used,
    check_scales,
    fitted_style_shape,
    for_space,
    pick_devices,
    pyramid,
    state_at,
    stylize,
)
from jaxstyle.imaging import Image, Picture, colored_result, files, images
from jaxstyle.network import weights
from jaxstyle.objective import Guides, parse_guide, regions, style_shares
from jaxstyle.optim import RUNNING
from jaxstyle.reporting import TensorBoard
from jaxstyle.storage import (
    Identity,
    Schedule,
    SharedRun,
    has_checkpoint,
    hosts,
    read_result,
    runs,
)

T = TypeVar("T")


def render(command: Stylize, interrupted: Interrupt) -> int:
    """Run the command, whose options go together, and return the exit code."""
    if not command.distributed:
        return _render(command, interrupted)
    hosts.join_cluster()
    try:
        code = _render(command, interrupted)
    except jax.errors.JaxRuntimeError as error:
        again = f"; {AGAIN}" if command.workdir is not None else ""
        complain(f"the hosts can no longer compute together ({brief(error)}){again}")
        return EXIT_FAILED
    hosts.leave_cluster()
    return code


def _render(command: Stylize, interrupted: Interrupt) -> int:
    config = command.settings
    everyone = jax.device_count() if command.distributed else 1
    devices = pick_devices(everyone if command.space is None else command.space)
    for_space(config, len(devices))
    inputs, checkpoint = _everywhere(
        command, lambda: _prepare(command), lambda prepared: _identity(command, prepared[0])
    )
    shape = inputs.content.pixels.shape
    like = functools.partial(state_at, config, shape)
    with contextlib.ExitStack() as stack:
        run, board, progress, finished = None, None, None, None
        # A cluster's run is in a folder of its first process.
        here = command.workdir is not None and jax.process_index() == 0
        entered = _everywhere(
            command, lambda: _enter_run(command, inputs, like, interrupted, stack) if here else None
        )
        if entered is not None:
            run, progress, finished = entered
        if command.distributed and command.workdir is not None:
            progress, finished = SharedRun.same(progress, finished, like)
        if finished is not None:
            return _say_finished(command, finished)
        if run is not None and command.tensorboard is not None:
            board = TensorBoard(command.tensorboard, progress.evaluations if progress else 0)
            stack.callback(board.close)
            run.on_image = board.picture
        shared = None
        if command.distributed:
            shared = SharedRun(run, _schedules(command))
        with run_progress(config, shape, command.quiet, command.progress) as show:

            def callback(record: Record) -> bool:
                if run is not None:
                    run.record(record)
                if board is not None:
                    board.numbers(record)
                show(record)
                interrupted.arm()
                if shared is not None:
                    signal = shared.decide(interrupted.signal if interrupted.requested else 0)
                    interrupted.signal = signal or interrupted.signal
                    return signal > 0
                return interrupted.requested

            result = stylize(
                inputs.content.pixels,
                inputs.styles,
                config,
                weights.to_params(checkpoint),
                callback,
                guides=inputs.guides,
                # Without a folder there is no run either.
                keeper=shared if shared is not None and command.workdir is not None else run,
                progress=progress,
                devices=devices,
            )
        if command.workdir is not None and result.reason == "stopped":
            complain(f"{interrupted.word} at evaluation {result.evaluations}; {AGAIN}")
            return EXIT_SIGNAL + interrupted.signal
        return _write_result(command, inputs, result, run, interrupted)


def _everywhere(
    command: Stylize,
    prepare: Callable[[], T],
    identity: Callable[[T], Mapping[str, str]] = lambda _: {},
) -> T:
    """Prepare something, on the other hosts of a cluster too; see `hosts.agree`."""
    return hosts.agree(prepare, identity) if command.distributed else prepare()


def _prepare(command: Stylize) -> tuple["_Inputs", weights.Checkpoint]:
    """Read everything that is needed, before anything is computed."""
    if jax.default_backend() == "cpu":
        # JAX imports it to read a stored program; reading files lets other threads run.
        threading.Thread(target=importlib.import_module, args=("scipy.linalg",)).start()
    if command.distributed and command.workdir is not None and jax.process_index() == 0:
        check_run(command, command.workdir)
    network = command.settings.network
    path = weights.chosen_path(command.weights, network)
    with ThreadPoolExecutor(1) as background:
        reading = background.submit(weights.read, path) if path.exists() else None
        inputs = _read_inputs(command)
    if reading is not None:
        checkpoint = reading.result()
    else:
        offline, quiet = command.offline or None, command.quiet
        located = weights.locate(command.weights, network=network, offline=offline, quiet=quiet)
        checkpoint = weights.read(located)
    sha256 = inputs.sha256 | {"weights": [checkpoint.sha256]}
    return inputs._replace(sha256=sha256), checkpoint


def _identity(command: Stylize, inputs: "_Inputs") -> dict[str, str]:
    """Return what the hosts of a cluster must have in common, by name."""
    settings = {name: " ".join(words(value)) for name, value in flat(command.settings).items()}
    options = {
        "--space": command.space,
        "--deterministic": command.deterministic,
        "--workdir": command.workdir is not None,
        "--checkpoints": command.checkpoints,
        "--snapshots": command.snapshots,
    }
    files = {
        f"{role} {number}" if len(digests) > 1 else role: digest
        for role, digests in inputs.sha256.items()
        for number, digest in enumerate(digests, 1)
    }
    versions = {f"the version of {name}": version for name, version in runs.versions().items()}
    return settings | {name: str(value) for name, value in options.items()} | files | versions


class _Inputs(NamedTuple):
    """The pictures of a run, and the SHA-256 of their files by role."""

    content: Picture
    styles: list[Image]
    guides: Guides | None
    sha256: dict[str, list[str]]


def _read_inputs(command: Stylize) -> _Inputs:
    """Read the pictures and check that they fit, before anything is fetched or computed."""
    config, output = command.settings, command.output

    def style_size(path: str) -> int | None:
        # A style stretched to the content's shape is resampled only once, when stretched; one
        # scaled relative to its file's size is read at that size.
        if config.style_shape != "own" or (config.style_size or config.size) == "original":
            return None
        return max(fitted_style_shape(images.glance(path).shape, config))

    content = images.read_picture(command.content, config.size)
    styles = [images.read_picture(path, style_size(path)) for path in command.style]
    paths, pictures = command.inputs, {"content": [content], "style": styles}
    for role in [role for role in paths if role not in pictures]:
        pictures[role] = [*map(images.read_picture, paths[role])]
    guides = None
    if command.content_guide is not None:
        first, *rest = (
            parse_guide(picture.pixels, picture.alpha, path)
            for role in ("content_guide", "style_guide")
            for picture, path in zip(pictures[role], paths[role], strict=True)
        )
        guides = Guides(first, tuple(rest))
        # Of the files' own sizes, which their owner knows.
        content_shape, *style_shapes = (
            images.glance(path).shape for path in (command.content, *command.style)
        )
        regions.check_aspects(guides, content_shape, style_shapes)
    sha256 = {role: [picture.sha256 for picture in pictures[role]] for role in paths}
    if output is not None:
        if any(files.same(path, output) for path in itertools.chain(*paths.values())):
            raise ConfigError(f"{output} is also an input; name another file to write")
        images.check_output(output, command.bits, content.pixels.shape)
    pixels = [style.pixels for style in styles]
    check_scales(content.pixels.shape, [style.shape for style in pixels], config, guides)
    if guides is not None and jax.process_index() == 0:
        shares = style_shares(len(pixels), config)
        content_line = regions.explain(guides, shares, command.style)
        lines = [content_line, *map(str, guides.styles)]
        for path, line in zip((*paths["content_guide"], *command.style_guide), lines, strict=True):
            say(f"{path}: {line}", command.quiet)
    return _Inputs(content, pixels, guides, sha256)


def _enter_run(
    command: Stylize,
    inputs: _Inputs,
    like: Callable[[int], State],
    interrupted: Interrupt,
    stack: contextlib.ExitStack,
) -> tuple[runs.Run, Progress | None, dict[str, Any] | None]:
    """Open the run's folder and return it with its progress and its result, if any."""
    assert command.workdir is not None
    config = command.settings
    seconds = 45.0 if command.checkpoint_seconds is None else command.checkpoint_seconds
    checkpoints, snapshots = _schedules(command)
    identity = command.identity(inputs.sha256)
    # A run that has progress of its own resumes from it.
    fork = None if has_checkpoint(command.workdir) else command.fork_from
    start = None if fork is None else _fork(command, fork, inputs, identity, like)
    run = runs.Run(
        command.workdir,
        checkpoints=checkpoints,
        checkpoint_seconds=seconds,
        snapshots=snapshots,
        # The hosts of a cluster end only together.
        on_scale=interrupted.disarm if not command.distributed else lambda: None,
        as_result=lambda image: colored_result(image, inputs.content.pixels, config),
    )
    stack.enter_context(run)
    run.identify(identity)
    finished = read_result(run.folder)
    if finished is not None:
        return run, None, finished
    progress = run.resume(like, start)
    if progress is not None and start is None:
        done = counted(progress.evaluations, "evaluation")
        say(f"{command.workdir}: continues after {done}", command.quiet)
    run.show_inputs(*as_used(inputs.content.pixels, inputs.styles, config))
    return run, progress, None


def _fork(
    command: Stylize,
    fork: str,
    inputs: _Inputs,
    identity: Identity,
    like: Callable[[int], State],
) -> Progress:
    """Return the starting point of a run that continues the one in the folder `fork`."""
    levels = pyramid.levels(identity.config, inputs.content.pixels.shape)
    start, changed = runs.fork(fork, identity, like, levels[0].shape)
    done, budget = len(start.history), levels[-1].evaluations
    last = start.scale == len(levels) - 1
    if last and done >= budget:
        where = " at its last scale" if len(levels) > 1 else ""
        raise ConfigError(
            f"{fork} has done {done} evaluations already{where}; --evaluations {budget} adds none"
        )
    if last and start.status != RUNNING:
        raise ConfigError(f"{fork} has ended by itself: more evaluations would change nothing")
    if changed:
        told = (
            f"starts from the image of {fork}, as settings differ: {'; '.join(changed.values())} "
            f"(--config {fork}/config.toml has its own)"
        )
    else:
        told = f"continues {fork} from its evaluation {start.evaluations}"
    say(f"{command.workdir}: {told}", command.quiet)
    return start


def _schedules(command: Stylize) -> tuple[Schedule, Schedule]:
    """Return the evaluations at which the run saves checkpoints and snapshots."""
    every = command.checkpoints
    checkpoints = runs.CHECKPOINTS if every is None else Schedule(every=every)
    return checkpoints, Schedule.parse(command.snapshots, "--snapshots")


def _say_finished(command: Stylize, finished: dict[str, Any]) -> int:
    assert command.workdir is not None
    result, output, kept = epath.Path(command.workdir) / "image.png", command.output, ""
    if jax.process_index() > 0:
        pass
    elif output is not None and files.open_path(output).exists():
        kept = f"; {output} is left as it is"
    elif output is not None:
        data = files.read_bytes(result)
        suffix = Path(output).suffix.lower()
        bits = images.png_bits(data, result)
        if suffix in (".tif", ".tiff") or command.bits > bits:
            raise ConfigError(
                f"{command.workdir} is finished, with {bits} bits a channel: "
                "copy it to .png, .jpg or .webp, or run it again in another folder"
            )
        if suffix == ".png":
            files.write_atomically(output, data)
        else:
            image, metadata = images.read_picture(result), images.read_metadata(result)
            images.save_image(output, image.pixels, alpha=image.alpha, metadata=metadata)
    copied = "" if output is None or kept else f"; {output} is a copy"
    more = (
        f"; for more evaluations, name another --workdir, with --fork-from {command.workdir}"
        if finished.get("reason") == "budget"
        else ""
    )
    say(f"{command.workdir}: finished; its result is {result}{kept}{copied}{more}", command.quiet)
    return EXIT_FAILED if finished.get("reason") == "not finite" else 0


def _write_result(
    command: Stylize,
    inputs: _Inputs,
    result: Result,
    run: runs.Run | None,
    interrupted: Interrupt,
) -> int:
    if not np.isfinite(result.loss):
        complain("the loss was never finite and nothing was written; try smaller weights")
        return EXIT_FAILED
    written = command.output or str(epath.Path(command.workdir or "") / "image.png")
    if jax.process_index() == 0:
        summary = runs.summarize(command.settings, inputs.sha256, result)
        metadata, alpha, bits = json.dumps(summary), inputs.content.alpha, command.bits
        if command.output is not None:
            images.save_image(written, result.image, alpha=alpha, bits=bits, metadata=metadata)
        if run is not None:
            run.finish(result, summary, alpha=alpha, bits=bits)
        say(_report(written, result), command.quiet)
    if result.reason == "stopped":
        complain(f"{interrupted.word}; the best image so far is in {written}")
        return EXIT_SIGNAL + interrupted.signal
    if result.reason == "not finite":
        last = result.history[-1].evaluation
        complain(
            f"the loss was no longer finite at evaluation {last}; "
            f"the best image before that is in {written}"
        )
        return EXIT_FAILED
    return 0


def _report(output: str, result: Result) -> str:
    height, width = result.image.shape[:2]
    done = [
        f"{output}: {width}×{height}",
        f"{counted(result.evaluations, 'evaluation')} in {result.seconds:.1f} s "
        f"(and {result.compile_seconds:.1f} s to compile)",
    ]
    if result.rejected:
        done.append(f"{result.rejected} rejected")
    if result.reason != "budget":
        done.append(result.reason)
    lines = [", ".join(done)]
    lines += [f"  {name:<24}{value:>14.6g}" for name, value in result.terms.items()]
    return "\n".join([*lines, f"  {'loss':<24}{result.loss:>14.6g}"])
