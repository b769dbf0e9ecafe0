"""How the measuring programs end on a mistake of the user's, as `jaxstyle` does."""

import sys
from collections.abc import Callable

from jaxstyle import JaxstyleError


def exit_code(work: Callable[[], int | None]) -> int:
    """What `work` returns, 0 for nothing; 2 for a mistake, which is told in one line."""
    try:
        return work() or 0
    except JaxstyleError as error:
        print(error, file=sys.stderr)
        return 2
