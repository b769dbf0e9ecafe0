"""The cells of a grid, from files and folders, sweeps over settings, or a table."""

import csv
import io
import itertools
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, get_args, get_origin

from etils import epath

from jaxstyle.config import SETTINGS, Config, ConfigError, brief, counted, preset
from jaxstyle.imaging import files

SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jfif", ".webp", ".tif", ".tiff", ".gif", ".bmp", ".tga"),
    *(".avif", ".heic", ".heif", ".jp2", ".j2k", ".jpf", ".jpx"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
)
"""File name suffixes of the pictures in a folder."""

_LONGEST = 80
"""Number of characters of a name that an error shows."""

_MOST_SETTINGS = 10**4
"""Number of settings that sweeps may combine to; each is checked, at a millisecond or so."""

_MOST_NAMED = 5
"""Number of other suffixes that a warning names."""


class GridCell(NamedTuple):
    """One content file in one or more styles under one setting."""

    content: str
    styles: tuple[str, ...]
    config: Config
    content_guide: str | None = None
    style_guides: tuple[str, ...] = ()


class Base(NamedTuple):
    """The settings that a command starts from: a preset and changes, in order of application."""

    preset: str
    changes: Sequence[tuple[str, Mapping[str, Any]]] = ()
    """Each with the file it is from, or an empty text."""

    def vary(self, texts: Mapping[str, str] = MappingProxyType({})) -> Config:
        """Return the settings changed by those in `texts`, which may include `preset`.

        Raises:
            ConfigError: a setting is unknown, or its value is not allowed.
        """
        values = {name: parse_value(name, text) for name, text in texts.items() if name != "preset"}
        config = preset(texts.get("preset", self.preset))
        for source, changes in (*self.changes, ("", values)):
            try:
                config = config.replace(**changes)
            except ConfigError as error:
                raise ConfigError(f"{source}: {error}" if source else str(error)) from None
        return config


def list_pictures(paths: Sequence[str]) -> list[str]:
    """Replace each folder in `paths` by the pictures in it, sorted by name.

    A warning tells what else is there. Hidden files and folders do not count.

    Raises:
        ConfigError: a folder cannot be read or has no picture.
    """
    pictures: list[str] = []
    for path in paths:
        folder = epath.Path(path)
        try:
            if not folder.is_dir():
                pictures.append(path)  # a bad file is reported by its cells
                continue
            entries = sorted(entry for entry in folder.iterdir() if entry.name[0] != ".")
            named = [entry for entry in entries if entry.suffix.lower() in SUFFIXES]
            others = [entry for entry in entries if entry not in named and not entry.is_dir()]
        except Exception as error:  # whatever a storage client raises
            raise ConfigError(f"{path}: cannot be read ({brief(error)})") from None
        if others:
            kinds = ", ".join(
                sorted({other.suffix or other.name for other in others})[:_MOST_NAMED]
            )
            number = counted(len(others), "file")
            warnings.warn(f"{path}: skipped {number} not named as pictures ({kinds})", stacklevel=2)
        if not named:
            raise ConfigError(f"{path}: no pictures in this folder")
        pictures.extend(map(str, named))
    return pictures


def product(
    contents: Sequence[str],
    styles: Sequence[str],
    configs: Sequence[Config],
    content_guides: Sequence[str] = (),
    style_guides: Sequence[str] = (),
) -> list[GridCell]:
    """Combine every content with every style under every setting.

    A guide belongs to the picture of the same name, regardless of suffix. The guide of a style is
    used only in cells whose content has a guide as well.

    Raises:
        ConfigError: a guide belongs to no picture, or only some of the styles have guides.
    """
    of_content = _by_stem(content_guides, contents, "content")
    of_style = _by_stem(style_guides, styles, "style")
    if of_style and not of_content:
        raise ConfigError("style guides need content guides")
    if of_style and len(of_style) < len(styles):
        missing = next(style for style in styles if style not in of_style)
        raise ConfigError(f"{missing} has no style guide; give one to every style, or to none")
    return [
        GridCell(
            content,
            (style,),
            config,
            of_content.get(content),
            (of_style[style],) if of_style and content in of_content else (),
        )
        for config in configs
        for content in contents
        for style in styles
    ]


def _by_stem(guides: Sequence[str], pictures: Sequence[str], role: str) -> dict[str, str]:
    """Match guides to pictures by file name without suffix; pictures without one are left out."""
    stems = {epath.Path(guide).stem: guide for guide in guides}
    guide_of = {p: stems[epath.Path(p).stem] for p in pictures if epath.Path(p).stem in stems}
    unused = [guide for guide in guides if guide not in guide_of.values()]
    if unused:
        raise ConfigError(f"{unused[0]}: no {role} has the same name, or another guide does")
    return guide_of


def sweep(base: Base, sweeps: Sequence[str]) -> list[Config]:
    """Return the settings of all combinations of `NAME=VALUE,VALUE…`.

    A value may be a range of integers, `0:4` for 0 to 3; the layers in one value are joined by `+`.
    `preset=…` varies the preset under the other settings.

    Raises:
        ConfigError: a sweep is malformed, a setting is unknown, or its value is not allowed.
    """
    axes: dict[str, list[str]] = {}
    for text in sweeps:
        name, equals, values = text.partition("=")
        name = name.replace("-", "_")
        if not equals or not all(values.split(",")):
            raise ConfigError(f"a sweep is NAME=VALUE,VALUE…, not {text!r}")
        if name in axes:
            raise ConfigError(f"{name} is swept twice; give all its values to one --sweep")
        axes[name] = [each for value in values.split(",") for each in _expanded(value)]
    count = math.prod(map(len, axes.values()))
    if count > _MOST_SETTINGS:
        raise ConfigError(f"sweeps of {count} settings; more than {_MOST_SETTINGS} are refused")
    combinations = itertools.product(*axes.values())
    return [base.vary(dict(zip(axes, values, strict=True))) for values in combinations]


def _expanded(value: str) -> list[str]:
    span = re.fullmatch(r"(\d+):(\d+)", value)
    if span is None:
        return [value]
    if int(span[2]) <= int(span[1]) or int(span[2]) - int(span[1]) > _MOST_SETTINGS:
        raise ConfigError(f"the range {value} is empty or too long; 0:4 is 0, 1, 2, 3")
    return [str(number) for number in range(int(span[1]), int(span[2]))]


def parse_value(name: str, text: str) -> Any:
    """Parse `text` as a value of the setting `name`; `Config` validates it."""
    kind = SETTINGS[name].type if name in SETTINGS else str
    if get_origin(kind) is tuple:
        numbers = float in get_args(kind)
        return tuple(_number(part) if numbers else part for part in text.split("+"))
    return _number(text) if {int, float} & {kind, *get_args(kind)} else text


def _number(text: str) -> int | float | str:
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def read_cells(path: str, base: Base) -> list[GridCell]:
    """Read the cells of a CSV file.

    Its columns are `content`, `style` (several are separated by `;`) and, optionally,
    `content_guide`, `style_guide` and any setting.

    Raises:
        ConfigError: the file is unreadable, a column is missing, or a setting is not allowed.
    """
    try:
        text = files.read_bytes(path).decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text), strict=True, skipinitialspace=True)
        header = [name.strip().replace("-", "_") for name in reader.fieldnames or ()]
        table = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: not a CSV file ({brief(error)})") from None
    for name in header:
        if header.count(name) > 1:
            raise ConfigError(f"{path}: column {name[:_LONGEST]!r} appears twice")
    cells: list[GridCell] = []
    for number, row in enumerate(table, 2):
        where = f"{path}: row {number}"
        if None in row or None in row.values():
            raise ConfigError(f"{where} has more or fewer fields than the header")
        values = (value.strip() for value in row.values())
        fields = dict(zip(header, values, strict=True))
        content, style = fields.pop("content", ""), fields.pop("style", "")
        content_guide, style_guide = fields.pop("content_guide", ""), fields.pop("style_guide", "")
        styles = tuple(part.strip() for part in style.split(";"))
        style_guides = tuple(part.strip() for part in style_guide.split(";")) if style_guide else ()
        if not content or not all(styles):
            raise ConfigError(f"{where} needs a content and a style")
        if style_guides and not (content_guide and all(style_guides)):
            raise ConfigError(f"{where} has a style guide, so it needs a content guide as well")
        try:
            config = base.vary({name: value for name, value in fields.items() if value})
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        cells.append(GridCell(content, styles, config, content_guide or None, style_guides))
    if not cells:
        raise ConfigError(f"{path}: no cells")
    return cells
