"""A run from its files to its result: inputs, run folder and outputs."""

import contextlib
import importlib.metadata
import itertools
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from jaxstyle.cli.commands import Stylize
from jaxstyle.cli.process import EXIT_FAILED, EXIT_SIGNAL, Interrupt
from jaxstyle.cli.terminal import complain, run_progress, say
from jaxstyle.config import INITS, Config, ConfigError, flat
from jaxstyle.engine import (
    OutOfMemoryError,
    Progress,
    Record,
    Result,
    Scale,
    finished_image,
    fitted_shape,
    fitted_style_shape,
    pick_devices,
    plan,
    spreadable,
    state_like,
    stylize,
)
from jaxstyle.imaging import Image, Mask, Picture, files, images
from jaxstyle.network import weights
from jaxstyle.objective import Guides, parse_guide, regions, style_shares
from jaxstyle.reporting import TensorBoard
from jaxstyle.storage import Schedule, hosts, read_result, runs

_CHECKPOINTS = 50
"""The default number of evaluations between checkpoints."""


def render(command: Stylize, interrupted: Interrupt) -> int:
    """Run the command, whose options go together, and return the exit code."""
    config, output = command.settings, command.output
    if command.distributed:
        hosts.join_cluster()
    everyone = jax.device_count() if command.distributed else 1
    devices = pick_devices(everyone if command.space is None else command.space)
    if len(devices) > 1:
        spreadable(config)
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
        shape = fitted_shape(inputs.content.pixels.shape, config)
        with run_progress(config, shape, command.quiet, command.progress) as show:

            def callback(record: Record) -> bool:
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
                result = stylize(
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
            except OutOfMemoryError:
                raise MemoryError from None
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

    content: Picture
    styles: list[Image]
    guides: Guides | None
    scales: tuple[Scale, ...]
    sha256: dict[str, list[str]]


def _read_inputs(command: Stylize, output: str | None) -> _Inputs:
    """Read the pictures and check that they fit, before anything is fetched or computed."""
    config = command.settings
    if output is not None:
        images.check_output(output, command.bits)

    def style_size(path: str) -> int | None:
        # A style stretched to the content's shape is resampled only once, when stretched; one
        # scaled relative to its file's size is read at that size.
        if config.style_shape != "own" or (config.style_size or config.size) == "original":
            return None
        return max(fitted_style_shape(images.glance(path).shape, config))

    content = images.read_picture(command.content, config.size)
    styles = [images.read_picture(path, style_size(path)) for path in command.style]
    others: dict[str, list[str]] = {}
    if command.content_guide is not None:
        others["content_guide"] = [command.content_guide]
        others["style_guide"] = list(command.style_guide)
    if config.init not in INITS:
        others["init"] = [config.init]
    pictures = {"content": [content], "style": styles}
    pictures |= {role: [*map(images.read_picture, paths)] for role, paths in others.items()}
    guides = None
    if command.content_guide is not None:
        first, *rest = (
            parse_guide(Mask(picture.pixels, picture.alpha), path)
            for role in ("content_guide", "style_guide")
            for picture, path in zip(pictures[role], others[role], strict=True)
        )
        guides = Guides(first, tuple(rest))
        # Of the files' own sizes, which their owner knows.
        content_shape, *style_shapes = (
            images.glance(path).shape for path in (command.content, *command.style)
        )
        regions.check_aspects(guides, content_shape, style_shapes)
    sha256 = {role: [picture.sha256 for picture in read] for role, read in pictures.items()}
    if output is not None:
        paths = (command.content, *command.style, *itertools.chain(*others.values()))
        for path in map(Path, paths):
            if path.exists() and Path(output).exists() and path.samefile(output):
                raise ConfigError(f"{output} is also an input; name another file to write")
        images.check_output(output, command.bits, content.pixels.shape)
    pixels = [style.pixels for style in styles]
    scales = plan(content.pixels, pixels, config, guides)
    if guides is not None and jax.process_index() == 0:
        shares = style_shares(len(pixels), config)
        content_line = regions.explain(guides, shares, command.style)
        lines = [content_line, *map(str, guides.styles)]
        for path, line in zip((*others["content_guide"], *command.style_guide), lines, strict=True):
            say(f"{path}: {line}", command.quiet)
    return _Inputs(content, pixels, guides, scales, sha256)


def _enter_run(
    command: Stylize, inputs: _Inputs, interrupted: Interrupt, stack: contextlib.ExitStack
) -> tuple[runs.Run, Progress | None]:
    """Open the run's folder and return it with its progress, if any."""
    assert command.workdir is not None
    config = command.settings
    every = _CHECKPOINTS if command.checkpoints is None else command.checkpoints
    if every < 1:
        raise ConfigError(f"--checkpoints must be at least 1, not {every}")
    if not command.checkpoint_seconds > 0:
        raise ConfigError(
            f"--checkpoint-seconds must be greater than 0, not {command.checkpoint_seconds:g}"
        )
    run = runs.Run(
        command.workdir,
        checkpoints=Schedule(every=every),
        checkpoint_seconds=command.checkpoint_seconds,
        snapshots=_schedule(command.snapshots),
        on_scale=interrupted.disarm,
        finish=lambda image: finished_image(image, inputs.content.pixels, config),
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


def _schedule(text: str | None) -> Schedule:
    if text is None:
        return Schedule()
    parts = [int(n) for n in text.split(",") if n] if re.fullmatch(r"\d+(,\d+)*,?", text) else [0]
    if min(parts) < 1:
        raise ConfigError(f"--snapshots is N, or N,N,… for single ones, from 1 on, not {text!r}")
    return Schedule(at=tuple(parts)) if "," in text else Schedule(every=parts[0])


def _say_finished(command: Stylize, folder: epath.Path, finished: dict[str, Any]) -> int:
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
    result: Result,
    run: runs.Run | None,
    interrupted: Interrupt,
) -> int:
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


def _report(output: str, result: Result) -> str:
    height, width = result.image.shape[:2]
    lines = [
        f"{output}: {width}×{height}, {result.evaluations} evaluations in {result.seconds:.1f} s "
        f"(and {result.compile_seconds:.1f} s to compile), {result.rejected} rejected, "
        f"ended by: {result.reason}"
    ]
    lines += [f"  {name:<24}{value:>14.6g}" for name, value in result.terms.items()]
    return "\n".join([*lines, f"  {'loss':<24}{result.loss:>14.6g}"])


def _summary(config: Config, sha256: dict[str, list[str]], result: Result) -> dict[str, Any]:
    """Summarize how to repeat the run; without times, so that a repeat writes the same file."""
    packages = ("jaxstyle", "jax", "jaxlib", "flax", "optax", "numpy")
    device = jax.devices()[0]
    return {
        "config": flat(config),
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
