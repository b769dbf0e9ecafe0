"""The command line as a user meets it, on the real weights and small pictures."""

import contextlib
import errno
import hashlib
import importlib.metadata
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tomli_w
from PIL import Image as Pil

from jaxstyle import cli, load_image, preset, save_image
from jaxstyle.cli.commands import CLI_SIZE
from jaxstyle.config import Config, parse_toml
from jaxstyle.config.presets import PRESETS
from jaxstyle.engine.layout import Program
from jaxstyle.network import conversion, weights
from jaxstyle.network.arrays import Params
from jaxstyle.network.vgg import VGG16, VGG19
from tests.conftest import SMALL_CHANNELS, pattern
from tests.network.test_weights import random_tensors, write_keras


def stylize(*arguments: str) -> int:
    return cli.run(["stylize", *arguments])


PAIR = ("content.png", "style.png")
# Direct, shallow and of Gram matrices, because that compiles in a fraction of the time.
PLAIN = ("--convolution=direct", "--scales=1", "--style-statistics=gram")
PLAIN += ("--content-layers=relu2_1", "--style-layers", "relu1_1", "relu2_1")
QUICK = (*PAIR, "--size", "48", "--evaluations", "3", *PLAIN)


def test_the_installed_command_with_its_defaults(folder: Path, imagenet: Params) -> None:
    command = [str(Path(sys.executable).with_name("jaxstyle")), "stylize", *PAIR, "-o", "out.png"]
    command += ["--size", "48", "--evaluations", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "jaxstyle: compiling\n")
    assert load_image("out.png").shape == (36, 48, 3)
    assert "out.png: 48×36, 3 evaluations" in done.stdout
    for term in ("content", "style/relu1_1", "style/relu5_1", "tv", "loss"):
        assert f"  {term} " in done.stdout


def test_metadata_says_how_to_repeat_the_run(folder: Path, imagenet: Params) -> None:
    assert stylize(*QUICK, "-o", "a.png", "--init", "noise", "--seed", "5", "--quiet") == 0
    with Pil.open("a.png") as opened:
        record = json.loads(opened.info["jaxstyle"])
    for name, key in (
        ("content.png", record["sha256"]["content"][0]),
        ("style.png", record["sha256"]["style"][0]),
    ):
        assert key == hashlib.sha256(Path(name).read_bytes()).hexdigest()
    assert record["config"]["seed"] == 5
    assert record["evaluations"] == 3
    assert set(record["versions"]) >= {"jaxstyle", "jax", "flax", "optax", "numpy"}
    assert len(record["sha256"]["weights"][0]) == 64
    # Repeating it from its own record gives the same file, also over another preset.
    Path("again.toml").write_text(tomli_w.dumps(record["config"]))
    for source in (("again.toml",), ("a.png", "--preset", "crowson")):
        assert stylize(*PAIR, "--config", *source, "-o", "b.png", "--quiet") == 0
        assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


def test_quiet_prints_nothing(
    folder: Path, imagenet: Params, capsys: pytest.CaptureFixture
) -> None:
    assert stylize(*QUICK, "-o", "out.jpg", "--quiet") == 0
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "")


def test_a_log_has_lines_of_progress(
    folder: Path, imagenet: Params, capsys: pytest.CaptureFixture
) -> None:
    assert stylize(*QUICK, "-o", "out.jpg", "--progress", "1e-9") == 0
    first, *lines = capsys.readouterr().err.splitlines()
    assert (first, len(lines)) == ("jaxstyle: compiling", 2)
    assert re.fullmatch(r"jaxstyle: 3/3 evaluations, loss [\d.e+]+, 0:00:00 left", lines[-1])


def test_alpha_and_sixteen_bits_reach_the_file(folder: Path, imagenet: Params) -> None:
    rgba = np.dstack([pattern(48, 64, 0), np.full((48, 64), 255, np.uint8)])
    rgba[:20, :, 3] = 0
    Pil.fromarray(rgba).save("content.png")
    assert stylize(*QUICK, "--size", "original", "-o", "o.png", "--quiet") == 0
    with Pil.open("o.png") as opened:
        np.testing.assert_array_equal(np.asarray(opened.getchannel("A")), rgba[..., 3])
    assert stylize(*QUICK, "-o", "deep.png", "--bits", "16", "--quiet") == 0
    assert Path("deep.png").read_bytes()[24] == 16  # the header's bit depth


def test_flags_go_over_the_file_over_the_preset(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    Path("c.toml").write_text("evaluations = 77\nseed = 4\n")
    assert (
        stylize(*PAIR, "--preset", "seed", "--config", "c.toml", "--seed", "9", "--print-config")
        == 0
    )
    shown = Config().replace(**parse_toml(capsys.readouterr().out))
    assert shown == preset("seed").replace(evaluations=77, seed=9, size=CLI_SIZE)


def test_shown_settings_are_the_same_over_every_preset(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    assert stylize(*PAIR, "--optimizer", "adam", "--scales", "3", "--print-config") == 0
    shown = capsys.readouterr().out
    Path("shown.toml").write_text(shown)
    for name in PRESETS:
        flags = ("--preset", name, "--config", "shown.toml", "--print-config")
        assert stylize(*PAIR, *flags) == 0
        assert capsys.readouterr().out == shown


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "the picture holds no settings; only PNGs that stylize made do"),
        ("{", "the picture holds no settings"),
        ("[]", "the picture holds no settings"),
        ('{"config": {"no_such": 3}}', "unknown setting 'no_such'"),
    ],
)
def test_a_picture_without_settings_is_no_configuration(
    metadata: str | None, message: str, folder: Path, capsys: pytest.CaptureFixture
) -> None:
    save_image("made.png", np.zeros((8, 8, 3), np.float32), metadata=metadata)
    assert stylize(*PAIR, "-o", "o.png", "--config", "made.png") == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"jaxstyle: made.png: {message}")
    assert printed.count("\n") == 1


def test_a_file_is_judged_before_the_flags(folder: Path, capsys: pytest.CaptureFixture) -> None:
    Path("rate.toml").write_text("learning_rate = 0.05")
    flags = ("--config", "rate.toml", "--optimizer", "adam", "--print-config")
    assert stylize(*PAIR, *flags) == 2
    refused = "rate.toml: learning_rate has no meaning with optimizer lbfgs"
    assert refused in capsys.readouterr().err
    assert stylize(*PAIR, "--preset", "crowson", *flags) == 0
    shown = parse_toml(capsys.readouterr().out)
    assert (shown["learning_rate"], shown["optimizer"]) == (0.05, "adam")
    assert stylize(*PAIR, "--preset", "gatys-code", "--scales", "1", "--print-config") == 0


def test_the_best_image_before_a_divergence_is_kept(
    folder: Path, imagenet: Params, capsys: pytest.CaptureFixture
) -> None:
    flags = ("--optimizer", "adam", "--learning-rate", "1e20")
    assert stylize(*QUICK, "--evaluations", "9", *flags, "-o", "out.png") == 1
    assert "the best image before that is in out.png" in capsys.readouterr().err
    assert Path("out.png").is_file()


def test_nothing_is_written_where_nothing_was_finite(
    folder: Path, imagenet: Params, capsys: pytest.CaptureFixture
) -> None:
    assert stylize(*QUICK, "-o", "out.png", "--style-weight", "3e38", "--init", "noise") == 1
    assert "never finite" in capsys.readouterr().err
    assert not Path("out.png").exists()


def test_a_history_that_cannot_fit_is_told_before_anything_is_computed(
    folder: Path, imagenet: Params, capsys: pytest.CaptureFixture
) -> None:
    assert stylize(*QUICK, "-o", "out.png", "--quiet", "--history-size", "100000000") == 2
    printed = capsys.readouterr().err
    assert "no size would fit; or take a smaller history_size" in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize(("owner", "name"), [(Program, "step"), (weights, "to_params")])
def test_running_out_of_memory_is_one_line(
    owner: Any,
    name: str,
    folder: Path,
    imagenet: Params,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.")

    monkeypatch.setattr(owner, name, fail)
    assert stylize(*QUICK, "-o", "out.png", "--quiet") == 1
    assert capsys.readouterr().err == (
        "jaxstyle: out of memory; try a smaller --size or --history-size\n"
    )


def test_an_error_of_the_file_system_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def stale(*_: object) -> bool:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), "out.png")

    monkeypatch.setattr(Path, "samefile", stale)
    Path("out.png").touch()
    assert stylize(*QUICK, "-o", "out.png") == 2
    assert capsys.readouterr().err == "jaxstyle: out.png: Stale file handle\n"


def test_a_reader_that_has_gone_is_no_failure(folder: Path, imagenet: Params) -> None:
    command = [sys.executable, "-m", "jaxstyle", "stylize", *QUICK, "-o", "out.png"]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, timeout=120, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"jaxstyle: compiling\n")
    assert Path("out.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "code"), [("stylize --help", 0), ("--help", 0), ("stylize --no-such-flag", 2)]
)
def test_help_that_nobody_reads_is_no_failure(arguments: str, code: int) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "jaxstyle", *arguments.split()]
    errors = subprocess.PIPE if code == 0 else writing
    done = subprocess.run(command, stdout=writing, stderr=errors, timeout=60, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr or b"") == (code, b"")


def test_an_interrupt_is_told_by_the_exit_code_even_if_nobody_reads() -> None:
    code = """
from jaxstyle.cli import app, terminal

def run(argv):
    terminal.say("done")
    terminal.complain("interrupted")
    return 130

app.run = run
app.main([])
"""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, stdout=writing, stderr=writing, timeout=60, check=False)
    os.close(writing)
    assert done.returncode == 130


@pytest.mark.slow
@pytest.mark.parametrize("home", ["cache", "content.png"])
def test_compiled_programs_are_kept_where_they_can_be(
    home: str, folder: Path, imagenet: Params
) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    command = [sys.executable, "-m", "jaxstyle", "stylize", *QUICK, "--quiet", "-o", "out.png"]
    environment["XDG_CACHE_HOME"] = str(Path(home).absolute())
    done = subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    kept = list(Path(home, "jaxstyle", "xla").glob("*-cache"))
    assert bool(kept) == (home == "cache")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_shown(name: str, folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert stylize(*PAIR, f"--preset={name}", "--print-config") == 0
    assert tomllib.loads(capsys.readouterr().out)["size"] == CLI_SIZE


def test_a_folder_is_the_styles_in_it(folder: Path, imagenet: Params) -> None:
    Path("styles").mkdir()
    for name, seed in (("b.png", 1), ("a.png", 2)):
        Pil.fromarray(pattern(40, 36, seed)).save(f"styles/{name}")
    options = (*QUICK[2:], "--style-weights", "1", "3", "--quiet")
    assert stylize("content.png", "styles", "-o", "folder-as.png", *options) == 0
    assert stylize("content.png", "styles/a.png", "styles/b.png", "-o", "files.png", *options) == 0
    assert Path("folder-as.png").read_bytes() == Path("files.png").read_bytes()
    assert stylize("content.png", "styles/b.png", "styles/a.png", "-o", "other.png", *options) == 0
    assert Path("folder-as.png").read_bytes() != Path("other.png").read_bytes()


def make_bad_files() -> None:
    Path("empty.png").write_bytes(b"")
    Path("text.png").write_text("this is no picture")
    Path("cut.png").write_bytes(Path("content.png").read_bytes()[:300])
    Pil.open("content.png").save("content.tif", compression="tiff_lzw")
    Path("damaged.tif").write_bytes(Path("content.tif").read_bytes().replace(b"\x80", b"\xff"))
    Path("bad.toml").write_text("evaluations = = 3")
    Path("unknown.toml").write_text("evaluation = 3")
    Path("weights.h5").write_bytes(b"nothing of the kind")
    Pil.fromarray(pattern(5, 64, 0)).save("thin.png")
    Path("rate.toml").write_text("learning_rate = 0.05")
    Path("folder.png").mkdir()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*PAIR,), "name the file to write"),
        (("missing.png", "style.png", "-o", "o.png"), "missing.png: no such file"),
        (("content.png", "missing.png", "-o", "o.png"), "missing.png: no such file"),
        (("empty.png", "style.png", "-o", "o.png"), "empty.png: the file is empty"),
        (("text.png", "style.png", "-o", "o.png"), "text.png: not an image"),
        (("cut.png", "style.png", "-o", "o.png"), "cut.png: damaged or truncated"),
        (("damaged.tif", "style.png", "-o", "o.png"), "damaged.tif: damaged or truncated"),
        (
            ("thin.png", "style.png", "-o", "o.png", "--size=original"),
            "content of 64×5 pixels is too small",
        ),
        ((*PAIR, "-o", "o.png", "--size=12"), "relu5_1 needs at least 16×16"),
        ((*PAIR, "-o", "o.bmp"), "must end in .png, .tif, .tiff, .jpg, .jpeg or .webp"),
        ((*PAIR, "-o", "nowhere/o.png"), "nowhere does not exist"),
        ((*PAIR, "-o", "folder.png"), "is a folder"),
        ((*PAIR, "-o", "o.png", "--config", "bad.toml"), "bad.toml: not a TOML document"),
        ((*PAIR, "-o", "o.png", "--config", "unknown.toml"), "did you mean evaluations"),
        ((*PAIR, "-o", "o.png", "--config", "none.toml"), "none.toml: no such file"),
        ((*PAIR, "-o", "o.png", "--config", "none.png"), "none.png: no such file"),
        ((*PAIR, "-o", "o.png", "--config", "text.png"), "text.png: not an image"),
        ((*PAIR, "-o", "o.png", "--preset", "sede"), "unknown preset 'sede'"),
        ((*PAIR, "-o", "o.png", "--style-layers", "relu4-2"), "unknown layer 'relu4-2'"),
        ((*PAIR, "-o", "o.png", "--weights", "none.safetensors"), "none.safetensors: no such file"),
        ((*PAIR, "-o", "o.png", "--weights", "weights.h5"), "damaged or truncated .h5"),
        ((*PAIR, "-o", "o.png", "--init", "none.png"), "none.png: no such file"),
        ((*PAIR, "-o", "o.jpg", "--bits", "16"), "only .png and .tif"),
        ((*PAIR, "-o", "content.png"), "content.png is also an input"),
        ((*PAIR, "-o", "x/../content.png"), "content.png is also an input"),
        ((*PAIR, "-o", "o.png", "--init", "o.png"), "o.png: no such file"),
        ((*PAIR, "-o", "https://a.b/o.png"), "neither a local file nor gs://"),
        ((*PAIR, "-o", "o.png", "--size", "1000000"), "megapixels are refused"),
        ((*PAIR, "-o", "o.png", "--config", "rate.toml"), "learning_rate has no meaning"),
        ((*PAIR, "-o", "o.png", "--style-weights", "1", "2"), "2 style_weights for 1 style;"),
        ((*PAIR, "-o", "o.png", "--style-layers", "relu1_1=x"), "relu1_1 must be a number"),
        (("content.png", "folder.png", "-o", "o.png"), "folder.png: no pictures in this folder"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(
    folder: Path, capfd: pytest.CaptureFixture, arguments: tuple[str, ...], message: str
) -> None:
    make_bad_files()
    before = sorted(Path().rglob("*"))
    assert stylize(*arguments) == 2
    printed = capfd.readouterr()
    assert message in printed.err
    assert printed.err.startswith("jaxstyle: ")
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--evaluations", "0"), "evaluations must be at least 1, not 0"),
        (("--evaluations", "many"), "--evaluations"),
        (("--style-weight", "-3"), "style_weight must be at least 0"),
        (("--style-weights", "1", "-3"), "style_weights must be at least 0"),
        (("--style-weights", "nan"), "style_weights must be a finite number"),
        (("--style-weights", "0"), "style_weights must not all be 0"),
        (("--learning-rate", "0.1"), "learning_rate has no meaning with optimizer lbfgs"),
        (("--optimizer", "sgd"), "lbfgs"),
        (("--sise", "3"), "--size"),
    ],
)
def test_a_bad_flag_is_explained_with_code_2(
    folder: Path, capfd: pytest.CaptureFixture, arguments: tuple[str, ...], message: str
) -> None:
    try:
        code = stylize(*PAIR, "-o", "o.png", *arguments)
    except SystemExit as error:
        code = error.code
    assert code == 2
    printed = capfd.readouterr()
    assert message in " ".join((printed.out + printed.err).split())
    assert "Traceback" not in printed.err


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("stylize",),
        ("grid",),
        ("warm",),
        ("presets",),
        ("animate",),
        ("report",),
        ("plot",),
        ("weights",),
        ("weights", "fetch"),
        ("weights", "convert"),
        ("weights", "verify"),
        ("weights", "path"),
        ("info",),
    ],
)
def test_every_command_has_help(arguments: tuple[str, ...], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.run([*arguments, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "usage: jaxstyle" in text
    for nothing in ("(default: )", "(default: None)", "{None", "--preset STR"):
        assert nothing not in text
    # tyro does not wrap what is above the boxes, and keeps breaks before a flag.
    above, *_ = re.split(r"^\W*(?:positional arguments|options)\b", text, flags=re.MULTILINE)
    description = [line for line in above.splitlines()[1:] if line]
    assert max(map(len, description)) <= 80
    assert all(line[0].isupper() for line in description)


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("grid", "--preset NAME "),
        ("weights convert", "--preprocessing {caffe,torch} "),
        ("weights verify", "usage: jaxstyle weights verify [-h] [FILE]"),
    ],
)
def test_values_have_names(command: str, shown: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        cli.run([*command.split(), "--help"])
    assert shown in capsys.readouterr().out


def test_warm_has_sizes_instead_of_a_size(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        cli.run(["warm", "--help"])
    text = capsys.readouterr().out
    assert "--sizes N" in text
    assert "--size INT" not in text


def test_help_does_not_wait_for_jax() -> None:
    script = (
        "import sys; from jaxstyle import cli\n"
        "try: cli.run(['stylize', '--help'])\n"
        "except SystemExit: pass\n"
        "assert 'jax' not in sys.modules, 'jax was imported'"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


def test_weights_commands(
    folder: Path, imagenet: Params, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JAXSTYLE_WEIGHTS", raising=False)
    assert cli.run(["weights", "path"]) == 0
    path = capsys.readouterr().out.strip()
    assert Path(path).is_file()
    assert cli.run(["weights", "fetch", "--offline"]) == 0  # it is here: nothing to do
    assert cli.run(["weights", "verify"]) == 0
    assert "the ImageNet weights that Keras publishes" in capsys.readouterr().out
    assert (
        cli.run(["weights", "convert", path, "-o", "half.safetensors", "--dtype", "float16"]) == 0
    )
    assert "VGG19, float16, bgr input" in capsys.readouterr().out
    assert stylize(*QUICK, "-o", "out.png", "--weights", "half.safetensors", "--quiet") == 0
    assert cli.run(["weights", "convert", path, "-o", "half.npz"]) == 2
    assert "must end in .safetensors" in capsys.readouterr().err
    assert cli.run(["weights", "verify", "content.png"]) == 2
    assert "unknown weights format" in capsys.readouterr().err


def test_vgg16_is_a_network_of_the_command(
    folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "CHANNELS", SMALL_CHANNELS)
    for network in (VGG19, VGG16):
        write_keras(folder / f"{network.name}.h5", random_tensors(network))
    assert cli.run(["weights", "convert", "vgg16.h5", "-o", "vgg16.safetensors"]) == 0
    assert "VGG16, float32, bgr input" in capsys.readouterr().out
    vgg16 = ("--network", "vgg16", "--weights", "vgg16.safetensors")
    assert stylize(*QUICK, "-o", "out.png", "--workdir", "RUN", *vgg16, "--quiet") == 0
    assert json.loads(Path("RUN/result.json").read_text())["config"]["network"] == "vgg16"
    capsys.readouterr()
    for words, told in (
        (("--network=vgg16", "--weights=vgg19.h5"), "have conv3_4, so they are not those of vgg16"),
        (("--weights=vgg16.safetensors",), "lack conv3_4, so they are not those of vgg19"),
        ((*vgg16, "--style-layers", "relu3_4"), "unknown layer 'relu3_4'; close ones are"),
        (("--network", "vgg11"), "--network"),
    ):  # fmt: skip
        assert stylize(*QUICK, "-o", "other.png", "--quiet", *words) == 2
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1
    both = ["grid", "--contents", "content.png", "--styles", "style.png", "-o", "out"]
    assert cli.run([*both, "--sweep", "network=vgg19,vgg16"]) == 2
    assert "vgg19 and vgg16 have different weights" in capsys.readouterr().err


@pytest.mark.parametrize("platforms", ["nonsense", "rocm", "cpu,nonsense"])
def test_a_platform_that_is_not_there_is_one_line(
    platforms: str, folder: Path, imagenet: Params
) -> None:
    command = [sys.executable, "-m", "jaxstyle", "stylize", *QUICK, "-o", "out.png"]
    variables = os.environ | {"JAX_PLATFORMS": platforms}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        2,
        f"jaxstyle: JAX_PLATFORMS={platforms}: no such devices here; unset it to use any\n",
    )


def test_other_failures_are_not_taken_for_a_missing_platform(
    folder: Path, imagenet: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr("jaxstyle.cli.rendering.stylize", fail)
    with pytest.raises(RuntimeError, match="something else"):
        stylize(*QUICK, "-o", "out.png")


def test_info_says_what_a_report_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("JAXSTYLE_WEIGHTS", str(tmp_path / "none.safetensors"))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert cli.run(["info"]) == 0
    printed = capsys.readouterr().out
    assert f"jaxstyle {importlib.metadata.version('jaxstyle')}, Python 3." in printed
    assert f"jax {jax.__version__}, " in printed
    assert "\nJAX_PLATFORMS=cpu\n" in printed
    assert "\nweights: ~/none.safetensors (missing)\n" in printed
    assert "\ncompiled programs: " in printed
    assert re.search(r"\ndevice: .*, cpu, \d+\.\d GiB\n", printed)
    assert str(tmp_path) not in printed


@contextlib.contextmanager
def started(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen, int]]:
    """A run whose stderr is a terminal, so that its progress can be watched; ended in any case."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "jaxstyle", "stylize", *PAIR, *PLAIN, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=follower,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(follower)
    try:
        yield process, leader
    finally:
        process.kill()
        process.communicate()


def read_until(leader: int, expression: bytes, seconds: float = 120) -> None:
    seen, deadline = b"", time.monotonic() + seconds
    while not re.search(expression, seen):
        assert time.monotonic() < deadline, seen
        seen += os.read(leader, 4096)


def drain(leader: int) -> bytes:
    seen = b""
    try:
        while chunk := os.read(leader, 4096):
            seen += chunk
    except OSError:  # the other end is closed
        pass
    os.close(leader)
    return seen


def test_ctrl_c_keeps_the_best_image_so_far(folder: Path, imagenet: Params) -> None:
    arguments = ("-o", "out.png", "--size", "64", "--evaluations", "100000")
    with started(folder, *arguments) as (process, leader):
        read_until(leader, rb"loss \d")  # evaluations have been reported
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
        errors = drain(leader)
    assert process.returncode == 130
    assert b"the best image so far is in out.png" in errors
    assert b"Traceback" not in errors
    assert b" to compile), stopped" in output
    assert load_image(folder / "out.png").shape == (48, 64, 3)
    assert sorted(p.name for p in folder.iterdir()) == ["content.png", "out.png", "style.png"]


def test_ctrl_c_before_the_first_evaluation_writes_nothing(folder: Path, imagenet: Params) -> None:
    arguments = ("-o", "out.png", "--size", "600", "--evaluations", "100000")
    with started(folder, *arguments) as (process, leader):
        read_until(leader, b"evaluations")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        errors = drain(leader)
    assert process.returncode == 130
    assert b"nothing was written" in errors
    assert b"Traceback" not in errors
    assert sorted(p.name for p in folder.iterdir()) == ["content.png", "style.png"]
