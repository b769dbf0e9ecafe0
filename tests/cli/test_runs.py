"""Runs with a folder from the command line, on the real weights."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from etils import epath
from PIL import ExifTags, Image as Pil

from jaxstyle import cli, preset
from jaxstyle.imaging.images import glance
from jaxstyle.network.arrays import Params
from jaxstyle.storage.identity import Identity

# Direct, shallow and of Gram matrices, because that compiles in a fraction of the time.
QUICK = ("content.png", "style.png", "--size", "48", "--convolution=direct")
QUICK += ("--scales=1", "--style-statistics=gram", "--tv-weight=0.001")
QUICK += ("--content-layers=relu2_1", "--style-layers", "relu1_1", "relu2_1")

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="/proc, where nobody can write")

# The command line, which sends itself a signal once an evaluation is recorded. A child of a process
# under nohup ignores SIGHUP until that is reset.
SIGNALLED = """
import os, signal, sys
from jaxstyle.cli import main
from jaxstyle.storage.runs import Run

signum, evaluation = map(int, sys.argv[1:3])
signal.signal(signal.SIGHUP, signal.SIG_DFL)
record = Run.record

def signalled(self, each):
    record(self, each)
    if each.evaluation == evaluation:
        os.kill(os.getpid(), signum)

Run.record = signalled
main(sys.argv[3:])
"""


def stylize(*arguments: str) -> int:
    return cli.run(["stylize", *QUICK, *arguments])


def losses(run: str) -> list[float]:
    return [
        json.loads(line)["loss"] for line in Path(run, "metrics.jsonl").read_text().split("\n")[:-1]
    ]


def signalled(signum: int, evaluation: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", SIGNALLED, str(signum), str(evaluation)]
    return subprocess.run(
        [*words, "stylize", *QUICK, *arguments], capture_output=True, text=True, timeout=300
    )


def assert_whole(run: str, *flags: str) -> None:
    """Finish `run` and compare it with one that nothing has interrupted."""
    for workdir in (run, "WHOLE"):
        assert stylize(*flags, "--workdir", workdir, "--quiet") == 0
    assert losses(run) == losses("WHOLE")
    assert Path(run, "image.png").read_bytes() == Path("WHOLE/image.png").read_bytes()


def test_a_run_from_its_start_to_its_report(
    folder: Path, imagenet: Params, capsys: pytest.CaptureFixture
) -> None:
    flags = ("--workdir", "RUN", "--evaluations", "4", "--snapshots", "2")
    assert stylize(*flags, "-o", "out.jpg", "--tensorboard", "board") == 0
    assert "out.jpg: 48×36, 4 evaluations" in capsys.readouterr().out
    with Pil.open("RUN/image.png") as opened:
        metadata = json.loads(opened.info["jaxstyle"])
    result = json.loads(Path("RUN/result.json").read_text())
    assert result.items() >= metadata.items()
    assert min(losses("RUN")) == result["loss"]
    assert sorted(p.name for p in Path("RUN/snapshots").iterdir()) == ["000002.png", "000004.png"]
    assert list(Path("board").iterdir())
    # The same command has nothing to do, but for a copy that is not there.
    before = {p: p.stat().st_mtime_ns for p in Path("RUN").rglob("*.*") if p.name != ".lock"}
    assert stylize(*flags, "-o", "out.png") == 0
    told = capsys.readouterr().out
    assert "RUN: finished; its result is RUN/image.png" in told
    assert "; for more evaluations, name another --workdir, with --fork-from RUN\n" in told
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert Path("out.png").read_bytes() == Path("RUN/image.png").read_bytes()
    assert stylize(*flags, "-o", "copy.jpg") == 0
    with Pil.open("copy.jpg") as opened:
        assert json.loads(opened.getexif()[ExifTags.Base.ImageDescription]) == metadata
    # What is there may be another's, and bits that the image does not have cannot be made up.
    Path("out.png").write_bytes(b"mine")
    assert stylize(*flags, "-o", "out.png") == 0
    assert "out.png is left as it is" in capsys.readouterr().out
    assert Path("out.png").read_bytes() == b"mine"
    for words in (("-o", "deep.png", "--bits", "16"), ("-o", "deep.tif")):
        assert stylize(*flags, *words) == 2
        assert "RUN is finished, with 8 bits a channel" in capsys.readouterr().err
        assert not Path(words[1]).exists()
    # How it ended is told again.
    Path("RUN/result.json").write_text(json.dumps(result | {"reason": "not finite"}))
    assert stylize(*flags) == 1
    Path("RUN/result.json").write_text("{")
    assert stylize(*flags) == 2
    assert "result.json: damaged" in capsys.readouterr().err
    Path("RUN/result.json").write_text(json.dumps(result))
    # Another is refused, and a larger budget goes on from it.
    assert stylize("--workdir", "RUN", "--evaluations", "6", "--tv-weight", "0.5") == 2
    message = capsys.readouterr().err
    assert "evaluations was 4, now 6, tv_weight was 0.001, now 0.5" in message
    assert message.count("\n") == 1
    assert stylize("--workdir", "NEW", "--evaluations", "6", "--fork-from", "RUN") == 0
    assert losses("NEW")[:4] == losses("RUN")
    assert len(losses("NEW")) == 6
    assert capsys.readouterr().out.startswith("NEW: continues RUN from its evaluation 4\n")
    for budget in (3, 4):
        before = sorted(folder.rglob("*"))
        assert stylize("--workdir", "LESS", "--evaluations", str(budget), "--fork-from", "RUN") == 2
        assert (
            f"RUN has done 4 evaluations already; --evaluations {budget} adds"
            in capsys.readouterr().err
        )
        assert sorted(folder.rglob("*")) == before
    other = ("--workdir", "OTHER", "--tv-weight", "0.5")
    assert stylize(*other, "--evaluations", "1", "--fork-from", "RUN") == 0
    assert "OTHER: starts from the image of RUN, as settings differ: " in capsys.readouterr().out
    # Killed before its first checkpoint, a fork is made again.
    Path("LATE").mkdir()
    shutil.copy("NEW/config.toml", "LATE")
    assert stylize("--workdir", "LATE", "--evaluations", "6", "--fork-from", "RUN") == 0
    assert losses("LATE") == losses("NEW")
    for command in ("report RUN -o r.html", "plot RUN NEW -o p.pdf", "animate RUN -o a.gif"):
        assert cli.run(command.split()) == 0
        assert Path(command.split()[-1]).stat().st_size > 1000
    # What the folder says repeats the run.
    again = ["content.png", "style.png", "--config", "RUN/config.toml", "--workdir", "A"]
    assert cli.run(["stylize", *again]) == 0
    assert losses("A") == losses("RUN")


@pytest.mark.parametrize(
    ("signum", "word"),
    [
        (signal.SIGTERM, "terminated"),
        (signal.SIGHUP, "terminated"),
        (signal.SIGINT, "interrupted"),
    ],
)
def test_a_signal_saves_and_the_same_command_goes_on(
    folder: Path, imagenet: Params, signum: int, word: str
) -> None:
    flags = ("--evaluations", "9", "--scales", "2", "--scale-factor", "1.2", "-o", "out.png")
    process = signalled(signum, 5, *flags, "--workdir", "RUN", "--progress", "0")
    assert process.returncode == 128 + signum
    assert f"{word} at evaluation " in process.stderr
    assert "; run the same command again to continue\n" in process.stderr
    assert process.stderr.count("\n") == 1
    assert not Path("out.png").exists()
    assert 5 <= len(losses("RUN")) <= 6  # one more was under way
    assert_whole("RUN", *flags)


def test_kills_on_the_real_weights_change_nothing(folder: Path, imagenet: Params) -> None:
    flags = ("--evaluations", "14", "--checkpoints", "2")
    for evaluation in (3, 11):
        process = signalled(signal.SIGKILL, evaluation, *flags, "--workdir", "RUN")
        assert process.returncode == -signal.SIGKILL
    assert_whole("RUN", *flags)


def test_a_second_process_is_refused(
    folder: Path, imagenet: Params, capsys: pytest.CaptureFixture
) -> None:
    code = "from jaxstyle.storage.runs import Run\nwith Run('RUN'): print(flush=True), input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
        process.stdout.readline()
        assert stylize("--workdir", "RUN", "--evaluations", "2") == 2
        process.communicate(b"\n")
    assert process.returncode == 0
    assert "RUN: another process is working on this run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-o", "o.png", "--snapshots", "5"), "--snapshots needs --workdir"),
        (("-o", "o.png", "--checkpoints", "5"), "--checkpoints needs --workdir"),
        (("-o", "o.png", "--checkpoint-seconds", "9"), "--checkpoint-seconds needs --workdir"),
        (("-o", "o.png", "--fork-from", "RUN"), "--fork-from needs --workdir"),
        (("-o", "o.png", "--tensorboard", "b"), "--tensorboard needs --workdir"),
        (("--workdir", "RUN", "--snapshots", "often"), "--snapshots must be N or N,N"),
        (("--workdir", "RUN", "--snapshots", "0"), "--snapshots must be N or N,N"),
        (("--workdir", "RUN", "--checkpoints", "0"), "--checkpoints must be at least 1"),
        (("--workdir", "RUN", "--checkpoint-seconds", "0"), "must be greater than 0, not 0"),
        (("--workdir", "RUN", "--fork-from", "none"), "none: not a run's folder"),
        (("--workdir", "content.png"), "content.png is a file; name a folder"),
        (("--workdir", "s3://a/b"), "neither a local file nor gs://"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(
    folder: Path,
    imagenet: Params,
    capsys: pytest.CaptureFixture,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert stylize(*arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not Path("RUN/config.toml").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--workdir", "RUN", "--snapshots", "often"),
        ("--workdir", "RUN", "--checkpoints", "0"),
        ("--workdir", "RUN", "--checkpoint-seconds", "0"),
        ("-o", "none/out.png"),
        pytest.param(("-o", "/proc/out.png"), marks=LINUX),
        pytest.param(("--workdir", "/proc/RUN"), marks=LINUX),
        ("--workdir", "content.png"),
        ("--workdir", "content.png/RUN"),
        ("--workdir", "RUN", "--tensorboard", "content.png"),
        ("--workdir", "RUN", "--fork-from", "none"),
    ],
)
def test_a_mistake_in_an_option_is_found_before_jax_starts(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setattr("jaxstyle.cli.stylize.start_jax", None)
    before = sorted(folder.rglob("*"))
    assert stylize(*arguments) == 2
    assert sorted(folder.rglob("*")) == before


def begun(run: str, **settings: object) -> None:
    """Make the folder of a run as one that was killed after its first evaluation leaves it."""
    names = {"content": "content.png", "style": "style.png"}
    digests = {role: [glance(name).sha256] for role, name in names.items()}
    config = preset("default").replace(size=48, **settings)
    Path(run).mkdir()
    identity = Identity(config, digests | {"weights": ["any"]}, "content.png", ["style.png"])
    Path(run, "config.toml").write_text(identity.to_toml())
    Path(run, "metrics.jsonl").write_text('{"evaluation": 1}\n')


@pytest.mark.parametrize("name", ["a.png", "image.png", "checkpoint/model.bin", "notes/x.md"])
def test_a_folder_of_something_else_is_left_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, name: str
) -> None:
    monkeypatch.setattr("jaxstyle.cli.stylize.start_jax", None)
    Path("photos", name).parent.mkdir(parents=True)
    Path("photos", name).touch()
    before = sorted(folder.rglob("*"))
    assert stylize("--workdir", "photos") == 2
    expected = (
        "jaxstyle: photos contains files that do not belong to a run; name a new or empty folder\n"
    )
    assert capsys.readouterr().err == expected
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("name", [".lock", "checkpoint/.tmp", "slurm-17.out"])
def test_what_a_kill_or_a_log_left_is_no_obstacle(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    Path("RUN", name).parent.mkdir(parents=True)
    Path("RUN", name).touch()
    monkeypatch.setattr("jaxstyle.cli.stylize.start_jax", lambda **_: sys.exit(99))
    with pytest.raises(SystemExit, match="99"):
        stylize("--workdir", "RUN")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("style.png --workdir=RUN --seed=2", "RUN is another run: seed was 1, now 2; name another"),
        ("content.png --workdir=RUN --seed=1", "RUN is another run: style was another file; name"),
        ("style.png --workdir=NEW --fork-from=RUN", "RUN: has no checkpoint yet"),
        ("style.png --workdir=RUN/ --fork-from=RUN", "RUN/ cannot be forked from itself; name"),
        ("style.png --workdir=RUN --seed=1 --tensorboard=board", "--tensorboard needs pip install"),
    ],
)
def test_what_keeps_a_run_from_its_folder_is_found_before_jax_starts(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    words: str,
    message: str,
) -> None:
    begun("RUN", seed=1)
    before = sorted(folder.rglob("*"))
    monkeypatch.setattr("jaxstyle.cli.stylize.start_jax", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert cli.run(["stylize", "content.png", *words.split(), "--size=48"]) == 2
    assert message in capsys.readouterr().err
    assert sorted(folder.rglob("*")) == before


def test_a_resumed_run_says_from_where(
    folder: Path, imagenet: Params, capsys: pytest.CaptureFixture
) -> None:
    flags = ("--evaluations", "2", "--workdir", "RUN")
    assert stylize(*flags) == 0
    assert "continues" not in capsys.readouterr().out
    Path("RUN/result.json").unlink()
    assert stylize(*flags) == 0
    assert capsys.readouterr().out.startswith("RUN: continues after 2 evaluations\n")


def test_a_damaged_run_goes_on_as_its_error_says(
    folder: Path, imagenet: Params, capsys: pytest.CaptureFixture
) -> None:
    flags = ("--evaluations", "2", "--workdir", "RUN", "--quiet")
    assert stylize(*flags) == 0
    expected = losses("RUN")
    Path("RUN/config.toml").write_text("= damaged")
    assert stylize(*flags) == 2
    assert (
        "delete it and rerun the run's original command, which writes it again"
        in capsys.readouterr().err
    )
    Path("RUN/config.toml").unlink()
    assert stylize(*flags) == 0
    Path("RUN/result.json").unlink()
    for path in Path("RUN/checkpoint").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    assert stylize("--workdir=NEW", "--fork-from=RUN", *flags[:2]) == 2
    assert "name another run to start from" in capsys.readouterr().err
    assert stylize(*flags) == 2
    assert "; delete RUN/checkpoint to start over\n" in capsys.readouterr().err
    shutil.rmtree("RUN/checkpoint")
    assert stylize(*flags) == 0
    assert losses("RUN") == expected


@pytest.mark.parametrize(
    "command",
    [
        "report gs://none -o a.html",
        "plot gs://none -o a.png",
        "animate gs://none -o a.gif",
        "weights fetch -o gs://none/a.safetensors",
        "stylize content.png style.png -o a.png --config gs://none/config.toml",
    ],
)
def test_a_bucket_without_its_package_is_told(
    folder: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    exists = epath.Path(".").__class__.exists

    def missing(path: epath.Path) -> bool:
        if str(path).startswith("gs:"):
            raise ImportError("gcsfs")
        return exists(path)

    monkeypatch.setattr("etils.epath.gpath._GPath.exists", missing)
    assert cli.run(command.split()) == 2
    printed = capsys.readouterr()
    assert "pip install 'jaxstyle[gcs]'" in printed.err
    assert printed.err.count("\n") == 1
    assert not Path("gs:").exists()


@pytest.mark.parametrize(
    "command", ["report none -o a.html", "plot none -o a.png", "animate none -o a.gif"]
)
def test_what_is_no_run_is_told(folder: Path, capsys: pytest.CaptureFixture, command: str) -> None:
    assert cli.run(command.split()) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("jaxstyle: none: no")
    assert printed.err.count("\n") == 1


def test_a_run_whose_terminal_hangs_up_is_saved(folder: Path, imagenet: Params) -> None:
    words = [sys.executable, "-m", "jaxstyle", "stylize", *QUICK, "--evaluations", "9999"]
    process, terminal = pty.fork()
    if process == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored under nohup, and inherited
        os.execv(sys.executable, [*words, "--workdir", "RUN"])
    shown = b""
    while not re.search(rb"\r\S*[1-9]\d*/9999", shown):
        shown += os.read(terminal, 4096)
    os.close(terminal)
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP
    saved = max(int(path.name) for path in Path("RUN/checkpoint").iterdir())
    assert 0 <= saved - len(losses("RUN")) <= 1  # one more was under way
