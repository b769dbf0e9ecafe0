"""Cells from folders, sweeps and tables."""

from pathlib import Path

import pytest

from jaxstyle import Config, ConfigError, preset
from jaxstyle.storage.cells import Base, GridCell, list_pictures, product, read_cells, sweep

BASE = Base("default", [("", {"size": 64, "evaluations": 5})])
START = preset("default").replace(size=64, evaluations=5)


def test_a_folder_stands_for_its_pictures_by_name(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", ".hidden.png", "notes.txt", "c.webp"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    with pytest.warns(UserWarning, match=r"skipped 1 file not named as pictures \(\.txt\)"):
        found = list_pictures([str(tmp_path), "else.png"])
    assert found == [*(str(tmp_path / name) for name in ("a.png", "b.JPG", "c.webp")), "else.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no pictures"):
        list_pictures([str(tmp_path / "empty")])


def test_the_product_has_every_pair_under_every_setting() -> None:
    configs = [Config(seed=0), Config(seed=1)]
    cells = product(["a", "b"], ["s", "t"], configs)
    assert len(cells) == len(set(cells)) == 8
    assert cells[0] == GridCell("a", ("s",), configs[0])
    assert [cell.content for cell in cells[:4]] == ["a", "a", "b", "b"]


def test_sweeps_combine() -> None:
    found = sweep(BASE, ["style-weight=1,1e2", "seed=0:3"])
    assert len(found) == 6
    assert found[0] == START.replace(style_weight=1.0, seed=0)
    assert found[-1] == START.replace(style_weight=100.0, seed=2)
    assert sweep(BASE, []) == [START]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("size=32,original", [START.replace(size=32), START.replace(size="original")]),
        ("init=noise", [START.replace(init="noise")]),
        ("init=2.png", [START.replace(init="2.png")]),
        (
            "style_layers=relu1_1=2+relu2_1,relu3_1",
            [
                START.replace(style_layers={"relu1_1": 2.0, "relu2_1": 1.0}),
                START.replace(style_layers=("relu3_1",)),
            ],
        ),
        ("optimizer=adam", [START.replace(optimizer="adam")]),
        ("scales=3,auto", [START.replace(scales=3), START]),
        ("history_size=5", [START.replace(history_size=5)]),
        ("pooling=max,average", [START, START.replace(pooling="average")]),
        ("preset=seed,default", [preset("seed").replace(size=64, evaluations=5), START]),
    ],
)
def test_values_are_read_as_the_setting_wants_them(text: str, expected: list[Config]) -> None:
    assert sweep(BASE, [text]) == expected


@pytest.mark.parametrize(
    ("sweeps", "message"),
    [
        (["style_weight"], "NAME=VALUE"),
        (["style_weight=1,,2"], "NAME=VALUE"),
        (["style_wieght=1"], "did you mean style_weight"),
        (["style_weight=heavy"], "style_weight must be a number"),
        (["style_weight=-1"], "at least 0"),
        (["style_weight=nan"], "finite"),
        (["seed=1.5"], "seed must be a whole number"),
        (["seed=4:4"], "empty"),
        (["seed=0:99999999"], "too long"),
        (["seed=0:1000", "style_weight=" + "1," * 99 + "2"], "sweeps of 100000 settings"),
        (["seed=1", "seed=2"], "swept twice"),
        (["preset=monet"], "unknown preset"),
        (["learning_rate=0.1"], "no meaning"),
    ],
)
def test_sweeps_that_cannot_be(sweeps: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sweep(BASE, sweeps)


def test_a_table_has_a_cell_a_row(tmp_path: Path) -> None:
    table = tmp_path / "cells.csv"
    table.write_text(
        "content, style, style-weight, preset\n"
        'a.png, s.png, 10,\n"b, c.png", s.png; t.png, , seed\n',
        encoding="utf-8-sig",
    )
    assert read_cells(str(table), BASE) == [
        GridCell("a.png", ("s.png",), START.replace(style_weight=10.0)),
        GridCell("b, c.png", ("s.png", "t.png"), preset("seed").replace(size=64, evaluations=5)),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("content,style\n", "no cells"),
        ("content\na\n", "row 2 needs a content and a style"),
        ("content,style\na,b\n,b\n", "row 3 needs"),
        ("content,style\na,b,c\n", "row 2 has more or fewer"),
        ("content,style,seed\na,b\n", "row 2 has more or fewer"),
        ("content,style,sede\na,b,1\n", "row 2: unknown setting 'sede'; did you mean seed"),
        ("content,style,seed\na,b,x\n", "row 2: seed must be a whole number"),
        ("content,style\na,s;\n", "row 2 needs"),
        ("content,style,seed,seed\na,s,1,2\n", "column 'seed' appears twice"),
        ("content,st\0yle,st\0yle\na,s,1\n", r"column 'st\\x00yle' appears twice"),
        (b"\xff\xfe\x00", "not a CSV"),
    ],
)
def test_tables_that_cannot_be(text: str | bytes, message: str, tmp_path: Path) -> None:
    table = tmp_path / "cells.csv"
    table.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=message):
        read_cells(str(table), BASE)
