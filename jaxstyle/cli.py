"""The command line: parse, wire, exit codes.

0: done. 1: the loss was no longer finite, or memory ran out. 2: a mistake of the user's.
130: interrupted.
"""

import argparse
import contextlib
import dataclasses
import importlib.metadata
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, get_args, get_type_hints

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from tyro.conf import Positional, arg, subcommand

from jaxstyle.config import Config, parse_toml, preset, to_toml
from jaxstyle.errors import ConfigError, JaxstyleError

# What computes is imported where it is used: help and mistakes need not wait for JAX.
if TYPE_CHECKING:
    from jaxstyle.images import Picture
    from jaxstyle.loop import Callback, Record, Result
    from jaxstyle.types import Image

CLI_SIZE = 512
"""Long side where nothing names one: a camera's picture at full size would run for hours."""

EXIT_FAILED, EXIT_MISTAKE, EXIT_INTERRUPTED = 1, 2, 130


@dataclasses.dataclass(frozen=True)
class Stylize:
    """Render CONTENT in the style of STYLE.

    Settings come from the preset, over it from --config, over both from the flags.
    """

    content: Annotated[str, arg(metavar="CONTENT"), Positional]
    """The picture to render."""
    style: Annotated[tuple[str, ...], arg(metavar="STYLE [STYLE ...]"), Positional]
    """The picture whose style to take; of several, the statistics are averaged."""
    output: Annotated[str | None, arg(aliases=["-o"], metavar="FILE")] = None
    """Where to write the result: .png, .jpg, .webp or .tif."""
    settings: Annotated[Config, arg(name="")] = dataclasses.field(default_factory=Config)
    preset: str = "default"
    """Settings to start from: default, seed, gatys, gatys-code, neural-style."""
    config: Annotated[Path | None, arg(metavar="FILE")] = None
    """A TOML file of settings over the preset's."""
    print_config: bool = False
    """Show the settings that would run, as TOML, and stop."""
    bits: Literal[8, 16] = 8
    """Bits per channel of a PNG (TIFF always has 16)."""
    weights: Annotated[str | None, arg(metavar="FILE")] = None
    """The network's weights: a file or gs:// path; else $JAXSTYLE_WEIGHTS, else fetched once."""
    offline: bool = False
    """Never touch a network; also JAXSTYLE_OFFLINE=1."""
    quiet: bool = False
    """Print nothing but errors."""


@dataclasses.dataclass(frozen=True)
class Fetch:
    """Fetch the ImageNet weights and check them; nothing to do if they are here."""

    output: Annotated[Path | None, arg(aliases=["-o"], metavar="FILE")] = None
    """The .safetensors file to write, if not the one in `weights/` or in the user's cache."""
    offline: bool = False
    """Never touch a network; also JAXSTYLE_OFFLINE=1."""
    quiet: bool = False
    """Show no progress."""


@dataclasses.dataclass(frozen=True)
class Convert:
    """Convert VGG19 weights to safetensors that carry their preprocessing and provenance."""

    source: Annotated[str, arg(metavar="SOURCE"), Positional]
    """A Keras .h5, a torchvision-named .pth or .safetensors, or an .npz."""
    output: Annotated[str, arg(aliases=["-o"], metavar="FILE")]
    """The .safetensors file to write."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Type to store the weights in."""
    preprocessing: Literal["caffe", "torch"] | None = None
    """What the network expects, if not what its tensors' names suggest."""


@dataclasses.dataclass(frozen=True)
class Verify:
    """Check a weights file and say what it is."""

    path: Annotated[str | None, arg(metavar="FILE"), Positional] = None
    """The file; if not given, the one that would be used."""


@dataclasses.dataclass(frozen=True)
class Locate:
    """Print the path of the weights file that would be used."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """Fetch, convert, verify or locate the network's weights."""

    action: (
        Annotated[Fetch, subcommand("fetch")]
        | Annotated[Convert, subcommand("convert")]
        | Annotated[Verify, subcommand("verify")]
        | Annotated[Locate, subcommand("path")]
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
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
    try:
        with _interruptible() as interrupted:
            command = _parse(list(argv))
            if isinstance(command, Stylize):
                return _stylize(command, interrupted)
            return _weights(command)
    except JaxstyleError as error:
        _complain(str(error))
        return EXIT_MISTAKE
    except MemoryError:
        _complain("out of memory; try a smaller --size or --history-size")
        return EXIT_FAILED
    except KeyboardInterrupt:
        _complain("interrupted; nothing was written")
        return EXIT_INTERRUPTED


def _parse(argv: list[str]) -> Stylize | Weights:
    stylize = Stylize(content=tyro.MISSING, style=tyro.MISSING, settings=_base_settings(argv))
    command = tyro.cli(
        Annotated[Stylize, subcommand("stylize", default=stylize)]
        | Annotated[Weights, subcommand("weights")],
        prog="jaxstyle",
        args=argv,
        config=(
            tyro.conf.OmitArgPrefixes,
            tyro.conf.OmitSubcommandPrefixes,
            tyro.conf.FlagCreatePairsOff,
        ),
    )
    assert isinstance(command, (Stylize, Weights))
    return command


def _base_settings(argv: list[str]) -> Config:
    """What the flags override: the preset, and over it the TOML file."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--preset", default="default")
    parser.add_argument("--config")
    parser.add_argument("--optimizer")
    try:
        chosen, _ = parser.parse_known_args(argv)
    except argparse.ArgumentError:  # an option without its value, which tyro explains
        return Config(size=CLI_SIZE)
    settings = preset(chosen.preset).replace(size=CLI_SIZE)
    # What the other settings may be depends on it, so it counts before the file is judged.
    known = chosen.optimizer in get_args(get_type_hints(Config)["optimizer"])
    forced = {"optimizer": chosen.optimizer} if known else {}
    if chosen.config is None:
        return settings.replace(**forced)
    try:
        text = Path(chosen.config).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise ConfigError(f"cannot read {chosen.config}: {reason}") from None
    try:
        return settings.replace(**parse_toml(text) | forced)
    except ConfigError as error:
        raise ConfigError(f"{chosen.config}: {error}") from None


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
            # The first while compiling, the second of a program that came from the cache.
            if "RESOURCE_EXHAUSTED" in str(error) or "Out of memory" in str(error):
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
    bar = Progress(
        TextColumn("{task.completed}/{task.total} evaluations"),
        BarColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=quiet or not sys.stderr.isatty(),
    )
    with bar:
        task = bar.add_task("", total=total, loss="…")

        def show(record: "Record") -> None:
            bar.update(task, completed=record.evaluation, loss=f"{record.loss:.4g}")

        yield show


if __name__ == "__main__":
    main()
