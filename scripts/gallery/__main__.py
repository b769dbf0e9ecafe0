"""Makes the documentation's pictures: `options`, one for each, or `presets`, side by side."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gallery.mistakes import exit_code
from gallery.options import make_option_pictures
from gallery.presets import compare_presets
from jaxstyle import load_weights

DOCS = Path(__file__).parents[2] / "docs" / "images"


def main(argv: Sequence[str] | None = None) -> int:
    """Make the pictures named on the command line; return 2 for a mistake in it."""
    return exit_code(lambda: _make(argv))


def _make(argv: Sequence[str] | None) -> None:
    parser = argparse.ArgumentParser(prog="scripts/option_pictures", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    options = commands.add_parser("options", help="a picture for each option, of the cat Chelsea")
    options.add_argument("-o", "--output", type=Path, default=DOCS / "options")
    options.add_argument("--size", type=int, default=256)
    options.add_argument("--evaluations", type=int, default=60, help="at each scale")
    options.add_argument("--only", nargs="+", help="names of pictures")
    presets = commands.add_parser("presets", help="the presets at equal cost: a sheet and a table")
    presets.add_argument("contents", nargs="+", type=Path, help="photographs")
    presets.add_argument("--styles", nargs="*", type=Path, default=[], help="beside our patterns")
    presets.add_argument("-o", "--output", type=Path, required=True, help="a folder")
    presets.add_argument("--size", type=int, default=192)
    presets.add_argument("--evaluations", type=int, default=100, help="of the full size")
    presets.add_argument("--presets", nargs="+")
    given = parser.parse_args(argv)
    params = load_weights()
    if given.command == "options":
        make_option_pictures(params, given.output, given.size, given.evaluations, given.only)
    else:
        compare_presets(
            params,
            given.contents,
            given.styles,
            given.output,
            given.size,
            given.evaluations,
            given.presets,
        )


if __name__ == "__main__":
    sys.exit(main())
