"""What a run's metrics.jsonl says."""

from typing import Any

from etils import epath

from jaxstyle.errors import JaxstyleError, RunError
from jaxstyle.files import exists
from jaxstyle.jsonl import read_rows

_FIELDS = {"evaluation": int, "scale": int, "seconds": (int, float), "terms": dict}


def read_metrics(
    run: epath.PathLike, error: type[JaxstyleError] = RunError
) -> list[dict[str, Any]]:
    """The lines of RUN/metrics.jsonl; what is no number is None.

    A line that is being written, at the end, is left out.

    Raises:
        error: there is no such file, or a line is damaged.
    """
    path = epath.Path(run) / "metrics.jsonl"
    if not exists(path, error):
        raise error(f"{run}: not a run's folder; it has no metrics.jsonl")
    return read_rows(path, error, _FIELDS, growing=True)
