"""Reports in headless Chromium, from disk and with no network.

`apt install chromium; pip install '.[test,browser]'; pytest -m browser`
"""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jaxstyle.reporting.report import write_report
from tests.reporting.test_report import NAUGHTY, make_grid, make_run

pytestmark = pytest.mark.browser

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

Show = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = shutil.which("chromium")
        started = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Show]:
    """Opens the report of a folder; afterwards, nothing was loaded and nothing went wrong."""
    problems: list[str] = []
    contexts: list[Any] = []

    def open_report(source: Path, **options: Any) -> Any:
        output = tmp_path / f"{source.name}.html"
        write_report(source, output)
        options = {"viewport": {"width": 1280, "height": 900}} | options
        context = browser.new_context(**options)
        context.set_offline(True)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(dialog.message))

        def check(request: Any) -> None:
            if request.url != output.as_uri() and not request.url.startswith("data:"):
                problems.append(f"asked for {request.url}")

        page.on("request", check)
        page.goto(output.as_uri())
        return page

    yield open_report
    for context in contexts:
        context.close()
    assert not problems


def visible(page: Any) -> list[str]:
    """Names of the cells in the gallery, in its order."""
    return page.eval_on_selector_all(".cell", "cells => cells.map(cell => cell.dataset.cell)")


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_the_window(show: Show, tmp_path: Path, width: int, scheme: str) -> None:
    make_run(tmp_path / "run")
    make_grid(tmp_path / "grid")
    for name in ("run", "grid"):
        size = {"width": width, "height": 900}
        page = show(tmp_path / name, viewport=size, color_scheme=scheme)
        page.screenshot(path=tmp_path / f"{name}-{width}-{scheme}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        broken = "[...document.images].filter(i => i.complete && !i.naturalWidth).length"
        assert page.evaluate(broken) == 0
        assert "[object" not in page.inner_text("main")


def test_the_slider_moves_by_mouse_and_keyboard(show: Show, tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    page = show(tmp_path / "run")
    slider = page.locator(".compare input")
    shown = "getComputedStyle(document.querySelector('.before')).clipPath"
    assert page.evaluate(shown) == "inset(0px 50% 0px 0px)"
    slider.focus()
    page.keyboard.press("End")
    assert page.evaluate(shown) == "inset(0px 0% 0px 0px)"
    box = page.locator(".compare").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    assert abs(float(slider.input_value()) - 25) <= 1


def test_curves_read_out_toggle_and_change_their_axis(show: Show, tmp_path: Path) -> None:
    records = make_run(tmp_path / "run")
    page = show(tmp_path / "run")
    plot, legend = page.locator("#loss .plot"), page.locator("#loss .legend button")
    texts = legend.all_inner_texts()
    assert [text.split("\n")[0] for text in texts] == [
        "loss",
        "content",
        "style/relu1_1",
        "tv",
        "rejected",
    ]
    assert float(texts[0].split("\n")[1]) == pytest.approx(records[-1]["loss"], rel=1e-4)
    plot.focus()
    page.keyboard.press("Home")
    assert "evaluation 1 " in page.inner_text("#loss .readout")
    assert float(legend.nth(0).inner_text().split("\n")[1]) == pytest.approx(
        records[0]["loss"], rel=1e-4
    )
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    assert "evaluation 5 " in page.inner_text("#loss .readout")
    assert "rejected" in page.inner_text("#loss .readout")
    box = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 13, box["y"] + 100)
    assert "evaluation 20 " in page.inner_text("#loss .readout")
    assert "scale 2" in plot.text_content()
    curves = page.locator("#loss .plot .curve").count()
    legend.nth(1).click()
    assert legend.nth(1).get_attribute("aria-pressed") == "false"
    assert page.locator("#loss .plot .curve").count() == curves - 1
    # 5, 7 and 14 were rejected; their crosses are two strokes each.
    marks = page.locator("#loss .plot .cross")
    assert marks.get_attribute("d").count("M") == 3
    legend.nth(4).click()
    assert marks.count() == 0
    page.get_by_role("button", name="Seconds").click()
    assert "Seconds" in plot.text_content()


def test_an_unfinished_run_says_so(show: Show, tmp_path: Path) -> None:
    make_run(tmp_path / "run", finished=False)
    text = show(tmp_path / "run").inner_text("main")
    assert "not finished" in text
    assert "snapshots/00010.png" in text
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "metrics.jsonl").touch()
    (bare / "config.toml").write_text("size = 64\n")
    text = show(bare).inner_text("main")
    assert "has no picture yet" in text
    assert "No evaluations yet" in text


def test_text_from_files_stays_text(show: Show, tmp_path: Path) -> None:
    make_run(tmp_path / "run", content=NAUGHTY)
    text = NAUGHTY.replace("\u2028", "")
    change = {"content": NAUGHTY, "cell": NAUGHTY, "losses": "x", "loss": "y", "terms": ["z"]}
    make_grid(tmp_path / "grid", changes={0: change})
    assert text in show(tmp_path / "run").text_content("main").replace("\u2028", "")
    page = show(tmp_path / "grid")
    page.locator(".cell").first.click()
    assert text in page.text_content("dialog").replace("\u2028", "")
    assert page.evaluate("document.scripts.length") == 2


def test_filters_search_and_sort(show: Show, tmp_path: Path) -> None:
    rows = make_grid(tmp_path / "grid", 2, 3)
    names = [row["cell"] for row in rows]
    page = show(tmp_path / "grid")
    assert visible(page) == names
    assert page.locator(".sheet").count() == 0
    labels = page.locator(".tools label").all_inner_texts()
    assert [label.split("\n")[0] for label in labels] == [
        "search",
        "content",
        "style",
        "style_weight",
        "sort by",
        "hide failed",
    ]
    # One setting is left: contents down, styles across.
    page.select_option("select[name=style_weight]", label="10")
    assert visible(page) == names[6:]
    assert page.locator(".sheet thead th").all_inner_texts() == ["s0", "s1", "s2"]
    assert page.locator(".sheet tbody th").all_inner_texts() == ["c0", "c1"]
    page.screenshot(path=tmp_path / "sheet.png")
    page.check("input[name=hide]")
    assert visible(page) == names[6:-1]
    page.select_option("select[name=content]", label="c1")
    assert visible(page) == names[9:-1]
    assert "2 of 12 cells" in page.inner_text(".count")
    page.get_by_role("button", name="Reset").click()
    page.fill("input[name=search]", "C1.jpg  s2")
    assert visible(page) == [names[5], names[11]]
    page.fill("input[name=search]", "never finite")
    assert visible(page) == [names[-1]]
    page.fill("input[name=search]", "no such thing")
    assert visible(page) == []
    page.get_by_role("button", name="Reset").click()
    page.select_option("select[name=sort]", "seconds")
    assert visible(page) == names[::-1]  # the failed cell has its seconds too
    page.select_option("select[name=sort]", "loss")
    losses = {row["cell"]: row.get("loss", float("inf")) for row in rows}
    assert visible(page) == sorted(names, key=lambda name: (losses[name], names.index(name)))


def test_the_dialog_opens_turns_pages_and_closes(show: Show, tmp_path: Path) -> None:
    make_grid(tmp_path / "grid")
    page = show(tmp_path / "grid")
    dialog = page.locator("dialog")
    assert not dialog.is_visible()
    page.locator(".cell").nth(1).click()
    assert dialog.is_visible()
    text = dialog.inner_text()
    assert "c0 × s1" in text
    assert "2 of 8" in text
    assert dialog.locator(".differs").nth(1).inner_text().split() == ["style_weight", "1"]
    assert dialog.locator(".plot .curve").get_attribute("d").count("L") == 399
    assert dialog.locator("a").last.get_attribute("href") == "grid/cells/c0_s1_0001.png"
    page.screenshot(path=tmp_path / "dialog.png")
    page.keyboard.press("ArrowRight")
    assert "c1 × s0" in dialog.inner_text()
    for _ in range(9):  # and stays at the last
        page.keyboard.press("ArrowRight")
    assert "8 of 8" in dialog.inner_text()
    assert "Failed: the loss was never finite" in dialog.inner_text()
    page.get_by_role("button", name="Previous cell").click()
    assert "7 of 8" in dialog.inner_text()
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert page.evaluate("document.activeElement.dataset.cell") == "c1_s0_0006"
    page.keyboard.press("Enter")
    assert dialog.is_visible()
    page.get_by_role("button", name="Close").click()
    assert not dialog.is_visible()


def test_500_cells(show: Show, tmp_path: Path) -> None:
    make_grid(tmp_path / "grid", 10, 10, (1.0, 2.0, 3.0, 4.0, 5.0), losses=300, side=256)
    page = show(tmp_path / "grid")
    assert len(visible(page)) == 500
    last = page.locator(".cell").nth(498)
    last.scroll_into_view_if_needed()
    page.wait_for_function(
        "cell => cell.querySelector('img').naturalWidth", arg=last.element_handle()
    )
    page.screenshot(path=tmp_path / "many.png")
    page.select_option("select[name=style_weight]", label="3")
    assert page.locator(".sheet tbody tr").count() == 10
    last = page.locator(".cell").last
    last.click()
    assert re.search("100 of 100", page.inner_text("dialog"))
