"""Reports of synthetic runs and grids; what they look like is for `test_report_browser`."""

import base64
import io
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pil

from jaxstyle.config.errors import FileError
from jaxstyle.reporting.report import write_report
from tests.conftest import pattern

NAUGHTY = "a</script><script>alert(1)</script>&\u2028<!--.jpg"


def save(path: Path, height: int = 48, width: int = 64, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Pil.fromarray(pattern(height, width, seed)).save(path)


def record(number: int) -> dict[str, Any]:
    terms = {"content": 1 / (number + 1), "style/relu1_1": 1e3 / number**1.5, "tv": 0.1 + 0.2}
    return {
        "evaluation": number,
        "scale": int(number > 10),
        "seconds": 0.1 * number,
        "compile_seconds": 8.1,
        "loss": sum(terms.values()),
        "terms": terms,
        "gradient_norm": 3.0000000000000004 * number,
        "step_size": 0.5,
        "accepted": number % 7 != 0,
        "evaluations_per_second": 2.4,
        "memory_bytes": None,
    }


def make_run(
    folder: Path, *, content: str = "a.jpg", finished: bool = True
) -> list[dict[str, Any]]:
    """A run of two scales with 20 evaluations, the fifth of which was not finite."""
    records = [record(number) for number in range(1, 21)]
    records[4] |= {"loss": None, "accepted": False, "terms": {"content": None, "tv": None}}
    folder.mkdir()
    settings = f"""size = 64
style_weight = 1000.0
style_layers = ["relu1_1", "relu2_1"]
[run]
content = {json.dumps(content)}
style = ["s.jpg"]
jaxstyle = "0.1.0"
[run.sha256]
content = ["{"a" * 64}"]
style = ["{"b" * 64}"]
weights = ["{"c" * 64}"]
"""
    (folder / "config.toml").write_text(settings, "utf-8")
    lines = [json.dumps(line) + "\n" for line in records]
    (folder / "metrics.jsonl").write_text("".join(lines))
    save(folder / "inputs" / "content.jpg")
    save(folder / "inputs" / "style-1.jpg", seed=1)
    for number in (5, 10):
        save(folder / "snapshots" / f"{number:05}.png", seed=2)
    if finished:
        save(folder / "image.png", seed=3)
        outcome = {name: records[-1][name] for name in ("loss", "terms", "seconds")}
        result = {"evaluations": 20, "reason": "budget", "compile_seconds": 8.1, "rejected": 3}
        (folder / "result.json").write_text(json.dumps(outcome | result))
    return records


def make_grid(
    folder: Path,
    contents: int = 2,
    styles: int = 2,
    weights: tuple[float, ...] = (1.0, 10.0),
    losses: int = 1000,
    *,
    side: int = 64,
    changes: dict[int, dict[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """A grid whose last cell failed; `changes` are what is different in the rows given."""
    rows: list[dict[str, Any]] = []
    for weight in weights:
        for content in range(contents):
            for style in range(styles):
                name = f"c{content}_s{style}_{len(rows):04}"
                picture = folder / "cells" / f"{name}.png"
                if len(rows) < 8:
                    save(picture, side * 3 // 4, side, len(rows))
                else:
                    picture.write_bytes((folder / rows[len(rows) % 8]["image"]).read_bytes())
                curve = [1e4 / 3 / (i + 1) ** (1 + weight / 50) for i in range(losses)]
                row = {
                    "cell": name,
                    "content": f"photos/c{content}.jpg",
                    "styles": [f"paintings/s{style}.jpg"],
                    "config": {"size": side, "style_weight": weight, "style_layers": ["relu1_1"]},
                    "status": "done",
                    "image": f"cells/{name}.png",
                    "loss": curve[-1],
                    "terms": {"content": 1.0, "tv": 0.5},
                    "evaluations": losses,
                    "seconds": float(100 - len(rows)),
                    "losses": curve,
                }
                rows.append(row | (changes or {}).get(len(rows), {}))
    rows[-1] = {k: v for k, v in rows[-1].items() if k not in ("image", "loss", "terms", "losses")}
    rows[-1] |= {"status": "failed", "reason": "the loss was never finite"}
    (folder / "grid.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def report(source: Path) -> tuple[str, dict[str, Any]]:
    """The page about `source`, and the data in it."""
    output = source.parent / "report.html"
    write_report(source, output)
    page = output.read_text("utf-8")
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert len(found) == 1
    return page, json.loads(found[0])


def decode(picture: dict[str, Any]) -> Pil.Image:
    """An embedded picture, which has the size that is written beside it."""
    kind, data = picture["src"].split(",")
    assert kind == "data:image/webp;base64"
    opened = Pil.open(io.BytesIO(base64.b64decode(data)))
    assert opened.size == (picture["width"], picture["height"])
    return opened.convert("RGB")


def difference(picture: dict[str, Any], path: Path) -> float:
    """Mean difference in grey levels to the picture in a file; other pictures are 60 off."""
    with Pil.open(path) as opened:
        expected = np.asarray(opened.convert("RGB"), np.float32)
    return float(np.abs(np.asarray(decode(picture), np.float32) - expected).mean())


def test_a_run_with_its_exact_numbers_and_pictures(tmp_path: Path) -> None:
    records = make_run(tmp_path / "run")
    _, data = report(tmp_path / "run")
    assert data["records"] == records
    assert (data["kind"], data["name"]) == ("run", "run")
    assert data["settings"]["style_layers"] == ["relu1_1", "relu2_1"]
    assert "run" not in data["settings"]
    assert data["inputs"]["sha256"]["weights"] == ["c" * 64]
    assert data["result"]["reason"] == "budget"
    assert difference(data["image"], tmp_path / "run" / "image.png") < 15
    assert difference(data["content"], tmp_path / "run" / "inputs" / "content.jpg") < 15
    (style,) = data["styles"]
    assert difference(style, tmp_path / "run" / "inputs" / "style-1.jpg") < 15
    assert data["link"] == "run/image.png"
    assert [snapshot["name"] for snapshot in data["snapshots"]] == ["00005", "00010"]


def test_nothing_in_the_data_ends_its_element_and_nothing_is_loaded(tmp_path: Path) -> None:
    make_run(tmp_path / "run", content=NAUGHTY)
    make_grid(tmp_path / "grid", changes={0: {"content": NAUGHTY, "cell": NAUGHTY}})
    for source, content in (("run", "inputs"), ("grid", "cells")):
        page, data = report(tmp_path / source)
        found = data[content]["content"] if source == "run" else data[content][0]["content"]
        assert found == NAUGHTY
        assert page.count("<script") == page.count("</script>") == 2
        assert "\u2028" not in page
        assert "<!--" not in page
        assert not re.search("https?://|//[a-z]+[.]|@import|url[(]", page)
        assert "default-src 'none'; img-src data:;" in page
        assert "innerHTML" not in page


def test_an_unfinished_run_shows_its_newest_snapshot_and_ignores_a_torn_line(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    records = make_run(run, finished=False)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"evaluation": 21, "terms": {"con')
    save(run / "snapshots" / "00010.png", seed=9)
    save(run / "snapshots" / "100000.png", seed=8)
    _, data = report(run)
    assert data["records"] == records
    assert data["result"] is None
    assert data["image_file"] == "snapshots/100000.png"
    assert difference(data["image"], run / "snapshots" / "100000.png") < 15


def test_pictures_of_a_run_are_only_those_in_its_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_run(run)
    save(tmp_path / "secret.png", seed=5)
    for name in ("image.png", "inputs/content.jpg", "inputs/style-1.jpg", "snapshots/00005.png"):
        (run / name).unlink()
        (run / name).symlink_to(tmp_path / "secret.png")
    _, data = report(run)
    assert data["image"] is data["link"] is data["content"] is data["styles"][0] is None
    assert data["snapshots"][0]["picture"] is None
    assert data["snapshots"][1]["picture"] is not None


def test_a_report_is_a_page(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    before = (tmp_path / "run" / "config.toml").read_bytes()
    with pytest.raises(FileError, match=r"must end in \.html"):
        write_report(tmp_path / "run", tmp_path / "run" / "config.toml")
    assert (tmp_path / "run" / "config.toml").read_bytes() == before


def test_a_run_that_has_hardly_begun(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").touch()
    (run / "config.toml").write_text("size = 64\n")
    _, data = report(run)
    assert data["records"] == data["styles"] == data["snapshots"] == []
    assert data["image"] is data["content"] is data["result"] is None


def test_pictures_are_scaled_down_never_up_and_transparency_is_white(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_run(run)
    save(run / "inputs" / "content.jpg", 50, 2000)
    rgba = np.zeros((20, 30, 4), np.uint8)
    rgba[:10] = 128
    Pil.fromarray(rgba).save(run / "image.png")
    _, data = report(run)
    assert decode(data["content"]).size == (1600, 40)
    result = np.asarray(decode(data["image"]))
    assert result.shape == (20, 30, 3)
    assert abs(int(result[3, 5, 0]) - 191) < 5
    assert result[17, 5].min() > 250


def test_many_snapshots_are_thinned_out(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_run(run)
    for number in range(1, 101):
        save(run / "snapshots" / f"{number:05}.png", 6, 8)
    _, data = report(run)
    names = [snapshot["name"] for snapshot in data["snapshots"]]
    assert (len(names), names[0], names[-1]) == (48, "00001", "00100")
    assert data["snapshots_taken"] == 100


def test_a_grid_with_what_differs_between_its_cells(tmp_path: Path) -> None:
    grid = tmp_path / "grid"
    rows = make_grid(grid)
    (grid / "cells" / f"{rows[1]['cell']}.png").unlink()
    _, data = report(grid)
    assert data["differing"] == ["style_weight"]
    assert data["settings"] == {"size": 64, "style_layers": ["relu1_1"]}
    assert [cell["settings"] for cell in data["cells"]] == [{"style_weight": 1.0}] * 4 + [
        {"style_weight": 10.0}
    ] * 4
    first, missing, failed = data["cells"][0], data["cells"][1], data["cells"][-1]
    assert difference(first["picture"], grid / rows[0]["image"]) < 15
    assert first["link"] == f"grid/cells/{rows[0]['cell']}.png"
    assert (missing["status"], missing["picture"]) == ("done", None)
    assert (failed["status"], failed["reason"]) == ("failed", "the loss was never finite")
    assert (len(first["losses"]), first["losses_taken"]) == (400, 1000)
    assert first["losses"][0] == 3333.33
    np.testing.assert_allclose(first["losses"][-1], rows[0]["losses"][-1], rtol=1e-5)


def test_links_lead_from_the_report_to_the_picture(tmp_path: Path) -> None:
    make_grid(tmp_path / "a grid#1")
    (tmp_path / "reports").mkdir()
    write_report(tmp_path / "a grid#1", tmp_path / "reports" / "r.html")
    assert "../a%20grid%231/cells/c0_s0_0000.png" in (tmp_path / "reports" / "r.html").read_text()


@pytest.mark.parametrize(
    "image",
    [
        "../secret.png",
        "cells/../../secret.png",
        "{root}/secret.png",
        "file://{root}/secret.png",
        "cells\\..\\..\\secret.png",
        "gs://bucket/secret.png",
        "cells/link.png",
        "cells/loop.png",
        "cells/a\0b.png",
        "cells",
        "",
        "x" * 5000,
        5,
    ],
)
def test_a_picture_outside_the_folder_is_missing(tmp_path: Path, image: Any) -> None:
    save(tmp_path / "secret.png")
    image = image.format(root=tmp_path) if isinstance(image, str) else image
    make_grid(tmp_path / "grid", changes={0: {"image": image}})
    (tmp_path / "grid" / "cells" / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "grid" / "cells" / "loop.png").symlink_to("loop.png")
    _, data = report(tmp_path / "grid")
    assert data["cells"][0]["picture"] is None
    assert data["cells"][1]["picture"] is not None


def test_a_folder_that_is_neither(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"neither a run's folder .* nor a grid's"):
        write_report(tmp_path, tmp_path / "report.html")
    with pytest.raises(FileError, match="no such folder"):
        write_report(tmp_path / "nothing", tmp_path / "report.html")
    make_grid(tmp_path / "grid")
    with pytest.raises(FileError, match="does not exist"):
        write_report(tmp_path / "grid", tmp_path / "nothing" / "report.html")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metrics.jsonl", b"{}\n", "metrics.jsonl, line 1: damaged; it has no valid evaluation"),
        ("metrics.jsonl", b'\n{"evaluation\n{}\n', "metrics.jsonl, line 2: damaged; not a JSON"),
        ("metrics.jsonl", b"[1]\n", "line 1: damaged; not a JSON object"),
        ("metrics.jsonl", b"\xff\n", "line 1: damaged"),
        ("metrics.jsonl", b"[" * 100_000 + b"\n", "line 1: damaged"),
        ("metrics.jsonl", b'{"evaluation": 1, "terms": []}\n', "it has no valid terms"),
        ("config.toml", b"size = \n", "config.toml: damaged"),
        ("config.toml", b"a = \xff\n", "config.toml: damaged"),
        ("result.json", b'{"loss":', "result.json: damaged; not a JSON object"),
        ("grid.jsonl", b'{"cell": "a"}\n', "grid.jsonl, line 1: damaged; it has no valid content"),
        ("grid.jsonl", b'{"cell', "grid.jsonl, line 1: damaged"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, text: bytes, message: str) -> None:
    make_run(tmp_path / "run")
    (tmp_path / "run" / name).write_bytes(text)
    with pytest.raises(FileError, match=message) as error:
        write_report(tmp_path / "run", tmp_path / "report.html")
    assert "\n" not in str(error.value)


def test_what_json_cannot_hold_is_null(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    (tmp_path / "run" / "config.toml").write_text("a = inf\nb = nan\nc = 2020-01-01\n")
    line = '{"evaluation": 1, "scale": 0, "terms": {"tv": NaN}, "loss": 1e999, "seconds": 0, '
    line += '"x": 1%s}\n'
    (tmp_path / "run" / "metrics.jsonl").write_text(line % ("0" * 400))
    _, data = report(tmp_path / "run")
    assert data["settings"] == {"a": None, "b": None, "c": "2020-01-01"}
    assert data["records"] == [
        {
            "evaluation": 1,
            "terms": {"tv": None},
            "scale": 0,
            "loss": None,
            "seconds": 0,
            "x": None,
        }
    ]


@pytest.mark.slow
def test_500_cells_are_a_page_that_can_be_sent(tmp_path: Path) -> None:
    make_grid(tmp_path / "grid", 10, 10, (1.0, 2.0, 3.0, 4.0, 5.0), losses=900, side=300)
    start = time.monotonic()
    page, data = report(tmp_path / "grid")
    assert len(data["cells"]) == 500
    assert len(page) < 15e6
    assert max(cell["picture"]["width"] for cell in data["cells"] if cell["picture"]) == 256
    assert time.monotonic() - start < 60  # a hang, not a slow machine
