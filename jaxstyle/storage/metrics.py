"""What a run's metrics.jsonl says."""

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
    """The lines of RUN/metrics.jsonl; what is no number is None.

    A line that is being written, at the end, is left out.

    Args:
        run: its folder.
        error: what to raise.
        also: what every line has to have, of which type, beside its evaluation and terms.

    Raises:
        error: there is no such file, or a line is damaged.
    """
    path = epath.Path(run) / "metrics.jsonl"
    if not exists(path, error):
        raise error(f"{run}: not a run's folder; it has no metrics.jsonl")
    return read_rows(path, error, {**_FIELDS, **also}, growing=True)
