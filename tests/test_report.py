"""Reports say what the folder says, and what is in it cannot do more than be shown."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pil

from jaxstyle.errors import ConfigError
from jaxstyle.report import write_report
from tests.conftest import pattern

ROWS = [
    {
        "evaluation": n,
        "scale": 0,
        "seconds": 0.1 * n,
        "compile_seconds": 1.25,
        "loss": None if n == 3 else 1e6 / (n + 1 / 3),
        "terms": {"content": 0.1 * n, "style/relu1_1": 2.0 / n, "tv": 0.3},
        "gradient_norm": 1.0,
        "step_size": 0.5,
        "accepted": n != 4,
        "evaluations_per_second": 10.0,
        "memory_bytes": None,
    }
    for n in range(1, 9)
]


def make_run(folder: Path, content: str = "photo.jpg") -> Path:
    for part in ("inputs", "snapshots"):
        (folder / part).mkdir(parents=True)
    run = {"content": content, "style": ["s.jpg"], "sha256": {"content": ["00"]}}
    table = "\n".join(f"{key} = {json.dumps(value)}" for key, value in run.items() if key[1] != "h")
    text = f"size = 64\nstyle_weight = 10.0\n[run]\n{table}\n[run.sha256]\ncontent = ['00']\n"
    (folder / "config.toml").write_text(text)
    lines = [json.dumps(row) + "\n" for row in ROWS]
    (folder / "metrics.jsonl").write_text("".join(lines))
    for name in ("inputs/content.jpg", "inputs/style-1.jpg", "snapshots/000004.png", "image.png"):
        Pil.fromarray(pattern(48, 64, len(name))).save(folder / name)
    last = ROWS[-1]
    summary = {"reason": "budget", "evaluations": 8, "rejected": 1, "seconds": 0.8, "device": "cpu"}
    result = {**summary, "loss": last["loss"], "terms": last["terms"], "compile_seconds": 1.25}
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def make_grid(folder: Path, cells: int) -> Path:
    (folder / "cells").mkdir(parents=True)
    rows = []
    for n in range(cells):
        Pil.fromarray(np.roll(pattern(96, 128, n % 7), n)).save(folder / f"cells/{n}.png")
        row = {
            "cell": f"cell-{n}",
            "content": f"photos/{n % 10}.jpg",
            "styles": [f"art/{n // 10 % 10}.jpg"],
            "config": {"size": 128, "style_weight": 10.0 ** (n // 100)},
            "status": "done",
            "image": f"cells/{n}.png",
            "loss": 1 / (n + 1),
            "terms": {"content": 1.0},
            "evaluations": 900,
            "ended_by": "budget",
            "seconds": 1.5,
            "compile_seconds": 0.0,
            "losses": [1 / (k + n + 1) for k in range(900)],
        }
        rows.append(row)
    rows[0] = {**rows[0], "status": "failed", "reason": "out of memory", "image": None}
    (folder / "grid.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def page_of(source: Path) -> str:
    output = source.parent / f"{source.name}.html"
    write_report(source, output)
    return output.read_text(encoding="utf-8")


def data_in(page: str) -> Any:
    match = re.search(r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert match
    return json.loads(match[1])


def test_a_report_has_the_numbers_of_the_metrics(tmp_path: Path) -> None:
    data = data_in(page_of(make_run(tmp_path / "run")))
    assert data["records"] == ROWS
    assert data["result"]["loss"] == ROWS[-1]["loss"]
    assert data["settings"] == {"size": 64, "style_weight": 10.0}
    assert [len(data["styles"]), len(data["snapshots"])] == [1, 1]
    assert data["image"]["src"].startswith("data:image/webp;base64,")


def test_a_run_under_way_is_shown(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    (folder / "result.json").unlink()
    (folder / "image.png").unlink()
    with (folder / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"evaluation": 9, "lo')
    data = data_in(page_of(folder))
    assert data["result"] is None
    assert data["records"] == ROWS
    assert data["image_file"] == "snapshots/000004.png"


def test_nothing_is_loaded_and_nothing_escapes(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "run", content="</script><script>alert(1)</script>"))
    assert page.count("</script>") == page_of(make_run(tmp_path / "plain")).count("</script>")
    assert "<script>alert" not in page
    assert "</script>" in data_in(page)["inputs"]["content"]
    assert "Content-Security-Policy" in page
    assert not re.search(r'(src|href)="?https?:', page)


def test_pictures_elsewhere_are_not_read(tmp_path: Path) -> None:
    folder = make_grid(tmp_path / "grid", 4)
    Pil.fromarray(pattern(20, 20, 0)).save(tmp_path / "secret.png")
    (folder / "cells" / "link.png").symlink_to(tmp_path / "secret.png")
    rows = [json.loads(line) for line in (folder / "grid.jsonl").read_text().splitlines()]
    names = ["../secret.png", str(tmp_path / "secret.png"), "cells/link.png", "cells/none.png"]
    for row, name in zip(rows, names, strict=True):
        row["image"] = name
    (folder / "grid.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [cell["picture"] for cell in data_in(page_of(folder))["cells"]] == [None] * 4


def test_five_hundred_cells_fit(tmp_path: Path) -> None:
    page = page_of(make_grid(tmp_path / "grid", 500))
    data = data_in(page)
    assert len(data["cells"]) == 500
    assert data["differing"] == ["style_weight"]
    assert data["settings"] == {"size": 128}
    assert len(data["cells"][7]["losses"]) == 400
    assert data["cells"][7]["losses"][0] == float(f"{1 / 8:.6g}")
    assert len(page) < 15e6


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        write_report(tmp_path / "none", tmp_path / "a.html")
    with pytest.raises(ConfigError, match="neither a run's folder"):
        write_report(tmp_path, tmp_path / "a.html")
    folder = make_run(tmp_path / "run")
    (folder / "metrics.jsonl").write_text("nonsense\n" + json.dumps(ROWS[0]) + "\n")
    with pytest.raises(ConfigError, match=r"line 1: damaged"):
        write_report(folder, tmp_path / "a.html")
    assert not (tmp_path / "a.html").exists()
