"""Reports in headless Chromium, from disk and with no network.

`apt install chromium; pip install '.[test,browser]'; pytest -m browser`
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jaxstyle.report import write_report
from tests.test_report import make_grid, make_run

pytestmark = pytest.mark.browser


@pytest.fixture
def page() -> Iterator[Any]:
    """A page that may load nothing but files, and on which no script fails."""
    from playwright.sync_api import sync_playwright

    problems: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        context = browser.new_context(viewport={"width": 1100, "height": 800})
        context.set_offline(True)
        opened = context.new_page()
        opened.on("pageerror", lambda error: problems.append(str(error)))
        opened.on("console", lambda message: problems.append(message.text))
        opened.on(
            "request",
            lambda request: (
                None if request.url.startswith(("file:", "data:")) else problems.append(request.url)
            ),
        )
        yield opened
        browser.close()
    assert problems == []


def test_a_run(page: Any, tmp_path: Path) -> None:
    write_report(make_run(tmp_path / "run"), tmp_path / "run.html")
    page.goto(f"file://{tmp_path}/run.html")
    slider = page.locator("input[type=range]")
    slider.focus()
    before = page.screenshot()
    page.keyboard.press("Home")
    assert slider.input_value() == "0"
    assert page.screenshot() != before
    assert (
        page.locator("td", has_text="style_weight")
        .or_(page.locator("th", has_text="style_weight"))
        .count()
    )
    assert "[object" not in page.locator("body").inner_text()
    page.get_by_text("Seconds", exact=True).click()
    assert page.locator("svg path, svg polyline").count() >= 4


def test_a_grid_of_five_hundred(page: Any, tmp_path: Path) -> None:
    write_report(make_grid(tmp_path / "grid", 500), tmp_path / "grid.html")
    page.goto(f"file://{tmp_path}/grid.html")
    assert page.locator("img").count() >= 499
    selects = page.locator("select")
    selects.nth(0).select_option(index=1)
    assert page.locator("img").count() == 49  # of 50, one failed
    page.locator("img").nth(3).click()
    dialog = page.locator("dialog[open]")
    assert dialog.count() == 1
    first = dialog.inner_text()
    assert "style_weight" in first
    assert "[object" not in first
    page.keyboard.press("ArrowRight")
    assert dialog.inner_text() != first
    page.keyboard.press("Escape")
    assert dialog.count() == 0
