"""Mistakes on the command line are one line that names what was meant."""

import os
import subprocess
import sys
from typing import get_args

import pytest

import jaxstyle
from jaxstyle import cli
from jaxstyle.cli.commands import Command, Stylize
from jaxstyle.cli.parsing import COMMANDS, parse


def test_every_command_has_a_name() -> None:
    assert set(COMMANDS.values()) == set(get_args(Command))


def test_the_version_is_shown() -> None:
    command = [sys.executable, "-m", "jaxstyle", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        f"jaxstyle {jaxstyle.__version__}\n",
        "",
    )


STYLIZE = ("stylize", "a.png", "b.png")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*STYLIZE, "--sise", "3"), "unknown flag --sise; did you mean --size?"),
        (
            ("stylize", "--evaluation=3", "a", "b"),
            "unknown flag --evaluation; did you mean --evaluations?",
        ),
        (
            (*STYLIZE, "-num_iterations", "3"),
            "unknown flag -num_iterations; did you mean --evaluations?",
        ),
        (
            (*STYLIZE, "--iterations", "3"),
            "unknown flag --iterations; did you mean --evaluations?",
        ),
        ((*STYLIZE, "--image_size=3"), "unknown flag --image-size; did you mean --size?"),
        ((*STYLIZE, "-style_scale", "2"), "unknown flag -style_scale; did you mean --style-scale?"),
        (
            (*STYLIZE, "-original_colors", "1"),
            "unknown flag -original_colors; did you mean --preserve-color luminance?",
        ),
        ((*STYLIZE, "-output_image", "o"), "unknown flag -output_image; did you mean --output?"),
        (
            ("stylize", "-content_image", "a"),
            "unknown flag -content_image; did you mean CONTENT, without a flag?",
        ),
        (("stylize", "--style", "a"), "unknown flag --style; did you mean STYLE, without a flag?"),
        (("grid", "--style", "a"), "unknown flag --style; did you mean --styles?"),
        (("weights", "fetch", "--of-line"), "unknown flag --of-line; did you mean --offline?"),
        ((*STYLIZE, "--xyz"), "unknown flag --xyz; see jaxstyle stylize --help"),
        ((*STYLIZE, "-o", "x.png", "c.png"), "unexpected c.png; see jaxstyle stylize --help"),
        ((*STYLIZE, "--quiet", "--", "c", "-d"), "unexpected c -d; see jaxstyle stylize --help"),
        (("presets", "crowson"), "unexpected crowson; see jaxstyle presets --help"),
        (("stilize", "a", "b"), "unknown command 'stilize'; did you mean stylize?"),
        (("a.png", "b.png"), "unknown command 'a.png'; the commands are stylize, grid, "),
        ((), "name one of stylize, grid, "),
        (("weights",), "name one of fetch, convert, verify, path\n"),
        (("stylize",), "jaxstyle stylize needs CONTENT; see jaxstyle stylize --help\n"),
        (("animate", "run"), "jaxstyle animate needs --output FILE; see jaxstyle animate --help\n"),
        (("report",), "jaxstyle report needs RUN_OR_GRID and --output FILE; see "),
        (("weights", "convert"), "jaxstyle weights convert needs SOURCE and --output FILE; see "),
        ((*STYLIZE, "--evaluations"), "--evaluations needs a value\n"),
        ((*STYLIZE, "-o"), "--output needs a value\n"),
        (("warm", "--sizes", "64", "x"), "--sizes must be whole numbers, not '64', 'x'\n"),
        ((*STYLIZE, "--style-weights", "1", "x"), "--style-weights must be numbers, not '1', 'x'"),
        (("plot", "-o", "x.png"), "name the runs to plot\n"),
        ((*STYLIZE, "--optimizer", "sgd"), "--optimizer must be one of lbfgs, adam, not 'sgd'"),
        ((*STYLIZE, "--size", "abc"), "--size must be a whole number or original, not 'abc'"),
        ((*STYLIZE, "--evaluations", "3.5"), "--evaluations must be a whole number, not '3.5'"),
        ((*STYLIZE, "--style-weight", "x"), "--style-weight must be a number, not 'x'"),
        (("grid", "--lanes", "a"), "--lanes must be a whole number, not 'a'"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(
    capsys: pytest.CaptureFixture, words: tuple[str, ...], message: str
) -> None:
    assert cli.run(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"jaxstyle: {message}")
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("columns", ["40", "200"])
def test_a_mistake_is_one_line_in_any_terminal(encoding: str, columns: str) -> None:
    # tyro's boxes depend on the width, the encoding and whether there may be colours.
    variables = {"PYTHONIOENCODING": encoding, "COLUMNS": columns, "FORCE_COLOR": "1"}
    command = [sys.executable, "-m", "jaxstyle", *STYLIZE, "--optimizer", "sgd"]
    done = subprocess.run(
        command, env=os.environ | variables, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (
        2,
        "jaxstyle: --optimizer must be one of lbfgs, adam, not 'sgd'\n",
    )


def test_an_output_may_follow_its_flag_without_a_space() -> None:
    command = parse([*STYLIZE, "-ox.png"])
    assert isinstance(command, Stylize)
    assert command.output == "x.png"


def test_words_after_two_hyphens_are_left_alone() -> None:
    command = parse(["stylize", "--style_weight=3", "--", "--my_photo.png", "-my_style.png"])
    assert isinstance(command, Stylize)
    assert (command.content, command.style) == ("--my_photo.png", ("-my_style.png",))
    assert command.flags == {"style_weight": 3.0}
