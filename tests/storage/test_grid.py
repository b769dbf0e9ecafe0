"""Grids on disk: done once, resumed, split, collected, with bad cells failing alone."""

import errno
import functools
import itertools
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image as Pil

from jaxstyle import Config, ConfigError, FileError, load_image, save_image, stylize
from jaxstyle.engine.optimizers import state_at
from jaxstyle.engine.stylize import stylize_cells
from jaxstyle.imaging import images
from jaxstyle.network.arrays import Params
from jaxstyle.reporting import write_animation, write_report
from jaxstyle.storage.cell_progress import CellProgress
from jaxstyle.storage.cells import GridCell, product
from jaxstyle.storage.folders import read_config, read_metrics, read_result
from jaxstyle.storage.grid import Entry, Grid, Summary
from jaxstyle.storage.pace import Schedule
from jaxstyle.storage.runs import Identity, fork
from jaxstyle.storage.sheets import _differences, sheet_pages
from tests.conftest import SHALLOW, picture

QUICK = SHALLOW.replace(size=32, evaluations=4, style_weight=1.0, tv_weight=1e-5)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Two contents and two styles; of one shape each, which compiles least."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name, (height, width, seed) in {
        "one": (32, 48, 0),
        "two": (32, 48, 3),
        "stripes": (40, 36, 1),
        "waves": (40, 36, 2),
    }.items():
        save_image(folder / f"{name}.png", picture(height, width, seed))
    return folder


def cells_of(files: Path, configs: Sequence[Config] = (QUICK,)) -> list[GridCell]:
    return product(
        [str(files / "one.png"), str(files / "two.png")],
        [str(files / "stripes.png"), str(files / "waves.png")],
        configs,
    )


def grid_of(cells: list[GridCell], output: Path, **settings: str) -> Grid:
    return Grid(cells, output, **({"weights_sha256": "weights"} | settings))  # pyright: ignore[reportArgumentType]


def ran(grid: Grid, params: Params, **settings: object) -> list[str]:
    """Run the grid and return the names of the cells that it worked on."""
    names: list[str] = []

    def on_cell(entry: Entry, problem: str | None) -> None:
        names.append(entry.name)

    grid.run(params, on_cell=on_cell, **settings)  # pyright: ignore[reportArgumentType]
    return names


@pytest.mark.slow
def test_a_cell_is_what_stylize_makes(files: Path, tmp_path: Path, small_params: Params) -> None:
    save_image(files / "two.png", picture(48, 32, 3))
    save_image(files / "waves.png", picture(30, 44, 2))
    whole = Config(size=32, evaluations=4, style_weight=1.0, tv_weight=1e-5)
    configs = [whole, whole.replace(init="noise", seed=4, style_weight=3.0)]
    grid = grid_of(cells_of(files, configs), tmp_path / "out")
    assert len(ran(grid, small_params)) == 8
    assert grid.summary() == Summary(done=8, failed=0, missing=0)
    for entry in grid.entries:
        row = grid.row(entry)
        assert row is not None
        cell = entry.cell
        expected = stylize(
            load_image(cell.content, 32), load_image(cell.styles[0]), cell.config, small_params
        )
        assert_allclose(row["losses"], [record.loss for record in expected.history], rtol=1e-4)
        assert_allclose(row["loss"], expected.loss, rtol=1e-4)
        assert row["evaluations"] == 4
        assert row["ended_by"] == "budget"
        assert row["config"]["seed"] == cell.config.seed
        image = load_image(tmp_path / "out" / row["image"])
        assert_allclose(image, np.clip(expected.image, 0, 1), atol=1 / 255)


def test_the_same_command_again_does_only_what_is_missing(
    files: Path, tmp_path: Path, small_params: Params
) -> None:
    output = tmp_path / "out"
    first = grid_of(cells_of(files), output)
    assert len(ran(first, small_params)) == 4
    kept = {path: path.read_bytes() for path in (output / "cells").iterdir()}
    assert ran(grid_of(cells_of(files), output), small_params) == []
    # A row that is missing or damaged, an input or a setting that has changed.
    lost, *damaged = (output / "cells" / f"{entry.name}.json" for entry in first.entries)
    lost.unlink()
    damaged[0].write_text('{"status": "do')
    damaged[1].write_text('{"status": "done"}')
    damaged[2].write_text('{"status": ["failed"], "reason": "it"}')
    again = grid_of(cells_of(files), output)
    assert sorted(ran(again, small_params)) == sorted(entry.name for entry in first.entries)
    for path, data in kept.items():
        if path.suffix == ".png":
            assert path.read_bytes() == data
    save_image(files / "waves.png", picture(40, 36, 7))
    changed = ran(grid_of(cells_of(files), output), small_params)
    assert len(changed) == 2
    assert all("waves" in name for name in changed)
    more = [QUICK, QUICK.replace(style_weight=2.0)]
    assert len(ran(grid_of(cells_of(files, more), output), small_params)) == 4
    # The same pictures elsewhere are the same cells.
    shutil.copytree(files, tmp_path / "moved")
    assert ran(grid_of(cells_of(tmp_path / "moved"), output), small_params) == []
    # Other weights or another crop are not.
    other = grid_of(cells_of(files), output, weights_sha256="other")
    assert not any(map(other.is_done, other.entries))


def test_an_interrupted_grid_goes_on(
    files: Path, tmp_path: Path, small_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = grid_of(cells_of(files), tmp_path / "whole")
    whole.run(small_params, lanes=1)

    def interrupted(*arguments: object, **settings: object):
        for number, outcome in enumerate(stylize_cells(*arguments, **settings)):  # pyright: ignore[reportArgumentType]
            if number == 2:
                raise KeyboardInterrupt
            yield outcome

    grid = grid_of(cells_of(files), tmp_path / "cut")
    monkeypatch.setattr("jaxstyle.storage.grid.stylize_cells", interrupted)
    with pytest.raises(KeyboardInterrupt):
        grid.run(small_params, lanes=1)
    assert grid.summary() == Summary(done=2, failed=0, missing=2)
    monkeypatch.undo()
    assert len(ran(grid, small_params, lanes=1)) == 2
    for entry in whole.entries:
        name = f"cells/{entry.name}.png"
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize(
    ("scales", "lanes", "optimizer", "runs"),
    [(1, 1, "adam", None), (2, 3, "lbfgs", None), (2, 3, "adam", Schedule(every=2))],
)
def test_a_grid_killed_inside_its_cells_is_the_undisturbed_one(
    files: Path,
    tmp_path: Path,
    small_params: Params,
    scales: int,
    lanes: int,
    optimizer: str,
    runs: Schedule | None,
) -> None:
    config = QUICK.replace(scales=scales, evaluations=5, optimizer=optimizer, size=48)
    whole = grid_of(cells_of(files, [config]), tmp_path / "whole")
    whole.run(small_params, lanes=lanes, runs=runs)
    kills, resumed = 0, 0
    while True:
        grid, read = grid_of(cells_of(files, [config]), tmp_path / "cut"), []

        def on_evaluations(count: int, read: list[int] = read) -> None:
            read.append(count)
            if len(read) == 4:
                raise KeyboardInterrupt

        resumed += sum(path.is_dir() for path in (tmp_path / "cut").glob("cells/*"))
        try:
            grid.run(
                small_params,
                lanes=lanes,
                checkpoint_seconds=0,
                runs=runs,
                on_evaluations=on_evaluations,
            )
            break
        except KeyboardInterrupt:
            kills += 1
            assert kills < 40
    assert kills >= 4
    assert resumed >= 4
    assert sorted(path.name for path in (tmp_path / "cut" / "cells").iterdir()) == sorted(
        path.name for path in (tmp_path / "whole" / "cells").iterdir()
    )
    for path in (tmp_path / "whole").rglob("*.png"):
        assert (tmp_path / "cut" / path.relative_to(tmp_path / "whole")).read_bytes() == (
            path.read_bytes()
        )
    for entry in whole.entries:
        rows = grid.row(entry), whole.row(entry)
        assert rows[0] is not None
        assert rows[1] is not None
        assert rows[0]["losses"] == rows[1]["losses"]


@pytest.mark.parametrize("runs", [None, Schedule(every=2)])
def test_an_interrupted_grid_saves_the_cells_under_way(
    files: Path, tmp_path: Path, small_params: Params, runs: Schedule | None
) -> None:
    config = QUICK.replace(evaluations=9)
    whole, cut = (grid_of(cells_of(files, [config]), tmp_path / name) for name in ("whole", "cut"))
    whole.run(small_params, lanes=4)
    asked = itertools.count(1)
    options = {"lanes": 4, "checkpoint_seconds": 1e9, "runs": runs}
    with pytest.raises(KeyboardInterrupt):
        cut.run(small_params, is_interrupted=lambda: next(asked) == 4, **options)
    steps = [int(path.name) for path in (tmp_path / "cut").glob("cells/*/checkpoint/*")]
    assert len(steps) >= 4
    assert sorted(steps)[-4:] in ([5] * 4, [6] * 4)  # one more may have been under way
    read: list[int] = []
    cut.run(small_params, on_evaluations=read.append, **options)
    assert read[:4] == sorted(steps)[-4:]
    assert sum(read) == 4 * 9
    for entry in whole.entries:
        name = f"cells/{entry.name}.png"
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_cell_may_keep_its_run(files: Path, tmp_path: Path, small_params: Params) -> None:
    config = QUICK.replace(scales=2, preserve_color="luminance")
    grid = grid_of(cells_of(files, [config]), tmp_path / "out")
    grid.run(small_params, lanes=2, runs=Schedule(every=3))
    assert ran(grid, small_params, runs=Schedule()) == []
    for entry in grid.entries:
        folder, row = tmp_path / "out" / "cells" / entry.name, grid.row(entry)
        assert row is not None
        assert [line["loss"] for line in read_metrics(folder)] == row["losses"]
        assert {path.name for path in folder.glob("snapshots/*")} == {"000003.png", "000006.png"}
        assert {path.name for path in folder.glob("inputs/*")} == {"content.jpg", "style-1.jpg"}
        for path in folder.glob("inputs/*"):  # as they were used: only lightness was
            assert np.ptp(load_image(path), axis=2).max() < 0.02
        image = (folder / "image.png").read_bytes()
        assert image == folder.with_suffix(".png").read_bytes()
        result = read_result(folder)
        assert result is not None
        assert result["loss"] == row["loss"]
        assert read_config(folder)["run"]["content"] == entry.cell.content
        summary = json.loads(images.read_metadata(folder / "image.png") or "")
        assert summary["sha256"] == entry.sha256
        write_report(folder, tmp_path / "report.html")
        assert write_animation(folder, tmp_path / "film.gif") == 3
        like = functools.partial(state_at, config, entry.shape)
        identity = Identity(
            entry.cell.config.replace(evaluations=9), entry.sha256, entry.cell.content, []
        )
        assert fork(folder, identity, like, (32, 48))[0].evaluations == 8


def interrupted_after_an_evaluation(grid: Grid, params: Params) -> None:
    def on_evaluations(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        grid.run(
            params,
            lanes=1,
            checkpoint_seconds=0,
            runs=Schedule(every=2),
            on_evaluations=on_evaluations,
        )


def test_a_run_that_was_begun_is_kept_without_the_flag(
    files: Path, tmp_path: Path, small_params: Params
) -> None:
    grid = grid_of(cells_of(files)[:2], tmp_path / "out")
    interrupted_after_an_evaluation(grid, small_params)
    (begun,) = [path for path in (tmp_path / "out" / "cells").iterdir() if path.is_dir()]
    grid.run(small_params, lanes=1)
    assert grid.summary().done == 2
    assert [path for path in (tmp_path / "out" / "cells").iterdir() if path.is_dir()] == [begun]
    (row,) = [row for row in map(grid.row, grid.entries) if row and row["cell"] == begun.name]
    assert [line["loss"] for line in read_metrics(begun)] == row["losses"]
    assert read_result(begun) is not None


def test_damaged_settings_of_a_run_do_not_end_its_grid(
    files: Path, tmp_path: Path, small_params: Params
) -> None:
    grid = grid_of(cells_of(files)[:1], tmp_path / "out")
    interrupted_after_an_evaluation(grid, small_params)
    folder = tmp_path / "out" / "cells" / grid.entries[0].name
    (folder / "config.toml").write_text("= damaged")
    grid.run(small_params, runs=Schedule(every=2))
    assert grid.summary().done == 1
    assert read_config(folder)["evaluations"] == 4


def test_what_a_kill_left_is_removed_by_the_next_start(
    files: Path, tmp_path: Path, small_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = grid_of(cells_of(files)[:2], tmp_path / "out")
    monkeypatch.setattr(CellProgress, "remove", lambda self: self.close())
    grid.run(small_params, checkpoint_seconds=0)
    cells = tmp_path / "out" / "cells"
    assert [path for path in cells.iterdir() if path.is_dir()]
    monkeypatch.undo()
    old, new = (cells / f".jaxstyle-{digit * 32}.tmp" for digit in "01")
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    assert ran(grid, small_params) == []
    assert not [path for path in cells.iterdir() if path.is_dir()]
    assert new.exists()
    assert not old.exists()


def test_a_row_that_cannot_be_read_is_not_taken_for_missing(
    files: Path, tmp_path: Path, small_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = grid_of(cells_of(files)[:1], tmp_path / "out")
    grid.run(small_params)

    def stale(*_: object, **__: object) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("etils.epath.gpath._GPath.read_text", stale)
    with pytest.raises(FileError, match=r"json: cannot be read \(Input"):
        grid.row(grid.entries[0])


def test_a_damaged_checkpoint_starts_its_cell_anew(
    files: Path, tmp_path: Path, small_params: Params
) -> None:
    grid = grid_of(cells_of(files)[:1], tmp_path / "out")
    (damaged,) = grid.entries
    (tmp_path / "out" / "cells" / damaged.name / "checkpoint" / "3").mkdir(parents=True)
    with pytest.warns(UserWarning, match="the cell starts over"):
        grid.run(small_params)
    assert grid.summary().done == 1
    assert not (tmp_path / "out" / "cells" / damaged.name).exists()


def test_bad_inputs_fail_their_cells_only(
    files: Path, tmp_path: Path, small_params: Params
) -> None:
    (files / "broken.png").write_bytes(b"no picture")
    good = (files / "one.png").read_bytes()
    (files / "cut.png").write_bytes(good[: len(good) // 2])
    save_image(files / "tiny.png", picture(3, 3, 0))
    contents = [str(files / f"{name}.png") for name in ("broken", "one", "cut", "missing")]
    styles = [str(files / f"{name}.png") for name in ("stripes", "tiny")]
    config = QUICK.replace(size="original")
    grid = grid_of(product(contents, styles, [config]), tmp_path / "out")
    assert len(ran(grid, small_params)) == 8
    assert grid.summary() == Summary(done=1, failed=7, missing=0)
    reasons = {
        (Path(row["content"]).stem, Path(row["styles"][0]).stem): row.get("reason")
        for row in map(grid.row, grid.entries)
        if row is not None
    }
    assert reasons["one", "stripes"] is None
    assert "not an image" in reasons["broken", "stripes"]
    assert "cut.png: damaged or truncated" in reasons["cut", "stripes"]
    assert "no such file" in reasons["missing", "tiny"]
    assert "too small" in reasons["one", "tiny"]
    missing = product(contents[3:], styles, [config.replace(scales=2)])
    assert {entry.cost for entry in grid_of(missing, tmp_path / "out").entries} == {0}
    # Failed cells are tried again, and count as there for the sheet.
    save_image(files / "broken.png", picture(32, 48, 5))
    again = grid_of(product(contents, styles, [config]), tmp_path / "out")
    assert len(ran(again, small_params)) == 7
    assert again.summary() == Summary(done=2, failed=6, missing=0)
    again.collect()
    rows = (tmp_path / "out" / "grid.jsonl").read_text().splitlines()
    assert [json.loads(row)["status"] for row in rows].count("done") == 2


def test_a_loss_that_is_never_finite_fails_its_cell(
    files: Path, tmp_path: Path, small_params: Params
) -> None:
    configs = [QUICK.replace(tv_weight=3e38), QUICK]
    grid = grid_of(cells_of(files, configs), tmp_path / "out")
    grid.run(small_params)
    assert grid.summary() == Summary(done=4, failed=4, missing=0)
    row = grid.row(grid.entries[0])
    assert row is not None
    assert "never finite" in row["reason"]


@pytest.mark.slow
def test_shards_are_the_grid_once(files: Path, tmp_path: Path, small_params: Params) -> None:
    configs = [QUICK, QUICK.replace(pooling="average"), QUICK.replace(size=40, evaluations=8)]
    cells = cells_of(files, configs)
    grid = grid_of(cells, tmp_path / "out")
    for count in (1, 2, 3, 5, 20):
        shares = [grid.share((index, count)) for index in range(count)]
        names = [entry.name for share in shares for entry in share]
        assert sorted(names) == sorted(entry.name for entry in grid.entries)
    costs = [sum(entry.cost for entry in grid.share((index, 2))) for index in range(2)]
    assert 0.5 < costs[0] / costs[1] < 2
    done = [ran(grid_of(cells, tmp_path / "out"), small_params, shard=(i, 3)) for i in range(3)]
    assert sorted(itertools.chain(*done)) == sorted(entry.name for entry in grid.entries)
    assert grid.summary().missing == 0


def test_the_sheet_is_of_whatever_is_there(
    files: Path, tmp_path: Path, small_params: Params
) -> None:
    configs = [QUICK, QUICK.replace(seed=1)]
    grid = grid_of(cells_of(files, configs), tmp_path / "out")
    grid.run(small_params, shard=(0, 2))
    assert [path.name for path in grid.collect()] == ["sheet-001.jpg", "sheet-002.jpg"]
    for path in (tmp_path / "out").glob("sheet*.jpg"):
        with Pil.open(path) as sheet:
            assert sheet.width > 3 * 256
    rows = (tmp_path / "out" / "grid.jsonl").read_text().splitlines()
    assert len(rows) == grid.summary().done < 8


def test_many_pictures_are_on_several_sheets(files: Path, tmp_path: Path) -> None:
    contents = [str(files / f"missing{i}.png") for i in range(30)]
    grid = grid_of(product(contents, [str(files / "waves.png")], [QUICK]), tmp_path / "out")
    assert len(grid.collect()) == 2


def test_a_file_that_changes_meanwhile_fails_its_cells(
    files: Path, tmp_path: Path, small_params: Params
) -> None:
    grid = grid_of(cells_of(files), tmp_path / "out")
    save_image(files / "one.png", picture(20, 20, 8))
    grid.run(small_params)
    assert grid.summary() == Summary(done=2, failed=2, missing=0)
    row = grid.row(grid.entries[0])
    assert row is not None
    assert "has changed" in row["reason"]


def test_a_file_that_vanishes_at_the_end_fails_its_cell(
    files: Path, tmp_path: Path, small_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = grid_of(cells_of(files), tmp_path / "out")

    def alpha(path: str, config: Config) -> None:
        if "one" in path:
            raise FileError(f"{path}: not found")

    monkeypatch.setattr(grid._pictures, "alpha", alpha)
    grid.run(small_params)
    assert grid.summary() == Summary(done=2, failed=2, missing=0)


def test_the_same_file_twice_is_one_cell(files: Path, tmp_path: Path, small_params: Params) -> None:
    (files / "copy").mkdir()
    shutil.copy(files / "one.png", files / "copy" / "one.png")
    contents = [str(files / "one.png"), str(files / "copy" / "one.png")]
    cells = product(contents, [str(files / "waves.png")], [QUICK])
    grid = grid_of(cells, tmp_path / "out")
    assert len(ran(grid, small_params)) == 1
    # A picture that was deleted is made again.
    (tmp_path / "out" / "cells" / f"{grid.entries[0].name}.png").unlink()
    assert len(ran(grid, small_params)) == 1
    with pytest.raises(ConfigError, match="no style"):
        grid_of([GridCell(contents[0], (), QUICK)], tmp_path / "out").run(small_params)


def test_names_stay_in_the_folder(files: Path, tmp_path: Path, small_params: Params) -> None:
    nasty = files / "..\\..;$(x) 日本 ../".rstrip("/").replace("/", "_")
    odd = files / f"{nasty.name}.png"
    shutil.copy(files / "one.png", odd)
    twin = files / "deeper" / "one.png"
    twin.parent.mkdir()
    save_image(twin, picture(32, 48, 9))
    contents = [str(odd), str(files / "one.png"), str(twin), str(files / ".." / "in" / "one.png")]
    grid = grid_of(product(contents, [str(files / "stripes.png")], [QUICK]), tmp_path / "out")
    before = {path for path in tmp_path.rglob("*") if "out" not in path.parts}
    grid.run(small_params)
    grid.collect()
    assert {path for path in tmp_path.rglob("*") if tmp_path / "out" not in path.parents} - {
        tmp_path / "out"
    } == before
    for path in (tmp_path / "out" / "cells").iterdir():
        assert path.name.isascii()
        assert set(path.stem) <= set(
            "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
        )
    # Equal names of different pictures are different cells.
    assert len({entry.name for entry in grid.entries}) >= 3


@pytest.mark.slow
def test_contents_of_nearly_one_shape_are_cropped_to_one(
    tmp_path: Path, small_params: Params
) -> None:
    contents: list[str] = []
    for height in range(60, 68):
        contents.append(str(tmp_path / f"{height}.png"))
        save_image(contents[-1], picture(height, 96, height))
    style = str(tmp_path / "60.png")
    cells = product(contents, [style], [QUICK.replace(size=48, evaluations=1)])
    nearest = grid_of(cells, tmp_path / "nearest")
    assert {entry.shape for entry in nearest.entries} == {(30, 48), (32, 48), (34, 48)}
    own = grid_of(cells, tmp_path / "own", aspect="own")
    assert len({entry.shape for entry in own.entries}) > 3
    assert not {e.name for e in own.entries} & {e.name for e in nearest.entries}
    nearest.run(small_params)
    assert nearest.summary().done == 8


def test_alpha_comes_back(files: Path, tmp_path: Path, small_params: Params) -> None:
    alpha = np.linspace(0, 1, 32 * 48, dtype=np.float32).reshape(32, 48)
    save_image(files / "alpha.png", picture(32, 48, 0), alpha=alpha)
    cell = GridCell(str(files / "alpha.png"), (str(files / "waves.png"),), QUICK.replace(size=48))
    grid = grid_of([cell], tmp_path / "out")
    grid.run(small_params)
    with Pil.open(tmp_path / "out" / "cells" / f"{grid.entries[0].name}.png") as found:
        assert found.mode == "RGBA"
        assert_array_equal(np.asarray(found)[..., 3], np.rint(alpha * 255))


def test_mistakes_in_settings_are_told_at_once(
    files: Path, tmp_path: Path, small_params: Params
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="file"):
        grid_of(cells_of(files), tmp_path / "file").run(small_params)
    grid = grid_of(cells_of(files, [QUICK.replace(style_layers=("relu9_1",))]), tmp_path / "out")
    with pytest.raises(ConfigError, match="unknown layer"):
        grid.run(small_params)


def test_guides_are_read_once_and_have_sheets_of_their_own(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guides = []
    for name, split in (("left", 12), ("right", 36)):
        guide = np.zeros((32, 48, 3), np.float32)
        guide[:, split:] = 1
        guides.append(str(files / f"{name}.png"))
        save_image(guides[-1], guide)
    content, styles = str(files / "one.png"), (str(files / "stripes.png"), str(files / "waves.png"))
    configs = [QUICK, QUICK.replace(style_weight=2.0)]
    cells = [GridCell(content, styles, config, guide) for config in configs for guide in guides]
    reads: list[str] = []
    read_picture = images.read_picture

    def counted(path: str, *arguments: object) -> images.Picture:
        reads.append(path)
        return read_picture(path, *arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(images, "read_picture", counted)
    grid = grid_of(cells, tmp_path / "out")
    assert len(grid.entries) == 4
    assert sorted(reads) == sorted(guides)
    pages = sheet_pages(grid.entries, grid.rows(), grid.output)
    captions = [page["caption"] for page in pages]
    assert captions == [
        f"style_weight = {weight}, guides {number}" for weight in (1.0, 2.0) for number in (1, 2)
    ]


def test_a_caption_names_settings_as_flags_do() -> None:
    half = QUICK.replace(style_layers=["relu1_1", "relu2_1=0.5"])
    configs = [QUICK, half.replace(scales=2), half.replace(optimizer="adam")]
    captions = [_differences(config, configs) for config in configs]
    assert "scales = 2" in captions[1]
    assert "optimizer = adam" in captions[2]
    assert "learning_rate = 0.02" in captions[2]
    assert "style_layers = relu1_1 relu2_1=0.5" in captions[2]
    assert "(" not in "".join(captions)
