"""What is run on the workers of a TPU VM, seen by a gcloud that only writes it down."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "tpu_vm.sh"
TOOLS = ["bash", "cat", "cp", "cmp", "dirname", "git", "gzip", "mkdir", "mktemp", "rm", "tar"]
NASTY = ["a b", "$HOME", "it's", '"', "", "*", "~", "back\\slash", "two\nlines", "a;b&c", "ü"]
WHERE = ["--zone", "us-central2-b"]

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git makes the archive")

GCLOUD = f"""#!{sys.executable}
import json, os, shutil, sys
with open(os.environ["CALLS"], "a") as calls:
    print(json.dumps(sys.argv[1:]), file=calls)
if sys.argv[4] == "scp":
    shutil.copy(sys.argv[5], os.environ["HOME"])
sys.exit(int(os.environ["GCLOUD_EXIT"]))
"""

JAXSTYLE = f"""#!{sys.executable}
import json, os, sys
print(json.dumps([os.environ.get("JAX_PLATFORMS"), *sys.argv[1:]]))
"""

# As python it makes itself the virtual environment, as pip and jaxstyle it writes down and obeys.
PYTHON = """#!/usr/bin/env bash
echo "${0##*/} $*" >> "$CALLS"
if [ "$1 $2" = "-m venv" ]; then
  mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && cp "$0" "$3/bin/jaxstyle"
fi
case "$*" in *"pip install"*) exit "$PIP_EXIT" ;; esac
"""


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


class Machine:
    """A home folder and a PATH where there is no gcloud but the one put there."""

    def __init__(self, folder: Path) -> None:
        self.home, self.temporary, self.bin = folder / "home", folder / "tmp", folder / "bin"
        self.log = folder / "calls"
        for path in (self.home, self.temporary, self.bin):
            path.mkdir()
        for tool in TOOLS:
            if found := shutil.which(tool):
                (self.bin / tool).symlink_to(found)
        self.env = {
            "PATH": str(self.bin),
            "HOME": str(self.home),
            "TMPDIR": str(self.temporary),
            "CALLS": str(self.log),
            "LC_ALL": "C.UTF-8",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GCLOUD_EXIT": "0",
            "PIP_EXIT": "0",
        }

    def run(self, *command: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.home, env=self.env | env, capture_output=True, text=True
        )

    def add_gcloud(self) -> None:
        executable(self.bin / "gcloud", GCLOUD)

    def calls(self) -> list[list[str]]:
        if not self.log.exists():
            return []
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def on_worker(self, command: str, **env: str) -> subprocess.CompletedProcess[str]:
        return self.run("bash", "-c", command, **env)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def checkout(machine: Machine, tmp_path: Path) -> Path:
    """A committed checkout whose path has to be quoted, with one file git does not know."""
    root = tmp_path / "a checkout"
    scripts = ("scripts/tpu_vm.sh", "scripts/environment.sh")
    for name in ("pyproject.toml", "jaxstyle/__init__.py", *scripts):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        done = machine.run(*git, *arguments)
        assert done.returncode == 0, done.stderr
    (root / "secret").write_text("not tracked")
    return root


def option(call: list[str], name: str) -> str:
    (value,) = [word.split("=", 1)[1] for word in call if word.startswith(f"--{name}=")]
    return value


def test_dry_run_of_grid_shows_one_line(machine: Machine) -> None:
    done = machine.run(
        SCRIPT, "grid", "tpu", *WHERE, "--project", "p", "--dry-run", "--", "a b", "$HOME", "it's"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "gcloud compute tpus tpu-vm ssh tpu --zone=us-central2-b --project=p --worker=all "
        r"--command=cd\ jaxstyle-tpu\ \&\&\ .venv/bin/jaxstyle\ grid\ "
        r"a\\\ b\ \\\$HOME\ it\\\'s\ --distributed" + "\n"
    )


def test_dry_run_of_collect_shows_one_line(machine: Machine) -> None:
    done = machine.run(SCRIPT, "collect", "tpu", "--dry-run", *WHERE, "--", "-o", "gs://b/it's")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "gcloud compute tpus tpu-vm ssh tpu --zone=us-central2-b --worker=0 "
        r"--command=cd\ jaxstyle-tpu\ \&\&\ JAX_PLATFORMS=cpu\ .venv/bin/jaxstyle\ grid\ "
        r"-o\ gs://b/it\\\'s\ --collect" + "\n"
    )


@needs_git
def test_dry_run_of_install_shows_three_lines(machine: Machine, checkout: Path) -> None:
    done = machine.run(
        checkout / "scripts/tpu_vm.sh", "install", "--zone=z", "--project=p", "tpu", "--dry-run"
    )
    assert (done.returncode, done.stderr) == (0, "")
    archive = f"{machine.temporary}/jaxstyle-tpu.tar.gz"
    root = str(checkout).replace(" ", r"\ ")
    where = "--zone=z --project=p --worker=all"
    assert done.stdout.splitlines() == [
        f"git -C {root} archive --prefix=jaxstyle-tpu/ --output={archive} HEAD",
        f"gcloud compute tpus tpu-vm scp {archive} tpu: {where}",
        f"gcloud compute tpus tpu-vm ssh tpu {where} "
        r"--command=set\ -e\;\ tar\ -xzf\ jaxstyle-tpu.tar.gz\;\ cd\ jaxstyle-tpu\;\ "
        r"extra=\'\[tpu\,gcs\]\'\;\ .\ scripts/environment.sh\;\ "
        r".venv/bin/jaxstyle\ weights\ fetch",
    ]
    assert not list(machine.temporary.iterdir())


@pytest.mark.parametrize(
    ("action", "worker", "last", "platform"),
    [("grid", "all", "--distributed", None), ("collect", "0", "--collect", "cpu")],
)
def test_arguments_arrive_as_they_were_given(
    machine: Machine, action: str, worker: str, last: str, platform: str | None
) -> None:
    machine.add_gcloud()
    done = machine.run(SCRIPT, action, "tpu", *WHERE, "--project=p", "--", *NASTY, "--", "--zone")
    assert done.returncode == 0, done.stderr
    (call,) = machine.calls()
    assert call[:-1] == [
        *("compute", "tpus", "tpu-vm", "ssh", "tpu"),
        *("--zone=us-central2-b", "--project=p", f"--worker={worker}"),
    ]
    executable(machine.home / "jaxstyle-tpu/.venv/bin/jaxstyle", JAXSTYLE)
    # gcloud hands the words to ssh, which joins them again.
    arrived = machine.on_worker(" ".join(option(call, "command").split(" ")))
    assert json.loads(arrived.stdout) == [platform, "grid", *NASTY, "--", "--zone", last]


@pytest.mark.parametrize("action", ["grid", "collect"])
def test_what_a_dry_run_prints_can_be_pasted(machine: Machine, action: str) -> None:
    machine.add_gcloud()
    arguments = [action, "a name", "--zone=a zone", "--project", "it's"]
    shown = machine.run(SCRIPT, *arguments, "--dry-run", "--", *NASTY)
    assert machine.calls() == []
    assert shown.stdout.count("\n") == 1
    machine.run("bash", "-c", shown.stdout)
    echoed = machine.run(SCRIPT, *arguments, "--", *NASTY)
    pasted, real = machine.calls()
    assert pasted == real
    assert real[4:7] == ["a name", "--zone=a zone", "--project=it's"]
    assert (echoed.stdout, echoed.stderr) == ("", shown.stdout)


@needs_git
@pytest.mark.parametrize("pip_exit", [0, 1])
def test_install_sets_up_a_worker(machine: Machine, checkout: Path, pip_exit: int) -> None:
    machine.add_gcloud()
    done = machine.run(checkout / "scripts/tpu_vm.sh", "install", "tpu", *WHERE)
    assert done.returncode == 0, done.stderr
    copy, setup = machine.calls()
    archive, *rest = copy[4:]
    assert copy[:4] == ["compute", "tpus", "tpu-vm", "scp"]
    assert rest == ["tpu:", "--zone=us-central2-b", "--worker=all"]
    assert setup[:-1] == [*copy[:3], "ssh", "tpu", "--zone=us-central2-b", "--worker=all"]
    assert [shlex.split(line)[0] for line in done.stderr.splitlines()] == ["git", *["gcloud"] * 2]
    assert not Path(archive).exists()
    assert not list(machine.temporary.iterdir())

    machine.log.unlink()
    executable(machine.bin / "python3.13", PYTHON)
    worker = machine.on_worker(option(setup, "command"), PIP_EXIT=str(pip_exit))
    there = machine.home / "jaxstyle-tpu"
    assert (there / "scripts/tpu_vm.sh").read_bytes() == SCRIPT.read_bytes()
    assert os.access(there / "scripts/tpu_vm.sh", os.X_OK)
    assert not (there / "secret").exists()
    words = [line.split() for line in machine.log.read_text().splitlines() if " -c " not in line]
    assert words[0] == ["python3.13", "-m", "venv", f"{there}/.venv"]
    assert words[1][:4] == ["python", "-m", "pip", "install"]
    assert words[1][-1] == f"{there}[tpu,gcs]"
    # A worker where pip failed must say so, and must not pass for installed.
    assert (worker.returncode == 0) == (pip_exit == 0)
    assert words[2:] == ([] if pip_exit else [["jaxstyle", "weights", "fetch"]])


@needs_git
def test_install_says_what_it_leaves_behind(machine: Machine, checkout: Path) -> None:
    (checkout / "pyproject.toml").write_text("changed")
    done = machine.run(checkout / "scripts/tpu_vm.sh", "install", "tpu", *WHERE, "--dry-run")
    assert (done.returncode, done.stderr) == (0, "uncommitted changes are not copied\n")


@needs_git
def test_install_stops_where_gcloud_fails(machine: Machine, checkout: Path) -> None:
    machine.add_gcloud()
    done = machine.run(checkout / "scripts/tpu_vm.sh", "install", "tpu", *WHERE, GCLOUD_EXIT="7")
    assert done.returncode == 7
    assert [call[3] for call in machine.calls()] == ["scp"]
    assert not list(machine.temporary.iterdir())


@needs_git
@pytest.mark.parametrize("inside_another", [False, True])
def test_install_needs_a_git_checkout(
    machine: Machine, checkout: Path, inside_another: bool
) -> None:
    copy = checkout / "unpacked" if inside_another else machine.home / "unpacked"
    shutil.copytree(checkout / "scripts", copy / "scripts")
    machine.add_gcloud()
    done = machine.run(copy / "scripts/tpu_vm.sh", "install", "tpu", *WHERE)
    assert (done.returncode, done.stdout, machine.calls()) == (2, "", [])
    assert done.stderr.count("\n") == 1
    assert "not a git checkout" in done.stderr


@pytest.mark.parametrize("action", ["grid", "collect"])
def test_the_exit_code_is_gclouds(machine: Machine, action: str) -> None:
    machine.add_gcloud()
    assert machine.run(SCRIPT, action, "tpu", *WHERE, "--", "x", GCLOUD_EXIT="7").returncode == 7
    assert len(machine.calls()) == 1


def test_a_missing_gcloud_is_told(machine: Machine) -> None:
    done = machine.run(SCRIPT, "grid", "tpu", *WHERE, "--", "x")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "gcloud is not installed" in done.stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "say install, grid or collect"),
        ("delete tpu --zone z", "unknown sub-command delete"),
        ("grid --zone z -- x", "grid needs the NAME"),
        ("install --zone z", "install needs the NAME"),
        ("grid tpu -- x", "grid needs --zone"),
        ("grid tpu --zone -- x", "--zone needs a value"),
        ("grid tpu --zone= -- x", "--zone needs a value"),
        ("grid tpu --project --zone z -- x", "--project needs a value"),
        ("collect tpu --zone", "--zone needs a value"),
        ("grid tpu --zone z", "grid needs the arguments of jaxstyle grid after --"),
        ("collect tpu --zone z --", "collect needs the arguments of jaxstyle grid after --"),
        ("install tpu --zone z -- x", "install takes nothing after --"),
        ("install tpu --zone z --", "install takes nothing after --"),
        ("grid tpu --zone z --size 64 -- x", "unknown option --size"),
        ("grid tpu x --zone z", "unexpected argument x"),
    ],
)
@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
def test_mistakes_are_told_in_one_line(
    machine: Machine, line: str, message: str, dry_run: list[str]
) -> None:
    machine.add_gcloud()
    done = machine.run(SCRIPT, *dry_run, *line.split())
    assert (done.returncode, done.stdout, machine.calls()) == (2, "", [])
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("tpu_vm.sh: ")
    assert message in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["grid", "tpu", "--help"]])
def test_help_shows_usage_and_an_example_that_works(machine: Machine, arguments: list[str]) -> None:
    done = machine.run(SCRIPT, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: scripts/tpu_vm.sh install NAME --zone ZONE")
    assert "folder that all workers share" in done.stdout
    example = shlex.split(done.stdout.split("example:")[1].split("scripts/tpu_vm.sh")[2])
    shown = machine.run(SCRIPT, "--dry-run", *example)
    assert shown.returncode == 0, shown.stderr
    assert "--distributed" in shown.stdout
