"""Pages of the site that are made when it is built: the reference, the notebook, the changelog."""

import contextlib
import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import griffe
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from tyro.conf import Positional

from jaxstyle.cli import run
from jaxstyle.cli.parsing import COMMANDS
from jaxstyle.config import SETTINGS

ROOT = Path(__file__).parents[2]
NAMES = """\
These are the names that programs need, as `jaxstyle.stylize`. The packages have more, such as
`jaxstyle.objective.Gram`; each has a page. An argument that is wrong raises an error from
[jaxstyle.config](config.md), all of which are `JaxstyleError`s."""
VALUES = """
## What each may be

Ranges are checked, and a value that is not allowed is told with those that are.

| setting | values |
|---|---|"""
TYPES = {str: "TEXT", float: "NUMBER", int: "N", bool: ""}
UNLIKELY = "---\nsearch: {boost: 0.1}\n---\n"
"""Head of a page that people who search do not look for."""
PRESETS = """\
# Presets

`--preset NAME` starts from one, and `jaxstyle.preset(name)` returns it. This is what
`jaxstyle presets` prints: the settings in which each differs from the default. `jaxstyle presets
--print-config NAME` prints all of its [settings](../settings.md) as a file for `--config`.

```text
{}```
"""
ROOMS = ("engine", "config", "imaging", "objective", "optim", "network", "storage", "reporting")


def on_config(config: MkDocsConfig) -> None:
    """Let blocks of ```math be MathML, which browsers show without a script."""
    math = {"name": "math", "class": "math", "format": _math}
    config.mdx_configs["pymdownx.superfences"] = {"custom_fences": [math]}


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the generated pages."""
    package = griffe.load("jaxstyle", search_paths=[ROOT])
    assert isinstance(package, griffe.Module)
    pages = {
        "changelog.md": UNLIKELY + _top_level("CHANGELOG.md"),
        "contributing.md": UNLIKELY + _top_level("CONTRIBUTING.md"),
        "weights.md": _top_level("weights/README.md"),
        "tutorial.md": _notebook(ROOT / "docs" / "tutorial.ipynb"),
        "reference/presets.md": _presets(),
        "reference/commands.md": "\n".join(_commands()),
        "reference/index.md": _names(package),
        **{f"reference/{room}.md": _room(package, room) for room in ROOMS},
    }
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Add to the page of settings what each may be."""
    if page.file.src_uri != "settings.md":
        return markdown
    rows = [f"| `{name}` | `{_values(setting.type)}` |" for name, setting in SETTINGS.items()]
    return "\n".join([markdown, VALUES, *rows])


def _values(kind: Any) -> str:
    """Return the values that a setting or flag of a type may have."""
    if hasattr(kind, "__metadata__"):  # Annotated
        kind = get_args(kind)[0]
    kinds = [each for each in get_args(kind) if each not in (type(None), ...)]
    if get_origin(kind) is Literal:
        return "|".join(map(str, kinds))
    texts = [_values(each) for each in kinds] or [TYPES[kind]]
    return "|".join(texts) + (" …" if get_origin(kind) is tuple else "")


def _math(source: str, *_: Any, **__: Any) -> str:
    return convert(source, display="block")


def _top_level(path: str) -> str:
    """Return a page of the repository with its links as the site has them."""
    return (ROOT / path).read_text(encoding="utf-8").replace("](docs/", "](")


def _notebook(path: Path) -> str:
    """Return a notebook without outputs as Markdown."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells]
    blocks = [
        f"```python\n{text}\n```" if cell["cell_type"] == "code" else text
        for cell, text in zip(cells, texts, strict=True)
    ]
    title, _, rest = "\n\n".join(blocks).partition("\n")
    return f"{title}\n\nThis page is [a notebook]({path.name}), without its outputs.\n{rest}"


def _public(package: griffe.Module, room: str) -> dict[str, str]:
    """Return the public names of a package and where they are defined, functions first."""
    return {
        name: path
        for name, path in sorted(
            package[room].imports.items(), key=lambda item: (not item[0].islower(), item[0].lower())
        )
        if path.startswith("jaxstyle.") and _known(package, path)
    }


def _known(package: griffe.Module, path: str) -> bool:
    """Return whether there is a class, function or value at `path` that has a description."""
    try:
        found = package[path.removeprefix("jaxstyle.")]
    except KeyError:
        return False
    return not found.is_module and found.has_docstring


def _names(package: griffe.Module) -> str:
    """Return the page of what `jaxstyle` itself has: names, summaries, links."""
    lines = ["# jaxstyle", "", NAMES]
    for room in ROOMS:
        names = _public(package, room)
        shared = [name for name in names if name in package.imports]
        if shared:
            lines += ["", f"## From [jaxstyle.{room}]({room}.md)", "", "| name | |", "|---|---|"]
        for name in shared:
            summary = package[names[name].removeprefix("jaxstyle.")].docstring.value
            link = f"[`{name}`]({room}.md#jaxstyle.{name})"
            lines.append(f"| {link} | {summary.partition(chr(10))[0]} |")
    return "\n".join(lines)


def _room(package: griffe.Module, room: str) -> str:
    """Return the page of a package: first what `jaxstyle` has of it, then its other names."""
    names = _public(package, room)
    first = [name for name in names if name in package.imports]
    others = [name for name in names if name not in first]
    docstring = package[room].docstring
    lines = [f"# jaxstyle.{room}", "", docstring.value if docstring else "", ""]
    for name in first:
        lines += _entry(f"jaxstyle.{name}", names[name])
    if others:
        lines += [f"## In `jaxstyle.{room}`", ""]
    for name in others:
        lines += _entry(f"jaxstyle.{room}.{name}", names[name])
    return "\n".join(lines)


def _entry(name: str, path: str) -> list[str]:
    """Return the directive for what is defined at `path` and imported by its public `name`."""
    options = [f"      heading: {name}", f"      toc_label: {name.rpartition('.')[2]}"]
    return [f'<a id="{name}"></a>', "", f"::: {path}", "    options:", *options, ""]


def _presets() -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        run(["presets"])
    return PRESETS.format(printed.getvalue())


def _commands() -> Iterator[str]:
    """Yield the lines of the page of commands."""
    yield "# Commands"
    yield ""
    yield "A command shows the same with `--help`. Underscores in flags are as good as hyphens."
    for name, command in COMMANDS.items():
        yield from _command(f"jaxstyle {name}", command, 2)


def _command(name: str, command: type, level: int) -> Iterator[str]:
    hints = get_type_hints(command, include_extras=True)
    source = griffe.load(command.__module__, search_paths=[ROOT])[command.__name__]
    yield f"\n{'#' * level} {name}\n\n{source.docstring.value}\n"
    if "action" in hints:
        for alternative in get_args(hints["action"]):
            inner, (details, *_) = get_args(alternative)[0], alternative.__metadata__
            yield from _command(f"{name} {details.name}", inner, level + 1)
        return
    rows = [_row(field, hints[field.name], source) for field in dataclasses.fields(command)]
    usage = [name, *(place for place, _, _ in rows if not place.startswith("-"))]
    yield f"```text\n{' '.join(usage)}{' [flags]' if len(usage) <= len(rows) else ''}\n```\n"
    if rows:
        yield "| | | default |\n|---|---|---|"
    for place, text, default in rows:
        yield f"| `{place}` | {text} | {default and f'`{default}`'} |"


def _row(field: dataclasses.Field[Any], hint: Any, source: Any) -> tuple[str, str, str]:
    """Return an argument or a flag with the name of its value, its description, its default."""
    if field.name == "flags":
        any_of = "Any" if "size" in get_args(hint)[0].__annotations__ else "Any but `size`"
        text = f"{any_of} of the [settings](../settings.md): `--style-weight 500`."
        return "--SETTING VALUE", text, ""
    details: Any = next((each for each in get_args(hint) if hasattr(each, "metavar")), None)
    text = (details and details.help) or source[field.name].docstring.value
    text = " ".join(text.split()).replace("|", "\\|")
    value = (details and details.metavar) or _values(hint)
    if Positional in get_args(hint):
        return value, text, ""
    given = field.default not in (None, False, (), dataclasses.MISSING)
    default = field.default if isinstance(field.default, tuple) else (field.default,)
    flags = [*((details and details.aliases) or ()), f"--{field.name.replace('_', '-')}"]
    place = f"{', '.join(flags)} {value}".strip()
    return place, text, " ".join(map(str, default)) if given else ""
