"""Measures what docs/resolution.md says: `scales`, `sizes`, `memory`, each a table in Markdown."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gallery.mistakes import exit_code
from jaxstyle import load_weights, preset
from resolution.memory import memory_table
from resolution.scales import scales_table
from resolution.sizes import sizes_table

SIZES = [(512, 384), (1024, 768), (2048, 1536), (4096, 3072)]
SETTINGS = ["kept", "recomputed", "tiled 1024", "tiled 512"]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print the table named on the command line; return 2 for a mistake in it."""
    return exit_code(lambda: _measure(argv))


def _pair(text: str) -> tuple[Path, Path]:
    content, colon, style = text.partition(":")
    if not colon or not style:
        raise argparse.ArgumentTypeError(f"{text!r} is not CONTENT:STYLE")
    return Path(content), Path(style)


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    return int(width), int(height)


def _measure(argv: Sequence[str] | None) -> None:
    parser = argparse.ArgumentParser(prog="scripts/resolution_tables", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    scales = commands.add_parser("scales", help="what coarse to fine costs to a given loss")
    scales.add_argument("pairs", nargs="+", type=_pair, metavar="CONTENT:STYLE")
    scales.add_argument("-o", "--output", type=Path, required=True, help="a folder for results")
    scales.add_argument("--preset", default="default")
    scales.add_argument("--size", type=int, default=384)
    scales.add_argument("--budget", type=int, default=200, help="of the single scale")
    scales.add_argument("--coarse", type=int, default=50, help="of each scale before the last")
    sizes = commands.add_parser("sizes", help="how large features are, relative to the image")
    sizes.add_argument("content", type=Path)
    sizes.add_argument("style", type=Path)
    sizes.add_argument("-o", "--output", type=Path, required=True, help="a folder for results")
    sizes.add_argument("--preset", default="default")
    sizes.add_argument("--sizes", nargs="+", type=int, default=[512, 2048])
    sizes.add_argument("--evaluations", type=int, default=100, help="of the last scale")
    sizes.add_argument("--coarse", type=int, default=50, help="of each scale before the last")
    memory = commands.add_parser("memory", help="peak memory by size and activations (Linux)")
    memory.add_argument("--sizes", nargs="+", type=_size, default=SIZES, metavar="WIDTHxHEIGHT")
    memory.add_argument("--activations", nargs="+", default=SETTINGS, metavar="WAY")
    given = parser.parse_args(argv)
    if given.command == "memory":
        print(memory_table(given.sizes, given.activations))
        return
    params = load_weights()
    if given.command == "sizes":
        config = preset(given.preset).replace(
            scales="auto", evaluations=given.evaluations, coarse_evaluations=given.coarse
        )
        print(sizes_table(params, given.content, given.style, config, given.sizes, given.output))
        return
    config = preset(given.preset).replace(size=given.size)
    print(scales_table(params, given.pairs, config, given.budget, given.coarse, given.output))


if __name__ == "__main__":
    sys.exit(main())
