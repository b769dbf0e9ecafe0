"""The command line: parsing, wiring, exit codes, signals and progress bars."""

from jaxstyle.cli.app import main, run

__all__ = ["main", "run"]
