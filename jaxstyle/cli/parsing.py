"""Parsing of the command line; mistakes are reported in one line with the closest flag."""

import contextlib
import difflib
import functools
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_type_hints

import tyro
from tyro.conf import Positional, subcommand

from jaxstyle.cli.commands import (
    Animate,
    Command,
    Info,
    Plot,
    Presets,
    RenderGrid,
    Report,
    Stylize,
    Warm,
    Weights,
)
from jaxstyle.config import ConfigError

COMMANDS: Mapping[str, type] = {
    "stylize": Stylize,
    "grid": RenderGrid,
    "warm": Warm,
    "presets": Presets,
    "animate": Animate,
    "report": Report,
    "plot": Plot,
    "weights": Weights,
    "info": Info,
}

_ELSEWHERE = {
    # jcjohnson/neural-style and its ports.
    "content-image": "CONTENT",
    "style-image": "STYLE",
    "output-image": "--output",
    "image-size": "--size",
    "num-iterations": "--evaluations",
    "original-colors": "--preserve-color luminance",
    "style-blend-weights": "--style-weights",
    "lbfgs-num-correction": "--history-size",
    "save-iter": "--snapshots",
    "model-file": "--weights",
    # crowsonkb/style-transfer-pytorch.
    "iterations": "--evaluations",
    "initial-iterations": "--first-evaluations",
    "end-scale": "--size",
    "min-scale": "--start-size",
    "step-size": "--learning-rate",
    "avg-decay": "--ema",
    "style-scale-fac": "--style-scale",
    "random-seed": "--seed",
    "save-every": "--snapshots",
    # Scripts and tutorials.
    "steps": "--evaluations",
    "num-steps": "--evaluations",
    "epochs": "--evaluations",
    "max-iter": "--evaluations",
    "imsize": "--size",
    "img-size": "--size",
    "max-size": "--size",
    "lr": "--learning-rate",
    "num-scales": "--scales",
    "init-image": "--init",
    "out": "--output",
}
"""Flags of other programs and their names here."""

_FLAG = re.compile(r"--?[A-Za-z][^=]*")


def parse(argv: Sequence[str]) -> Command:
    """Parse `argv` into a command; exit the program after showing help.

    Raises:
        ConfigError: it cannot be parsed.
    """
    end = argv.index("--") if "--" in argv else len(argv)
    # Use hyphens in option names, as tyro does; underscores are accepted too.
    words = [_hyphenated(word) for word in argv[:end]]
    _check(words)
    alternatives: Any = Union[  # noqa: UP007
        tuple(Annotated[command, subcommand(name)] for name, command in COMMANDS.items())
    ]
    explanation = io.StringIO()
    try:
        with contextlib.redirect_stderr(explanation):
            command, unplaced = tyro.cli(
                alternatives,
                prog="jaxstyle",
                description="Neural style transfer. --version shows the version.",
                args=[*words, *argv[end:]],
                return_unknown_args=True,
                config=(
                    tyro.conf.OmitArgPrefixes,
                    tyro.conf.OmitSubcommandPrefixes,
                    tyro.conf.FlagCreatePairsOff,
                ),
            )
    except SystemExit as stopped:
        if not stopped.code:
            raise
        raise ConfigError(_sentence(explanation.getvalue())) from None
    if unplaced:
        raise ConfigError(f"unexpected {' '.join(unplaced)}; see jaxstyle {words[0]} --help")
    assert isinstance(command, Command)
    return command


def _hyphenated(word: str) -> str:
    flag, equals, value = word.partition("=")
    return flag.replace("_", "-") + equals + value if word.startswith("--") else word


def _check(words: Sequence[str]) -> None:
    """Check that the command and its flags, which come first in `words`, are known."""
    if not words or words[0].startswith("-"):
        return
    if words[0] not in COMMANDS:
        close = difflib.get_close_matches(words[0], COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"the commands are {', '.join(COMMANDS)}"
        raise ConfigError(f"unknown command {words[0]!r}; {hint}")
    known = _places(COMMANDS[words[0]])
    for word in words[1:]:
        flag = _FLAG.match(word)
        if flag is None or flag[0] in known or flag[0].startswith("--tyro-"):
            continue
        meant = _meant(flag[0], known)
        if meant is None and flag[0].startswith("-o"):  # the output's name follows without a space
            continue
        hint = f"see jaxstyle {words[0]} --help" if meant is None else f"did you mean {meant}?"
        raise ConfigError(f"unknown flag {flag[0]}; {hint}")


def _meant(flag: str, known: set[str]) -> str | None:
    """Return which of the `known` places an unknown flag stands for, if that can be guessed."""
    name = flag.lstrip("-").replace("_", "-")
    for guess in (f"--{name}", name.upper(), _ELSEWHERE.get(name, "")):
        if guess.partition(" ")[0] in known:
            return guess if guess.startswith("-") else f"{guess}, without a flag"
    close = difflib.get_close_matches(flag, known, n=1)
    return close[0] if close else None


@functools.cache
def _places(command: type) -> set[str]:
    """Return the flags of a command, and its positional arguments in capitals."""
    places = {"-h", "--help"}
    for name, hint in get_type_hints(command, include_extras=True).items():
        parts = get_args(hint)
        if name == "flags":
            places |= {f"--{setting.replace('_', '-')}" for setting in parts[0].__annotations__}
        elif name == "action":
            places |= {place for each in parts for place in _places(get_args(each)[0])}
        elif Positional in parts:
            places.add(name.upper())
        else:
            places.add(f"--{name.replace('_', '-')}")
    return places | ({"-o"} if "--output" in places else set())


def _sentence(box: str) -> str:
    """Return the text of one of tyro's error boxes, up to its first rule, as one line."""
    _, _, body = re.sub(r"\x1b\[[0-9;]*m", "", box).partition("\n")
    sections = (section.replace("│", " ").split() for section in re.split("[─-]{9,}", body))
    text = " ".join(next(filter(None, sections), ["usage"]))
    text = text.removeprefix("Error parsing ").removesuffix(" (required)")
    for pattern, ours in _OURS:
        match = pattern.fullmatch(text)
        if match is not None:
            return ours(match)
    return text[:1].lower() + text[1:]


def _missing(match: re.Match[str]) -> str:
    given = re.compile(r"(?:-\w \S+, )?(--\S+ \S+|[A-Z_]+)")
    found = [given.match(each.strip()) for each in match["rest"].split("(required)")]
    names = " and ".join(name[1] for name in found if name is not None)
    return f"{match['command']} needs {names}; see {match['command']} --help"


def _alternatives(match: re.Match[str]) -> str:
    names = {"INT": "a whole number", "FLOAT": "a number"}
    kinds = [kind.strip("{}") for kind in match["kinds"].split("|")]
    wanted = " or ".join(names.get(kind, kind) for kind in kinds if kind != "None")
    return f"{match['flag']} must be {wanted}, not {match['value']}"


def _choices(match: re.Match[str]) -> str:
    kinds = match["kinds"].replace("'", "")
    return f"{match['flag']} must be one of {kinds}, not {match['value']}"


def _numbers(match: re.Match[str]) -> str:
    kind = "whole numbers" if match["flag"] == "--sizes" else "numbers"
    return f"{match['flag']} must be {kind}, not {match['value']}"


_OURS: Sequence[tuple[re.Pattern[str], Callable[[re.Match[str]], str]]] = (
    (re.compile(r"Missing from (?P<command>[a-z ]+): (?P<rest>.*)"), _missing),
    (
        re.compile(r"Missing value for argument '(?:-\w/)?(?P<flag>--\S+)'\..*"),
        lambda match: f"{match['flag']} needs a value",
    ),
    (
        re.compile(r"Expected one of \{(?P<kinds>.*)\}\."),
        lambda match: f"name one of {match['kinds']}",
    ),
    (
        re.compile(
            r"(?P<flag>--\S+): no type matching (?P<kinds>\S+) could be instantiated "
            r"from \[(?P<value>.*?)\]\. .*"
        ),
        _alternatives,
    ),
    (
        re.compile(r"(?P<flag>--\S+): invalid literal for int\(\) with base 10: (?P<value>.*)"),
        lambda match: f"{match['flag']} must be a whole number, not {match['value']}",
    ),
    (
        re.compile(r"(?P<flag>--\S+): could not convert string to float: (?P<value>.*)"),
        lambda match: f"{match['flag']} must be a number, not {match['value']}",
    ),
    (
        re.compile(r"(?P<flag>--\S+): Could not find valid parse for arguments: \[(?P<value>.*)\]"),
        _numbers,
    ),
    (
        re.compile(
            r"Invalid choice (?P<value>.*?) for argument '(?P<flag>--\S+)'\. "
            r"Expected one of \((?P<kinds>.*)\)\.",
            re.IGNORECASE,
        ),
        _choices,
    ),
)
"""What tyro says, and what is said instead."""
