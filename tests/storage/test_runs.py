"""Runs survive: killed, terminated, with a full disk, and end as if nothing had happened."""

import dataclasses
import json
import random
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxstyle import Config, stylize
from jaxstyle.config import parse_toml
from jaxstyle.config.errors import FileError
from jaxstyle.engine.optimizers import state_like
from jaxstyle.engine.records import Progress, Record
from jaxstyle.network.arrays import Params
from jaxstyle.storage.checkpoints import Checkpoints
from jaxstyle.storage.pace import Schedule
from jaxstyle.storage.runs import Identity, Run, fork
from tests.conftest import SHALLOW, picture
from tests.interrupted_run import BUDGET, COARSE, CONTENT, STYLE, go_on

ROOT = Path(__file__).parents[2]


def start(folder: Path, optimizer: str, pause: float = 0.0, trouble: str = "none") -> Any:
    words = ["-m", "tests.interrupted_run", str(folder), optimizer, str(pause), trouble]
    return subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )


def history(folder: Path) -> list[dict[str, Any]]:
    """The metrics without what the clock says."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    clock = ("seconds", "compile_seconds", "evaluations_per_second", "memory_bytes")
    return [{k: v for k, v in json.loads(line).items() if k not in clock} for line in lines]


def assert_same_run(folder: Path, whole: Path) -> None:
    assert history(folder) == history(whole)
    assert len(history(whole)) == COARSE + BUDGET
    np.testing.assert_array_equal(np.load(folder / "exact.npy"), np.load(whole / "exact.npy"))
    for name in ("image.png", "snapshots/000007.png", "snapshots/000020.png"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    results = [json.loads((run / "result.json").read_text()) for run in (folder, whole)]
    assert all(
        result.pop(name) > 0 for result in results for name in ("seconds", "compile_seconds")
    )
    assert results[0] == results[1]


@pytest.fixture(scope="module", params=["lbfgs", "adam"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An uninterrupted run, and its optimizer."""
    folder = tmp_path_factory.mktemp("whole")
    go_on(folder, request.param)
    return folder, request.param


@pytest.mark.slow
def test_a_run_killed_at_random_is_the_run(whole: Any, tmp_path: Path) -> None:
    expected, optimizer = whole
    moments = random.Random(optimizer)
    for _ in range(4):
        process = start(tmp_path, optimizer, pause=0.05)
        time.sleep(moments.uniform(0, 10))
        process.kill()
        process.communicate()
    go_on(tmp_path, optimizer)
    assert_same_run(tmp_path, expected)


@pytest.mark.parametrize(
    "kills",
    [(COARSE // 2,), pytest.param((COARSE, 1, BUDGET // 2), marks=pytest.mark.slow)],
    ids=str,
)
def test_a_run_killed_at_evaluations_is_the_run(
    whole: Any, tmp_path: Path, kills: tuple[int, ...]
) -> None:
    """Each number is of evaluations recorded since the start or the last kill."""
    expected, optimizer = whole
    for kill in kills:
        process = start(tmp_path, optimizer, trouble=str(kill))
        process.communicate()
        assert process.returncode == -9
    go_on(tmp_path, optimizer)
    assert_same_run(tmp_path, expected)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["checkpoint", "image.png", "result.json"])
def test_a_kill_while_writing_loses_nothing(whole: Any, tmp_path: Path, moment: str) -> None:
    expected, optimizer = whole
    process = start(tmp_path, optimizer, trouble=moment)
    process.communicate()
    assert process.returncode == -9
    there = sorted(p.name for p in (tmp_path / "checkpoint").iterdir() if p.name.isdecimal())
    assert there
    if moment != "checkpoint":
        assert str(COARSE + BUDGET + 1) in there
    go_on(tmp_path, optimizer)
    assert_same_run(tmp_path, expected)


@pytest.mark.slow
def test_a_full_disk_is_told_and_costs_no_checkpoint(whole: Any, tmp_path: Path) -> None:
    expected, optimizer = whole
    process = start(tmp_path, optimizer, trouble="full")
    _, printed = process.communicate()
    assert process.returncode == 1
    assert printed.decode().splitlines() == [
        f"{tmp_path}/checkpoint: the checkpoint cannot be written (File too large); "
        "the last good one is still there"
    ]
    assert (tmp_path / "checkpoint" / "9").is_dir()
    go_on(tmp_path, optimizer)
    assert_same_run(tmp_path, expected)


def test_a_full_disk_is_seen_before_it_is_written_to(
    small_params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_to_end(tmp_path, IDENTITY, small_params, None)
    longer = dataclasses.replace(IDENTITY, config=IDENTITY.config.replace(evaluations=9))
    start = forked(tmp_path, longer)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(FileError, match=r"the disk is full, a checkpoint takes 1 MB$"):
        run_to_end(tmp_path / "second", longer, small_params, start)


IDENTITY = Identity(
    SHALLOW.replace(evaluations=6, style_weight=1.0, tv_weight=1e-5),
    {"content": ["1"], "style": ["2", "3"], "weights": ["4"]},
    "c.png",
    ["s.png", "t.png"],
)


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    with Run(tmp_path), pytest.raises(FileError, match="another process is working on this run"):
        Run(tmp_path)
    with Run(tmp_path):
        pass


def test_a_run_cut_off_before_its_first_evaluation_may_become_another(
    small_params: Params, tmp_path: Path
) -> None:
    def begin(identity: Identity, *styles: np.ndarray) -> None:
        with Run(tmp_path) as run:
            run.identify(identity)
            run.show_inputs(CONTENT, styles)
            run.resume(lambda scale: state_like(CONTENT.shape, identity.config))
            assert set((tmp_path / "inputs").iterdir()) == {
                tmp_path / "inputs" / f"{name}.jpg"
                for name in ("content", *(f"style-{i + 1}" for i in range(len(styles))))
            }

    other = dataclasses.replace(IDENTITY, config=IDENTITY.config.replace(style_weight=2.0))
    begin(IDENTITY, STYLE, STYLE)
    begin(other, STYLE)
    run_to_end(tmp_path, other, small_params, None)
    with pytest.raises(FileError, match=r"style_weight was 2\.0, now 1\.0"):
        begin(IDENTITY, STYLE)


def test_a_folder_with_a_file_in_the_way_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_text("mine")
    with pytest.raises(FileError, match="checkpoint is a file"):
        Run(tmp_path)


def test_the_folder_says_how_to_repeat_the_run(tmp_path: Path) -> None:
    with Run(tmp_path) as run:
        run.identify(IDENTITY)
    text = (tmp_path / "config.toml").read_text()
    assert Config().replace(**parse_toml(text)) == IDENTITY.config
    about = tomllib.loads(text)["run"]
    assert about["sha256"] == IDENTITY.sha256
    assert (about["content"], about["style"]) == ("c.png", ["s.png", "t.png"])


def test_another_run_is_refused_with_the_difference(tmp_path: Path) -> None:
    with Run(tmp_path) as run:
        run.identify(IDENTITY)
        (tmp_path / "metrics.jsonl").write_text("begun")
        run.identify(IDENTITY)
        settings = IDENTITY.config.replace(tv_weight=0.5, history_size=7)
        files = {**IDENTITY.sha256, "style": ["2", "9"]}
        other = Identity(settings, files, "c.png", ["s.png"])
        with pytest.raises(FileError) as caught:
            run.identify(other)
    for part in ("tv_weight was 1e-05, now 0.5", "history_size was 20, now 7"):
        assert part in str(caught.value)
    assert "style was another file" in str(caught.value)
    assert "content" not in str(caught.value)


def run_to_end(folder: Path, identity: Identity, params: Params, start: Progress | None) -> Any:
    with Run(folder, checkpoints=Schedule(every=4)) as run:
        run.identify(identity)
        start = run.resume(lambda scale: state_like(CONTENT.shape, identity.config), start)
        return stylize(
            CONTENT,
            STYLE,
            identity.config,
            params,
            run.record,
            keeper=run,
            progress=start,
        )


def test_every_evaluation_is_saved_if_time_asks_for_it(
    small_params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    save = Checkpoints.save
    monkeypatch.setattr(
        Checkpoints, "save", lambda self, p: (saved.append(p.evaluations), save(self, p))
    )
    config = IDENTITY.config.replace(evaluations=4)
    with Run(tmp_path / "run", checkpoint_seconds=1e-9) as run:
        monkeypatch.setattr("jaxstyle.storage.pace._SHARE", 1e9)
        run.identify(dataclasses.replace(IDENTITY, config=config))
        run.resume(lambda scale: state_like(CONTENT.shape, config))
        stylize(CONTENT, STYLE, config, small_params, run.record, keeper=run)
    assert sorted(set(saved)) == [2, 3, 4]  # the clock starts with the first


def forked(folder: Path, identity: Identity) -> Progress:
    like = lambda scale: state_like(CONTENT.shape, identity.config)  # noqa: E731
    return fork(folder, identity, like, CONTENT.shape)[0]


def test_a_fork_with_a_larger_budget_is_the_longer_run(
    small_params: Params, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    run_to_end(first, IDENTITY, small_params, None)
    longer = Identity(
        IDENTITY.config.replace(evaluations=11), IDENTITY.sha256, "c.png", ["s.png"], str(first)
    )
    result = run_to_end(second, longer, small_params, forked(first, longer))
    whole = stylize(CONTENT, STYLE, longer.config, small_params)
    assert [r.loss for r in result.history] == [r.loss for r in whole.history]
    np.testing.assert_array_equal(result.image, whole.image)
    assert history(second)[:6] == history(first)
    assert tomllib.loads((second / "config.toml").read_text())["run"]["forked_from"] == str(first)


def test_a_fork_of_a_schedule_does_not_go_on_where_it_ended(
    small_params: Params, tmp_path: Path
) -> None:
    config = IDENTITY.config.replace(optimizer="adam", learning_rate_schedule="cosine")
    scheduled = Identity(config, IDENTITY.sha256, "c.png", ["s.png"])
    run_to_end(tmp_path, scheduled, small_params, None)
    longer = Identity(config.replace(evaluations=11), IDENTITY.sha256, "c.png", ["s.png"])
    assert forked(tmp_path, longer).evaluations == 0


def test_a_fork_of_a_mean_starts_from_it(small_params: Params, tmp_path: Path) -> None:
    config = IDENTITY.config.replace(optimizer="adam", ema=0.5)
    found = run_to_end(tmp_path, dataclasses.replace(IDENTITY, config=config), small_params, None)
    other = dataclasses.replace(IDENTITY, config=config.replace(style_weight=3.0))
    np.testing.assert_array_equal(forked(tmp_path, other).state.image, found.image)


def test_a_fork_with_other_settings_starts_from_the_image(
    small_params: Params, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    found = run_to_end(first, IDENTITY, small_params, None)
    other = Identity(
        IDENTITY.config.replace(style_weight=3.0), IDENTITY.sha256, "c.png", ["s.png"], str(first)
    )
    start = forked(first, other)
    np.testing.assert_array_equal(start.state.image, found.image)
    result = run_to_end(second, other, small_params, start)
    assert [record.evaluation for record in result.history] == list(range(1, 7))
    with pytest.raises(FileError, match="not a run's folder"):
        forked(tmp_path / "nothing", other)


def test_metrics_are_the_records(small_params: Params, tmp_path: Path) -> None:
    result = run_to_end(tmp_path, IDENTITY, small_params, None)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    for row, record in zip(rows, result.history, strict=True):
        for name, value in record._asdict().items():
            assert row[name] == value
    assert rows[3]["evaluations_per_second"] == pytest.approx(
        1 / (rows[3]["seconds"] - rows[2]["seconds"])
    )


@pytest.mark.parametrize("local", [True, False])
def test_a_run_that_starts_over_has_each_evaluation_once(
    local: bool, small_params: Params, tmp_path: Path
) -> None:
    """As in a grid whose lanes were halved because memory had run out."""
    records = stylize(CONTENT, STYLE, SHALLOW.replace(evaluations=5), small_params).history
    with Run(tmp_path) as run:
        run.resume(lambda scale: state_like(CONTENT.shape, SHALLOW))
        if not local:
            run._metrics = None
        for record in (*records, *records[:1], *records[1:4]):
            run.record(record)
        if not local:
            run._write_metrics()
    assert [row["evaluation"] for row in history(tmp_path)] == [1, 2, 3, 4]
    assert [row["loss"] for row in history(tmp_path)] == [each.loss for each in records[:4]]


def test_a_bad_number_is_null_in_the_metrics(small_params: Params, tmp_path: Path) -> None:
    config = IDENTITY.config.replace(optimizer="adam", learning_rate=1e20)
    identity = Identity(config, IDENTITY.sha256, "c.png", ["s.png"])
    assert run_to_end(tmp_path, identity, small_params, None).reason == "not finite"
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["step_size"] is None
    assert rows[-1]["loss"] is None


def test_tensorboard_shows_the_records(small_params: Params, tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event

    from jaxstyle.reporting.tensorboard import TensorBoard

    board = TensorBoard(tmp_path / "board")

    def callback(record: Record) -> None:
        run.record(record)
        board.numbers(record)

    with Run(tmp_path / "run", snapshots=Schedule(every=3)) as run:
        run.on_image = board.picture
        run.identify(IDENTITY)
        run.resume(lambda scale: state_like(CONTENT.shape, IDENTITY.config))
        result = stylize(CONTENT, STYLE, IDENTITY.config, small_params, callback, keeper=run)
    board.close()
    shown: dict[tuple[str, int], float] = {}
    (file,) = (tmp_path / "board").iterdir()
    data = file.read_bytes()
    while data:  # length, its checksum, an event, its checksum
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]
        for value in event.summary.value:
            shown[value.tag, event.step] = value.simple_value
    for record in result.history:
        assert shown["loss", record.evaluation] == record.loss
        for name, value in record.terms.items():
            assert shown[f"terms/{name}", record.evaluation] == value
        assert shown["gradient_norm", record.evaluation] == record.gradient_norm
    assert {step for tag, step in shown if tag == "image"} == {3, 6}


def test_inputs_are_kept_to_look_at(tmp_path: Path) -> None:
    with Run(tmp_path) as run:
        run.show_inputs(CONTENT, [STYLE, picture(20, 20, 2)])
    names = sorted(path.name for path in (tmp_path / "inputs").iterdir())
    assert names == ["content.jpg", "style-1.jpg", "style-2.jpg"]
