"""What a run's metrics.jsonl says."""

import json
from typing import Any

from etils import epath

from jaxstyle import files
from jaxstyle.errors import RunError


def read_metrics(run: epath.PathLike) -> list[dict[str, Any]]:
    """The lines of RUN/metrics.jsonl; what is no number is None.

    A line that is being written, at the end, is left out.

    Raises:
        RunError: there is no such file, or a line is damaged.
    """
    path = epath.Path(run) / "metrics.jsonl"
    try:
        text = files.read_bytes(path, RunError).decode()
        return [json.loads(line) for line in text.splitlines(keepends=True) if line[-1:] == "\n"]
    except RunError:
        raise RunError(f"{run}: not a run's folder; it has no metrics.jsonl") from None
    except ValueError:
        raise RunError(f"{path}: damaged") from None
