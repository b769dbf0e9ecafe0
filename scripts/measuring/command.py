"""Command lines of the measuring programs, from the signatures and docstrings of functions."""

import sys
from collections.abc import Callable, Sequence

import tyro

from jaxstyle import JaxstyleError


def run(
    program: str, commands: Sequence[Callable[..., None]], argv: Sequence[str] | None = None
) -> int:
    """Run the command that `argv` names and return the exit code.

    Args:
        program: the name to show in the help.
        commands: functions whose names are the commands and whose parameters are the options.
        argv: by default, the process's own arguments.
    """
    named = {command.__name__: command for command in commands}
    config = (tyro.conf.FlagCreatePairsOff,)
    return exit_code(
        lambda: tyro.extras.subcommand_cli_from_dict(named, prog=program, args=argv, config=config)
    )


def exit_code(work: Callable[[], int | None]) -> int:
    """Return the value of `work`, 0 for None; for a mistake, print one line and return 2."""
    try:
        return work() or 0
    except JaxstyleError as error:
        print(error, file=sys.stderr)
        return 2
