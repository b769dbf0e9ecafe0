# ruff: noqa: T201
"""Mutated files of every kind that is read: `scripts/fuzz [--seed N] [--count N] [--seconds N]`.

Each input ends in a value or in a `JaxstyleError` of one line, within a bound on time and memory. A
worker goes through the inputs, which are made from their numbers; if one kills it, another goes on
behind it.
"""

import argparse
import collections
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import jax
import numpy as np
import safetensors.numpy
import tifffile
import tomli_w
from PIL import Image as Pil

from jaxstyle.config import Config, JaxstyleError, preset, to_toml
from jaxstyle.engine import Progress, Record, State
from jaxstyle.engine.optimizers import state_like
from tests.conftest import pattern

SECONDS = 20
"""Longest time for one input."""
BYTES = 3 * 2**30
"""Most memory for one input, beyond what Python and JAX take."""

Check = Callable[[Path], object]
"""Read the file, or folder, at a path."""


class Kind(NamedTuple):
    """A kind of file."""

    seeds: dict[str, bytes]
    """Whole ones, by name; the part of it behind the last `/` is the file's."""
    check: Check
    words: Sequence[bytes] = ()
    """What may be put in anywhere."""


NUMBERS = [
    b"0",
    b"-1",
    b"1e999",
    b"nan",
    b"1" * 400,
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'""',
    b"\xff",
]


def pictures() -> dict[str, bytes]:
    color, gray = Pil.fromarray(pattern(13, 17, 0)), Pil.fromarray(pattern(13, 17, 1)).convert("L")
    alpha = color.copy()
    alpha.putalpha(gray)
    deep = Pil.fromarray(np.asarray(gray, np.uint16) * 257)
    exif = Pil.Exif()
    exif[0x0112] = 6
    options = {"exif": exif}
    wanted = [("PNG", each, "png", options) for each in (color, gray, alpha, deep)]
    wanted += [("PNG", each.convert("P"), "png", {}) for each in (color, gray)]
    wanted += [("JPEG", each, "jpg", options) for each in (color, gray, color.convert("CMYK"))]
    wanted += [("JPEG", color, "jpg", {"progressive": True})]
    wanted += [("WEBP", each, "webp", options) for each in (color, alpha)]
    wanted += [("WEBP", color, "webp", {"lossless": True})]
    wanted += [("GIF", color, "gif", {"save_all": True, "append_images": [alpha, gray]})]
    wanted += [("BMP", each, "bmp", {}) for each in (color, gray)]
    wanted += [("PPM", each, "ppm", {}) for each in (color, gray, gray.convert("1"))]
    wanted += [
        ("TIFF", each, "tif", {"compression": method})
        for each, method in (
            (color, None),
            (alpha, "tiff_lzw"),
            (deep, "tiff_deflate"),
            (color, "jpeg"),
            (gray, "packbits"),
        )
    ]
    wanted += [("TGA", color, "tga", {"compression": "tga_rle"}), ("JPEG2000", color, "jp2", {})]
    wanted += [("AVIF", alpha, "avif", {}), ("MPO", color, "jpg", {"save_all": True})]
    Pil.init()
    found: dict[str, bytes] = {}
    for number, (name, picture, suffix, given) in enumerate(wanted):
        buffer = io.BytesIO()
        if name in Pil.SAVE:  # Pillow may lack AVIF
            picture.save(buffer, name, **given)
            found[f"{number}.{suffix}"] = buffer.getvalue()
    floats = pattern(13, 17, 2).astype(np.float32) / 255
    for number, values in enumerate((floats, np.moveaxis(floats, 2, 0), floats[..., 0])):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, values, photometric=("rgb", "rgb", "minisblack")[number])
        found[f"float{number}.tif"] = buffer.getvalue()
    found["a.pfm"] = b"PF\n17 13\n-1.0\n" + floats.tobytes()
    found["b.pfm"] = b"Pf\n17 13\n1.0\n" + floats[..., 0].astype(">f4").tobytes()
    try:
        import pillow_heif  # pyright: ignore[reportMissingImports]
    except ImportError:
        return found
    buffer = io.BytesIO()
    pillow_heif.from_pillow(color).save(buffer)
    return found | {"a.heic": buffer.getvalue()}


def weights(suffix: str) -> dict[str, bytes]:
    """The small network of the tests in a weights file."""
    from tests.conftest import random_params

    tensors: dict[str, np.ndarray] = {}
    for name, each in random_params().items():
        if isinstance(each, dict):
            tensors |= {f"{name}.{kind}": np.asarray(each[kind]) for kind in each}
    buffer = io.BytesIO()
    preprocessing = {"channels": "rgb", "scale": 1, "mean": [0.1] * 3, "std": [1, 1, 1]}
    if suffix == "safetensors":
        metadata = {"preprocessing": json.dumps(preprocessing)}
        buffer.write(safetensors.numpy.save(tensors, metadata))
    elif suffix == "npz":
        np.savez_compressed(
            buffer, **{f"block{n[4]}_conv{n[6]}/{n[8:]}": v for n, v in tensors.items()}
        )
    else:
        with h5py.File(buffer, "w") as file:
            for name, value in tensors.items():
                block = f"block{name[4]}_conv{name[6]}"
                file[f"{block}/{block}_{'W' if 'kernel' in name else 'b'}:0"] = value
    return {f"a.{suffix}": buffer.getvalue()}


def run_folder() -> dict[str, bytes]:
    about = {"run": {"content": "c.png", "style": ["s.png"], "sha256": {"content": ["1"]}}}
    row = {"evaluation": 1, "scale": 0, "seconds": 0.5, "loss": 2.5, "terms": {"tv": 1.0}}
    row |= {"compile_seconds": 1.0, "gradient_norm": 1.0, "step_size": None, "accepted": True}
    metrics = "".join(json.dumps(row | {"evaluation": n}) + "\n" for n in range(1, 4))
    result = {"loss": 2.5, "evaluations": 3, "reason": "budget", "terms": {"tv": 1.0}, "seconds": 1}
    return {
        "config.toml": (to_toml(Config()) + "\n" + tomli_w.dumps(about)).encode(),
        "metrics.jsonl": metrics.encode(),
        "result.json": json.dumps(result).encode(),
    }


def grid_row() -> dict[str, bytes]:
    row = {"cell": "a_b", "content": "a.png", "styles": ["b.png"], "config": {"seed": 1}}
    row |= {"sha256": {"content": ["1"]}, "status": "done", "image": "cells/a_b.png", "loss": 1.5}
    row |= {"terms": {"tv": 1.0}, "evaluations": 4, "seconds": 1.0, "losses": [3.0, 2.0]}
    bad = {name: row[name] for name in ("cell", "content", "styles", "config")}
    bad |= {"cell": "c_d", "status": "failed", "reason": "no picture"}
    return {"grid.jsonl": f"{json.dumps(row)}\n{json.dumps(bad)}\n".encode()}


def progress(evaluations: int) -> Progress:
    """Random progress of a run with Adam."""
    rng = np.random.default_rng(evaluations)
    state = jax.tree.map(
        lambda leaf: np.asarray(100 * rng.standard_normal(leaf.shape), leaf.dtype),
        progress_like(0),
    )
    record = Record(
        evaluation=0,
        loss=0.5,
        terms={"content": 0.1, "style": 0.4},
        gradient_norm=1.0,
        step_size=1.0,
        accepted=True,
        seconds=0.5,
        compile_seconds=1.0,
        scale=0,
    )
    numbers = range(1, evaluations + 1)
    return Progress(state, tuple(record._replace(evaluation=number) for number in numbers))


def progress_like(scale: int) -> State:
    return state_like((48, 64, 3), Config(optimizer="adam"))


def checkpoints(folder: Path) -> dict[str, bytes]:
    """Two checkpoints of a run."""
    from jaxstyle.storage.checkpoints import Checkpoints

    written = Checkpoints(folder)
    for evaluations in (2, 3):
        written.save(progress(evaluations))
    written.close()
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {f"{path.relative_to(folder)}": path.read_bytes() for path in found}


def kinds(folder: Path) -> dict[str, Kind]:
    """All kinds; `folder` is for what their checks write."""
    from jaxstyle.cli.commands import Stylize
    from jaxstyle.imaging import files, formats, images, load_mask, save_image
    from jaxstyle.network import conversion, weights as network_weights
    from jaxstyle.objective import parse_guide
    from jaxstyle.reporting import write_report
    from jaxstyle.storage import Base, cells, grid, sheets
    from jaxstyle.storage.checkpoints import Checkpoints, to_arrays

    small = {
        f"{name}.{kind}": np.shape(v)
        for name, each in _params().items()
        if name != "mean"
        for kind, v in each.items()
    }
    conversion.expected_shapes = lambda _: small
    # More pixels take more time and memory, and are read no other way.
    formats._MAX_DECODED = 2**22
    save_image(folder / "a.png", pattern(24, 24, 0))
    one = grid.Grid(
        cells.product([str(folder / "a.png")], [str(folder / "a.png")], [Config(size=24)]),
        folder / "out",
        weights_sha256="0",
    )
    (folder / "out" / "cells").mkdir(parents=True)

    def read_picture(path: Path) -> object:
        images.glance(path)
        return images.read_picture(path, 8), images.read_picture(path), images.read_metadata(path)

    def read_guide(path: Path) -> object:
        return str(parse_guide(*load_mask(path, "guide"), "guide"))

    def settings(path: Path) -> object:
        return to_toml(Stylize("c.png", ("s.png",), config=str(path)).settings)

    def table(path: Path) -> object:
        return cells.read_cells(str(path), Base("default"))

    def sweep(path: Path) -> object:
        return cells.sweep(Base("default"), path.read_text("utf-8", "ignore").split("\n")[:3])

    def weights_file(path: Path) -> object:
        return network_weights.read(path)

    def report(path: Path) -> object:
        return write_report(path.parent, folder / "page.html")

    def row(path: Path) -> object:
        target = folder / "out" / "cells" / f"{one.entries[0].name}.json"
        target.write_bytes(path.read_bytes())
        one.is_done(one.entries[0])
        rows = one.rows()
        return one.summary(rows), list(sheets.sheet_pages(one.entries, rows, one.output))

    def newest(path: Path) -> object:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            opened = Checkpoints(folder / "checkpoint")
            restored = opened.restore(progress_like)
            opened.close()
        assert restored is not None
        arrays, meta = to_arrays(restored)
        expected, expected_meta = to_arrays(progress(3 - len(told)))
        assert meta == expected_meta
        np.testing.assert_equal(arrays, expected)
        return restored

    files.write_atomically = lambda *_: None  # waits for the disk
    guides: dict[str, bytes] = {}
    for number, levels in enumerate(((0, 255), (0, 1, 2), (10, 90, 200))):
        buffer = io.BytesIO()
        Pil.fromarray(np.array(levels, np.uint8)[np.mgrid[:16, :18].sum(0) % len(levels)]).save(
            buffer, "PNG"
        )
        guides[f"{number}.png"] = buffer.getvalue()
    names = [f"{name} = ".encode() for name in ("size", "optimizer", "scales", "init", "preset")]
    toml = {
        f"{name}.toml": to_toml(preset(name)).encode() for name in ("default", "seed", "crowson")
    }
    cell = json.loads(grid_row()["grid.jsonl"].splitlines()[0])
    return {
        "picture": Kind(pictures(), read_picture),
        "guide": Kind(guides, read_guide),
        "toml": Kind(toml, settings, [*names, b"[optimizer]\n", b"[scales]\n", *NUMBERS]),
        "csv": Kind(
            {"a.csv": b"content,style,style_weight,optimizer\na.png,b.png;c.png,2,adam\nd,e,,\n"},
            table,
            [b",", b'"', b"\n", b";", b"\0", b"seed", b"content_guide", *NUMBERS],
        ),
        "sweep": Kind(
            {"a.txt": b"seed=0:4\nstyle_layers=relu1_1+relu2_1,relu3_1=2\npreset=seed,default\n"},
            sweep,
            [b"=", b",", b":", b"+", b"1000000", *NUMBERS],
        ),
        "safetensors": Kind(weights("safetensors"), weights_file, NUMBERS),
        "npz": Kind(weights("npz"), weights_file),
        "h5": Kind(weights("h5"), weights_file),
        "run": Kind({f"run/{n}": data for n, data in run_folder().items()}, report, NUMBERS),
        "grid": Kind({f"grid/{n}": data for n, data in grid_row().items()}, report, NUMBERS),
        "checkpoint": Kind(checkpoints(folder / "checkpoints"), newest),
        "row": Kind({"a.json": json.dumps(cell).encode()}, row, NUMBERS),
    }


def _params() -> dict[str, dict[str, np.ndarray]]:
    from tests.conftest import random_params

    return random_params()  # pyright: ignore[reportReturnType]


def mutated(
    data: bytes, others: Sequence[bytes], words: Sequence[bytes], rng: random.Random
) -> bytes:
    """Change a file in one to six places."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        at = rng.randrange(len(result) + 1)
        # Headers are shorter than what follows them, and more is decided there.
        at = min(at, rng.choice((16, 64, 256, 10**9)))
        size = rng.choice((1, 2, 4, 8, rng.randrange(64) + 1))
        match rng.randrange(9):
            case 0:
                result[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                if at < len(result):
                    result[at] ^= 1 << rng.randrange(8)
            case 2:
                del result[at : at + size]
            case 3:
                result[at:at] = result[at : at + size] * rng.choice((1, 2, 50))
            case 4:
                value = rng.choice((0, 1, -1, 2**15, 2**31 - 1, 2**31, 2**24, 65535, 10**6))
                four = (value % 2**32).to_bytes(4, "big")
                result[at : at + 4] = four if rng.random() < 0.5 else four[::-1]
            case 5:
                del result[at:]
            case 6:
                other = rng.choice(others)
                result[at:] = other[rng.randrange(len(other) + 1) :]
            case _:
                word = rng.choice(words) if words else rng.randbytes(size)
                result[at : at + rng.choice((0, len(word)))] = word
        if not result:
            break
    if result.startswith(b"\x89PNG") and rng.random() < 0.6:
        _mend_png(result)
    return bytes(result)


def _mend_png(data: bytearray) -> None:
    """Make the checksums right, since nothing behind a wrong one is read."""
    at = 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        end = at + 8 + length
        if end + 4 > len(data):
            return
        data[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4


def make(kind: Kind, name: str, number: int, seed: int, folder: Path) -> Path:
    """Write the input of that number, and for a folder what lies beside it; return its path."""
    rng = random.Random(f"{seed} {name} {number}")
    chosen = rng.choice(sorted(kind.seeds))
    beside = kind.seeds if "/" in chosen else [chosen]
    for each in beside:
        data = kind.seeds[each]
        if each == chosen:
            data = mutated(data, list(kind.seeds.values()), kind.words, rng)
        path = folder / name / each
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder / name / chosen


def work(
    names: Sequence[str], first: int, count: int, seed: int, seconds: float, folder: Path
) -> None:
    """Try inputs of each kind, of the first one from number `first` on; print what came of them."""
    chosen = kinds(folder)
    warnings.simplefilter("ignore")
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + BYTES, taken + BYTES))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    reached = os.open(folder / "reached", os.O_WRONLY | os.O_CREAT)
    for name in names:
        until = time.monotonic() + seconds
        for number in range(first, count):
            if time.monotonic() > until:
                break
            os.pwrite(reached, f"{name} {number}\n".ljust(40).encode(), 0)
            path = make(chosen[name], name, number, seed, folder)
            signal.alarm(SECONDS)
            end, problem = tried(chosen[name].check, path)
            signal.alarm(0)
            print(json.dumps([name, end, f"{name} {number}: {problem}" if problem else None]))
        first = 0
    sys.stdout.flush()


def tried(check: Check, path: Path) -> tuple[str, str | None]:
    """Return how an input ended, and what is wrong with that, if anything."""
    try:
        check(path)
    except JaxstyleError as error:
        text = str(error)
        fine = text.isprintable() and len(text) <= 2000
        return "refused", None if fine else f"not a line: {text[:300]!r}"
    except MemoryError:  # the command line says so
        return "memory", None
    except Exception:
        return "raised", "".join(traceback.format_exc().splitlines(keepends=True)[-7:])
    return "read", None


def campaign(
    names: Sequence[str], count: int, seed: int, seconds: float
) -> tuple[dict[str, collections.Counter[str]], list[str]]:
    """Try `count` inputs of each kind; return what came of them, and the problems."""
    ends = {name: collections.Counter[str]() for name in names}
    problems: list[str] = []
    left, first = list(names), 0
    while left:
        with tempfile.TemporaryDirectory() as folder:
            words = [",".join(left), str(first), str(count), str(seed), str(seconds / len(names))]
            done = subprocess.run(
                [sys.executable, "-m", "tests.fuzzing", "--worker", *words, folder],
                capture_output=True,
                text=True,
            )
            for line in done.stdout.splitlines():
                name, end, problem = json.loads(line)
                ends[name][end] += 1
                problems += [problem] if problem else []
            if done.returncode == 0:
                break
            name, number = Path(folder, "reached").read_text().split()
        ends[name]["died"] += 1
        problems.append(f"{name} {number}: died of {-done.returncode}: {done.stderr[-600:]}")
        left, first = left[left.index(name) :], int(number) + 1
    return ends, problems


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        names, first, count, seed, seconds, folder = sys.argv[2:]
        given = int(first), int(count), int(seed), float(seconds), Path(folder)
        work(names.split(","), *given)
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000, help="inputs of each kind")
    parser.add_argument("--seconds", type=float, default=600, help="most time, of all kinds")
    parser.add_argument("--kinds", nargs="*", help="by default all")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        names = arguments.kinds or list(kinds(Path(folder)))
    ends, problems = campaign(names, arguments.count, arguments.seed, arguments.seconds)
    for problem in problems:
        print(problem, file=sys.stderr)
    print(json.dumps(ends | {"inputs": sum(each.total() for each in ends.values())}))
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
