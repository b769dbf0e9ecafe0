"""Command-line interface: a dataclass for each command, and the settings that it asks for."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

from tyro.conf import Positional, UseAppendAction, arg, subcommand

from jaxstyle.cli.help_text import command
from jaxstyle.config import INITS, PRESETS, SETTINGS, Config, ConfigError, flat, parse_toml, words
from jaxstyle.imaging import files, images
from jaxstyle.storage import Base, Identity, cells

CLI_SIZE = 512
"""The default long side; a camera's picture at full size would run for hours."""


_Preset = Annotated[str, arg(metavar="NAME", help=f"Settings to start from: {', '.join(PRESETS)}.")]


def _flag(name: str) -> Any:
    """Return the type of a setting's flag, with its help: the description and the default."""
    setting = SETTINGS[name]
    default = {**flat(PRESETS["default"]), "size": CLI_SIZE}.get(name)
    default = "" if default is None else " ".join(words(default))
    hint = default and f"(default: {default})"
    return Annotated[setting.type, arg(help=setting.description, help_behavior_hint=hint)]


if TYPE_CHECKING:
    Flags = FlagsButSize = dict[str, Any]
else:
    # The settings given as flags, by name; tyro leaves out those that are not.
    Flags = TypedDict("Flags", {name: _flag(name) for name in SETTINGS}, total=False)
    FlagsButSize = TypedDict(
        "FlagsButSize", {name: _flag(name) for name in SETTINGS if name != "size"}, total=False
    )


@command
class Stylize:
    """Render CONTENT in the style of STYLE.

    Flags override --config, which overrides --preset.
    """

    content: Annotated[str, arg(metavar="CONTENT"), Positional]
    """The picture to render."""
    style: Annotated[tuple[str, ...], arg(metavar="STYLE [STYLE ...]"), Positional]
    """The picture whose style to take, or several; a folder stands for the pictures in it."""
    output: Annotated[str | None, arg(aliases=["-o"], metavar="FILE")] = None
    """Where to write the result: .png, .jpg, .webp or .tif."""
    content_guide: Annotated[str | None, arg(metavar="FILE")] = None
    """A mask with the content's aspect ratio: a region for each flat colour or label; greys are
    weights between black and white, a transparent ground is the darkest region. The regions get the
    styles in order, from dark to bright; with one style fewer, the darkest is kept as it is."""
    style_guide: Annotated[tuple[str, ...], arg(metavar="FILE [FILE ...]")] = ()
    """For each style a picture that says by its colours which part of it goes to which region;
    regions whose colour no style has are kept as they are."""
    flags: Annotated[Flags, arg(name="")] = dataclasses.field(default_factory=Flags)
    preset: _Preset = "default"
    config: Annotated[str | None, arg(metavar="FILE")] = None
    """A TOML file of settings over the preset's, or a PNG made by stylize, for all of its own."""
    workdir: Annotated[str | None, arg(metavar="RUN")] = None
    """A folder for the run, local or gs://: settings, metrics, checkpoints, result. The same
    command again continues where it was cut off; a finished run is left as it is."""
    space: Annotated[int | None, arg(metavar="N")] = None
    """Devices that share the rows of the image, where one has too little memory or time."""
    distributed: bool = False
    """Share the rows with the devices of the other hosts of a TPU slice or cluster running this
    command; the first of them writes the result, and has the folder RUN."""
    checkpoints: Annotated[int | None, arg(metavar="N")] = None
    """Evaluations from one checkpoint to the next, in RUN."""
    checkpoint_seconds: Annotated[float | None, arg(metavar="SECONDS")] = None
    """Longest time from one checkpoint to the next, 45 if not given, unless saving takes more than
    2 % of it."""
    snapshots: Annotated[str | None, arg(metavar="N|N,N,...")] = None
    """Save the best image so far every N evaluations, or at those given, in RUN."""
    fork_from: Annotated[str | None, arg(metavar="RUN")] = None
    """Start from the state of another run: all of it where only budgets differ, else from the
    image it has come to."""
    tensorboard: Annotated[str | None, arg(metavar="DIR")] = None
    """Show metrics and snapshots in TensorBoard as well (pip install 'jaxstyle[tensorboard]')."""
    print_config: bool = False
    """Show the settings that would run, as TOML, and stop."""
    bits: Literal[8, 16] = 8
    """Bits per channel of a PNG (TIFF always has 16)."""
    deterministic: bool = False
    """Make results on GPUs the same bit for bit each time, at some cost in speed; on CPUs and TPUs
    they are anyway."""
    weights: Annotated[str | None, arg(metavar="FILE")] = None
    """The network's weights: a file or gs:// path; else $JAXSTYLE_WEIGHTS, else fetched once."""
    offline: bool = False
    """Never use the network; also JAXSTYLE_OFFLINE=1."""
    progress: Annotated[float, arg(metavar="SECONDS")] = 30.0
    """Seconds between progress lines when stderr is a log rather than a terminal; 0 for none."""
    quiet: bool = False
    """Print nothing but errors."""

    @functools.cached_property
    def settings(self) -> Config:
        """The settings that run.

        Raises:
            ConfigError: a setting is not allowed, or the TOML file cannot be read.
        """
        return base_settings(self).vary()

    @property
    def inputs(self) -> dict[str, list[str]]:
        """The paths of the pictures by role; once folders of styles were replaced by pictures."""
        paths = {"content": [self.content], "style": list(self.style)}
        if self.content_guide is not None:
            paths |= {"content_guide": [self.content_guide], "style_guide": list(self.style_guide)}
        if self.settings.init not in INITS:
            paths["init"] = [self.settings.init]
        return paths

    def identity(self, sha256: Mapping[str, Sequence[str]]) -> Identity:
        """Return the identity of the run, given the digests of its files by role."""
        return Identity(
            self.settings,
            sha256,
            content=self.content,
            styles=self.style,
            forked_from=self.fork_from,
            content_guide=self.content_guide,
            style_guides=self.style_guide,
        )


@command
class RenderGrid:
    """Render every content in every style, under every setting of a sweep.

    The same command again does what is missing. Exit code 3: some cells failed.
    """

    contents: Annotated[tuple[str, ...], arg(metavar="PATH [PATH ...]")] = ()
    """Pictures to render, or folders of pictures."""
    styles: Annotated[tuple[str, ...], arg(metavar="PATH [PATH ...]")] = ()
    """Pictures whose styles to take, or folders of pictures."""
    cells: Annotated[str | None, arg(metavar="FILE")] = None
    """Instead of both, a CSV file with one row per cell: content, style, any settings."""
    output: Annotated[str | None, arg(aliases=["-o"], metavar="OUTDIR")] = None
    """The folder to write to, local or gs://: the images in cells/, contact sheets, and grid.jsonl,
    with one row per cell."""
    sweep: Annotated[tuple[str, ...], UseAppendAction, arg(metavar="NAME=VALUE,...")] = ()
    """Values of a setting to go through (0:4 is 0,1,2,3); repeat it for another setting."""
    flags: Annotated[Flags, arg(name="")] = dataclasses.field(default_factory=Flags)
    preset: _Preset = "default"
    config: Annotated[str | None, arg(metavar="FILE")] = None
    """A TOML file of settings over the preset's, or a PNG made by stylize, for all of its own."""
    content_guides: Annotated[tuple[str, ...], arg(metavar="PATH [PATH ...]")] = ()
    """Guides, see stylize, or folders of them, each for the content of the same name. CSV files
    have the columns content_guide and style_guide."""
    style_guides: Annotated[tuple[str, ...], arg(metavar="PATH [PATH ...]")] = ()
    """The same for the styles."""
    aspect: Literal["nearest", "own"] = "nearest"
    """Whether contents are cropped, by 6 % at most, to the nearest common aspect ratio, so that
    few programs have to be compiled, or keep their own, as with --size original."""
    lanes: Annotated[int | None, arg(metavar="N")] = None
    """Images at a time on each device; if not given, as many as fit in its memory and still
    increase throughput."""
    space: Annotated[int, arg(metavar="N")] = 1
    """Devices that share the rows of each image. Other groups of N work on other images."""
    shard: Annotated[str | None, arg(metavar="I/N")] = None
    """Do part I of N, counted from 0, for tasks that know nothing of each other."""
    distributed: bool = False
    """Share the cells with the other hosts of a TPU slice or cluster running this command."""
    checkpoint_seconds: Annotated[float, arg(metavar="SECONDS")] = 45.0
    """Time from one checkpoint of a cell to the next, unless saving takes more than 2 % of it."""
    runs: bool = False
    """Keep a folder for each cell in OUTDIR/cells, as `stylize --workdir` makes it: metrics, inputs
    and the last checkpoint, for report, plot, animate and --fork-from."""
    snapshots: Annotated[str | None, arg(metavar="N|N,N,...")] = None
    """Save the best image of each cell every N evaluations, or at those given; implies --runs."""
    collect: bool = False
    """Compute nothing: write the sheets and grid.jsonl from the cells that are there."""
    deterministic: bool = False
    """Make results on GPUs the same bit for bit each time, at some cost in speed; on CPUs and TPUs
    they are anyway."""
    weights: Annotated[str | None, arg(metavar="FILE")] = None
    """The network's weights: a file or gs:// path; else $JAXSTYLE_WEIGHTS, else fetched once."""
    offline: bool = False
    """Never use the network; also JAXSTYLE_OFFLINE=1."""
    progress: Annotated[float, arg(metavar="SECONDS")] = 30.0
    """Seconds between progress lines when stderr is a log rather than a terminal; 0 for none."""
    quiet: bool = False
    """Print nothing but errors."""


@command
class Warm:
    """Compile ahead of time what stylize needs on one device.

    The settings, --evaluations included, must be those of the runs to come.
    """

    sizes: Annotated[tuple[int, ...], arg(metavar="N [N ...]")] = (CLI_SIZE,)
    """Long sides of the results in pixels, as --size of stylize."""
    aspects: Annotated[tuple[str, ...], arg(metavar="W:H [W:H ...]")] = ("4:3", "3:4", "3:2", "2:3")
    """Aspect ratios of the contents."""
    flags: Annotated[FlagsButSize, arg(name="")] = dataclasses.field(default_factory=FlagsButSize)
    preset: _Preset = "default"
    config: Annotated[str | None, arg(metavar="FILE")] = None
    """A TOML file of settings over the preset's, or a PNG made by stylize, for all of its own."""
    deterministic: bool = False
    """Make results on GPUs the same bit for bit each time, at some cost in speed; on CPUs and TPUs
    they are anyway."""
    weights: Annotated[str | None, arg(metavar="FILE")] = None
    """The network's weights: a file or gs:// path; else $JAXSTYLE_WEIGHTS, else fetched once."""
    offline: bool = False
    """Never use the network; also JAXSTYLE_OFFLINE=1."""
    quiet: bool = False
    """Print nothing but errors."""


@command
class Presets:
    """List the presets, with the settings in which each differs from the default."""

    print_config: Annotated[str | None, arg(metavar="NAME")] = None
    """Show all settings of one, as TOML for --config."""


@command
class Animate:
    """Make an animation of a run's snapshots: RUN's folder to .webp, .gif or .mp4."""

    run: Annotated[str, arg(metavar="RUN"), Positional]
    """The run's folder, with snapshots in it."""
    output: Annotated[str, arg(aliases=["-o"], metavar="FILE")]
    """Where to write it; mp4 needs pip install 'jaxstyle[video]'."""
    seconds: Annotated[float, arg(metavar="SECONDS")] = 6.0
    """Its length, not counting the result that is held at its end."""


@command
class Report:
    """Make an HTML file of a run or a grid, which opens without a network."""

    source: Annotated[str, arg(metavar="RUN_OR_GRID"), Positional]
    """The folder of a run or of a grid."""
    output: Annotated[str, arg(aliases=["-o"], metavar="FILE")]
    """The .html file to write."""


@command
class Plot:
    """Plot the loss of runs against evaluations and seconds, for a paper."""

    runs: Annotated[tuple[str, ...], arg(metavar="RUN [RUN ...]"), Positional]
    """The runs' folders."""
    output: Annotated[str, arg(aliases=["-o"], metavar="FILE")]
    """A .png, .pdf or .svg file (needs pip install 'jaxstyle[plots]')."""


@command
class Fetch:
    """Fetch the ImageNet weights and check them; nothing to do if they are here."""

    output: Annotated[str | None, arg(aliases=["-o"], metavar="FILE")] = None
    """The .safetensors file to write, if not the one in `weights/` or in the user's cache."""
    offline: bool = False
    """Never use the network; also JAXSTYLE_OFFLINE=1."""
    quiet: bool = False
    """Show no progress."""


@command
class Convert:
    """Convert weights of VGG19 or VGG16 to safetensors, with their provenance."""

    source: Annotated[str, arg(metavar="SOURCE"), Positional]
    """A Keras .h5, a torchvision-named .pth or .safetensors, or an .npz."""
    output: Annotated[str, arg(aliases=["-o"], metavar="FILE")]
    """The .safetensors file to write."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Type to store the weights in."""
    preprocessing: Annotated[Literal["caffe", "torch"] | None, arg(metavar="{caffe,torch}")] = None
    """Preprocessing the network expects; by default, that of its tensors' names."""


@command
class Verify:
    """Check a weights file and print its provenance."""

    path: Annotated[str | None, arg(metavar="[FILE]"), Positional] = None
    """The file; if not given, the one that would be used."""


@command
class Locate:
    """Print the path of the weights file that would be used."""


@command
class Weights:
    """Fetch, convert, verify or locate the network's weights."""

    action: (
        Annotated[Fetch, subcommand("fetch")]
        | Annotated[Convert, subcommand("convert")]
        | Annotated[Verify, subcommand("verify")]
        | Annotated[Locate, subcommand("path")]
    )


@command
class Info:
    """Show versions, devices, and the paths of weights and caches, for bug reports."""


Command = Stylize | RenderGrid | Warm | Presets | Animate | Report | Plot | Weights | Info


def base_settings(command: Stylize | RenderGrid | Warm) -> Base:
    """Return the settings of `command`: its preset, changed by a file and by flags.

    Raises:
        ConfigError: the file cannot be read.
    """
    changes: list[tuple[str, Mapping[str, Any]]] = [("", {"size": CLI_SIZE})]
    if command.config is not None:
        try:
            changes.append((command.config, _settings_in(command.config)))
        except ConfigError as error:
            raise ConfigError(f"{command.config}: {error}") from None
    return Base(command.preset, [*changes, ("", command.flags)])


def _settings_in(path: str) -> Mapping[str, Any]:
    """Return the settings in a TOML file, or all settings that a picture was made with."""
    if path.lower().endswith(cells.SUFFIXES):
        metadata = images.read_metadata(path)
        try:
            recorded = dict(json.loads(metadata or "")["config"])
        except (ValueError, TypeError, LookupError):
            raise ConfigError(
                "the picture holds no settings; only PNGs that stylize made do"
            ) from None
        return vars(Config().replace(**recorded))
    try:
        return parse_toml(files.read_bytes(path).decode())
    except UnicodeDecodeError:
        raise ConfigError("not a text file") from None
