"""The documentation site builds without warnings, shows every public name and loads nothing."""

import functools
import http.server
import importlib
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import jaxstyle
from jaxstyle.cli.parsing import COMMANDS
from jaxstyle.config import SETTINGS
from tests.reporting.test_report_browser import ARGUMENTS

ROOT = Path(__file__).parents[1]
ROOMS = ("config", "engine", "imaging", "network", "objective", "optim", "reporting", "storage")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    command += ["--config-file", str(ROOT / "docs" / "mkdocs" / "mkdocs.yml")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return folder


def anchors(page: Path) -> set[str]:
    return set(re.findall(r'id="([^"]+)"', page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_class_and_function_is_in_the_reference(site: Path, room: str) -> None:
    package = importlib.import_module(f"jaxstyle.{room}")
    shown = anchors(site / "reference" / f"{room}.html")
    for name in package.__all__:
        found = getattr(package, name)
        if not (isinstance(found, type) or hasattr(found, "__code__")):
            continue
        at_top = getattr(jaxstyle, name, None) is found
        assert (f"jaxstyle.{name}" if at_top else f"jaxstyle.{room}.{name}") in shown


def test_every_name_of_the_package_itself_is_there(site: Path) -> None:
    pages = [site / "reference" / f"{room}.html" for room in ROOMS]
    shown = set().union(*map(anchors, pages))
    assert not [name for name in jaxstyle.__all__ if f"jaxstyle.{name}" not in shown]
    index = (site / "reference" / "index.html").read_text(encoding="utf-8")
    assert not [name for name in jaxstyle.__all__ if f"#jaxstyle.{name}" not in index]


def test_every_command_is_there(site: Path) -> None:
    shown = anchors(site / "reference" / "commands.html")
    assert not [name for name in COMMANDS if f"jaxstyle-{name}" not in shown]
    assert {"jaxstyle-weights-fetch", "jaxstyle-weights-path"} <= shown


def test_every_setting_has_its_values(site: Path) -> None:
    text = (site / "settings.html").read_text(encoding="utf-8").replace("&hellip;", "…")
    rows = dict(re.findall(r"<td><code>(\w+)</code></td>\s*<td><code>([^<]+)</code></td>", text))
    assert [*rows] == [*SETTINGS]
    assert rows["size"] == "N|original"
    assert rows["style_layers"] == "TEXT …"
    assert rows["style_blend"] == "statistics|loss"


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loading = re.findall(r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=\"?([^\" >]+)", text)
        assert loading
        assert not [address for address in loading if re.match(r"(https?:)?//", address)]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.mark.browser
def test_a_browser_finds_what_a_user_looks_for(site: Path) -> None:
    from playwright.sync_api import sync_playwright

    problems: list[str] = []
    handler = functools.partial(Quiet, directory=str(site))
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
        sync_playwright() as playwright,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = f"http://127.0.0.1:{server.server_port}/"
        path = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        page = browser.new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request", lambda request: request.url.startswith(here) or problems.append(request.url)
        )
        page.goto(f"{here}index.html")
        for words, title in {
            "flax module": "An objective, network or statistic of your own",
            "TPU pod": "TPU VMs and pods",
            "job array": "Slurm and other clusters",
            "mask region": "Options, and what they do",
            "preemption": "Runs that survive preemption",
        }.items():
            page.fill(".md-search__input", "")
            page.type(".md-search__input", words)
            page.locator(".md-search-result__item h1", has_text=title).first.wait_for()
        page.goto(f"{here}how_it_works.html")
        assert page.locator("math").count() > 5
        browser.close()
        server.shutdown()
    assert not problems
