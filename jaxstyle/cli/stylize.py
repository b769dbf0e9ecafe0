"""Implementation of `jaxstyle stylize`: inputs, run folder and outputs."""

import contextlib
import dataclasses
import importlib.metadata
import itertools
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from etils import epath

from jaxstyle.cli.commands import Stylize
from jaxstyle.cli.process import EXIT_FAILED, EXIT_SIGNAL, Interrupt, keep_compiled_programs
from jaxstyle.cli.terminal import complain, run_progress, say
from jaxstyle.config import INITS, Config, ConfigError, is_out_of_memory, to_toml
from jaxstyle.storage import cells, read_result

# Heavy modules are imported where used, so that --help and user errors need not wait for JAX.
if TYPE_CHECKING:
    from jaxstyle.engine import Record, Result, Scale, loop
    from jaxstyle.imaging import Image, Picture
    from jaxstyle.objective import Guides
    from jaxstyle.storage import runs


_CHECKPOINTS = 50
"""The default number of evaluations between checkpoints."""


def stylize(command: Stylize, interrupted: Interrupt) -> int:
    """Run the command and return the exit code; a user error is a `JaxstyleError`."""
    config, output = command.settings, command.output
    if command.print_config:
        say(to_toml(config).rstrip())
        return 0
    if output is None and command.workdir is None:
        raise ConfigError("name the file to write, -o FILE, or a folder for the run, --workdir RUN")
    if not command.style:
        raise ConfigError("name a style image after the content")
    if command.style_guide and command.content_guide is None:
        raise ConfigError("--style-guide needs --content-guide FILE")
    command = dataclasses.replace(command, style=tuple(cells.list_pictures(command.style)))
    if command.workdir is None:
        for name in ("fork_from", "checkpoints", "snapshots", "tensorboard"):
            if getattr(command, name) is not None:
                raise ConfigError(f"--{name.replace('_', '-')} needs --workdir RUN")
    if command.distributed and command.workdir is not None:
        raise ConfigError("--distributed has no checkpoints yet: it goes without --workdir RUN")
    import jax

    from jaxstyle.engine import fitting, sharding, transfer
    from jaxstyle.network import weights
    from jaxstyle.reporting import TensorBoard
    from jaxstyle.storage import hosts

    keep_compiled_programs()
    if command.distributed:
        hosts.join_cluster()
    everyone = jax.device_count() if command.distributed else 1
    devices = sharding.pick_devices(everyone if command.space is None else command.space)
    if len(devices) > 1:
        fitting.spreadable(config)
    inputs = _read_inputs(command, output)
    path = weights.locate(command.weights, offline=command.offline or None, quiet=command.quiet)
    checkpoint = weights.read(path)
    inputs = inputs._replace(sha256=inputs.sha256 | {"weights": [checkpoint.sha256]})
    with contextlib.ExitStack() as stack:
        run, board, progress = None, None, None
        if command.workdir is not None:
            run, progress = _enter_run(command, inputs, interrupted, stack)
            finished = read_result(run.folder)
            if finished is not None:
                return _say_finished(command, run.folder, finished)
            if command.tensorboard is not None:
                board = TensorBoard(command.tensorboard, progress.evaluations if progress else 0)
                stack.callback(board.close)
                run.on_image = board.picture
        shape = transfer.fitted_shape(inputs.content.pixels.shape, config)
        with run_progress(config, shape, command.quiet) as show:

            def callback(record: "Record") -> bool:
                if run is not None:
                    run.record(record)
                if board is not None:
                    board.numbers(record)
                show(record)
                if command.distributed:  # a host that went on alone would wait forever
                    return False
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
                    devices=devices,
                )
            except jax.errors.JaxRuntimeError as error:
                if is_out_of_memory(error):
                    raise MemoryError from None
                raise
        if run is not None and result.reason == "stopped":
            complain(
                f"{interrupted.word} at evaluation {result.evaluations}; the same command goes on"
            )
            return EXIT_SIGNAL + interrupted.signal
        if jax.process_index() > 0:
            return 0
        return _write_result(command, inputs, result, run, interrupted)


class _Inputs(NamedTuple):
    """The pictures of a run, and the SHA-256 of their files by role."""

    content: "Picture"
    styles: list["Image"]
    guides: "Guides | None"
    scales: "tuple[Scale, ...]"
    sha256: dict[str, list[str]]


def _read_inputs(command: Stylize, output: str | None) -> _Inputs:
    """Read the pictures and check that they fit, before anything is fetched or computed."""
    from jaxstyle.engine import transfer
    from jaxstyle.imaging import images
    from jaxstyle.objective import regions

    config = command.settings
    if output is not None:
        images.check_output(output, command.bits)

    def style_size(path: str) -> int | None:
        # A style stretched to the content's shape is resampled only once, when stretched; one
        # scaled relative to its file's size is read at that size.
        if config.style_shape != "own" or (config.style_size or config.size) == "original":
            return None
        return max(transfer.fitted_style_shape(images.glance(path).shape, config))

    content = images.read_picture(command.content, config.size)
    styles = [images.read_picture(path, style_size(path)) for path in command.style]
    others: dict[str, list[str]] = {}
    if command.content_guide is not None:
        others["content_guide"] = [command.content_guide]
        others["style_guide"] = list(command.style_guide)
    if config.init not in INITS:
        others["init"] = [config.init]
    pictures = {role: [*map(images.read_picture, paths)] for role, paths in others.items()}
    guides = None
    if command.content_guide is not None:
        first, *rest = (
            regions.Guide.of(picture.pixels, path)
            for role in ("content_guide", "style_guide")
            for picture, path in zip(pictures[role], others[role], strict=True)
        )
        guides = regions.Guides(first, tuple(rest))
    pictures |= {"content": [content], "style": styles}
    sha256 = {role: [picture.sha256 for picture in read] for role, read in pictures.items()}
    if output is not None:
        paths = (command.content, *command.style, *itertools.chain(*others.values()))
        for path in map(Path, paths):
            if path.exists() and Path(output).exists() and path.samefile(output):
                raise ConfigError(f"{output} is also an input; name another file to write")
        images.check_output(output, command.bits, content.pixels.shape)
    pixels = [style.pixels for style in styles]
    scales = transfer.plan(content.pixels, pixels, config, guides)
    return _Inputs(content, pixels, guides, scales, sha256)


def _enter_run(
    command: Stylize, inputs: _Inputs, interrupted: Interrupt, stack: contextlib.ExitStack
) -> "tuple[runs.Run, loop.Progress | None]":
    """Open the run's folder and return it with its progress, if any."""
    from jaxstyle.engine import state_like, transfer
    from jaxstyle.storage import runs

    assert command.workdir is not None
    config = command.settings
    every = _CHECKPOINTS if command.checkpoints is None else command.checkpoints
    if every < 1:
        raise ConfigError(f"--checkpoints must be at least 1, not {every}")
    run = runs.Run(
        command.workdir,
        checkpoints=runs.Schedule(every=every),
        snapshots=_schedule(command.snapshots),
        on_scale=interrupted.disarm,
        finish=lambda image: transfer.finished_image(image, inputs.content.pixels, config),
    )
    stack.enter_context(run)
    # A run that has progress of its own resumes from it.
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
    shapes = [scale.content.shape for scale in inputs.scales]
    like = lambda scale: state_like(shapes[scale], config)  # noqa: E731
    start = None if fork is None else runs.fork(fork, identity, like, shapes)
    run.identify(identity)
    if read_result(run.folder) is not None:
        return run, None
    progress = run.resume(like, start)
    run.show_inputs(inputs.scales[-1].content, inputs.scales[-1].styles)
    return run, progress


def _schedule(text: str | None) -> "runs.Schedule":
    from jaxstyle.storage import Schedule

    if text is None:
        return Schedule()
    parts = [int(n) for n in text.split(",") if n] if re.fullmatch(r"\d+(,\d+)*,?", text) else [0]
    if min(parts) < 1:
        raise ConfigError(f"--snapshots is N, or N,N,… for single ones, from 1 on, not {text!r}")
    return Schedule(at=tuple(parts)) if "," in text else Schedule(every=parts[0])


def _say_finished(command: Stylize, folder: epath.Path, finished: dict[str, Any]) -> int:
    from jaxstyle.imaging import files, images

    result, output, kept = folder / "image.png", command.output, ""
    if output is not None and files.open_path(output).exists():
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
    say(f"{command.workdir}: finished; its result is {result}{kept}", command.quiet)
    return EXIT_FAILED if finished.get("reason") == "not finite" else 0


def _write_result(
    command: Stylize,
    inputs: _Inputs,
    result: "Result",
    run: "runs.Run | None",
    interrupted: Interrupt,
) -> int:
    import numpy as np

    from jaxstyle.imaging import images

    if not np.isfinite(result.loss):
        complain("the loss was never finite and nothing was written; try smaller weights")
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
    say(_report(written, result), command.quiet)
    if result.reason == "stopped":
        complain(f"{interrupted.word}; the best image so far is in {written}")
        return EXIT_SIGNAL + interrupted.signal
    if result.reason == "not finite":
        last = result.history[-1].evaluation
        complain(
            f"the loss was no longer finite at evaluation {last}; "
            f"the best image before is in {written}"
        )
        return EXIT_FAILED
    return 0


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
    """Summarize how to repeat the run; without times, so that a repeat writes the same file."""
    import jax

    packages = ("jaxstyle", "jax", "jaxlib", "flax", "optax", "numpy")
    device = jax.devices()[0]
    return {
        "config": {k: v for k, v in dataclasses.asdict(config).items() if v is not None},
        "sha256": sha256,
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "device": f"{device.platform} {device.device_kind}",
        "convolution": result.convolution,
        "activations": result.activations,
        "evaluations": result.evaluations,
        "reason": result.reason,
        "loss": result.loss,
        "terms": result.terms,
    }
