"""Exit codes of the measuring programs: a user's mistake ends them as it ends `jaxstyle`."""

import sys
from collections.abc import Callable

from jaxstyle import JaxstyleError


def exit_code(work: Callable[[], int | None]) -> int:
    """Return the value of `work`, 0 for None; for a mistake, print one line and return 2."""
    try:
        return work() or 0
    except JaxstyleError as error:
        print(error, file=sys.stderr)
        return 2
