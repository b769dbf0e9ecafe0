"""Reader of a run's metrics.jsonl."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from etils import epath

from jaxstyle.config import JaxstyleError, RunError
from jaxstyle.imaging import exists, read_rows

_FIELDS = {"evaluation": int, "terms": dict}


def read_metrics(
    run: epath.PathLike,
    error: type[JaxstyleError] = RunError,
    also: Mapping[str, type | tuple[type, ...]] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """Read the lines of RUN/metrics.jsonl; values that are not numbers become None.

    An incomplete last line, still being written, is omitted.

    Args:
        run: the run's folder.
        error: the type of error to raise.
        also: required fields of every line and their types, besides evaluation and terms.

    Raises:
        error: the file is missing, or a line is damaged.
    """
    path = epath.Path(run) / "metrics.jsonl"
    if not exists(path, error):
        raise error(f"{run}: not a run's folder; it has no metrics.jsonl")
    return read_rows(path, error, {**_FIELDS, **also}, growing=True)
