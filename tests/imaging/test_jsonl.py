"""JSON in files: what is no number is null, what is torn or damaged is seen."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxstyle.config.errors import FileError
from jaxstyle.imaging.jsonl import parse, read_rows, to_json


def test_an_object_comes_back_with_null_for_what_is_no_number() -> None:
    value = {
        "a": [1.5, float("nan"), (True, None, 3)],
        "b": {"c": float("-inf"), "d": "text"},
        "e": 10**400,
        "f": np.float64(0.1),
    }
    expected = {"a": [1.5, None, [True, None, 3]], "b": {"c": None, "d": "text"}, "e": None}
    text = to_json(value)
    assert json.loads(text) == expected | {"f": 0.1}
    assert parse(text.encode(), "here") == expected | {"f": 0.1}
    # Lines that are read and written again are the same lines.
    assert to_json(parse(text.encode(), "here")) == text


def test_only_a_file_that_grows_may_end_in_part_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"n": 1}\n\n{"n": 2}\n{"n": ')
    assert read_rows(path, {"n": int}, growing=True) == [{"n": 1}, {"n": 2}]
    with pytest.raises(FileError, match=r"rows\.jsonl, line 4: damaged; not a JSON object"):
        read_rows(path, {"n": int})
    path.write_text('{"n": 1}\n{"n": 2}')
    assert read_rows(path, {"n": int}) == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize("text", ["nonsense\n", '{"n": "1"}\n', "[1]\n", "{}\n"])
def test_a_damaged_line_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"n": 1}\n' + text + '{"n": 3}\n')
    with pytest.raises(FileError, match=r"rows\.jsonl, line 2: damaged"):
        read_rows(path, {"n": int}, growing=True)
    with pytest.raises(FileError, match="no such file"):
        read_rows(tmp_path / "none", {})
