"""Strange files are read, or refused in one line; `scripts/fuzz` tries more of them."""

import pytest

from tests.fuzzing import campaign


@pytest.mark.parametrize("count", [25, pytest.param(400, marks=pytest.mark.slow)])
def test_mutated_files_are_read_or_refused(count: int) -> None:
    names = ("picture", "guide", "toml", "csv", "sweep", "safetensors", "npz", "h5")
    names += ("run", "grid", "row", "checkpoint")
    ends, problems = campaign(names, count, seed=count, seconds=3600)
    assert problems == []
    assert all(each.total() == count for each in ends.values())
    # Some are whole enough; of safetensors, digests tell all others.
    assert all(ends[name]["read"] for name in names if name != "safetensors")
    assert all(ends[name]["refused"] for name in names if name not in ("row", "checkpoint"))
