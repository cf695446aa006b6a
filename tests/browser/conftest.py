"""A real Jupyter server on loopback and a headless Chromium in front of it; everything here skips without them.

The server shows a notebook in two pages, JupyterLab's and Notebook 7's.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / "build" / "screenshots"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WINDOW = {"width": 1280, "height": 800}
PAGES = {"lab": "lab/tree", "notebook": "notebooks"}  # of the server, JupyterLab's and Notebook 7's
SETTLE = 60_000  # milliseconds that anything may take on a busy machine


@pytest.fixture(scope="session")
def chromium():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if not program:
        pytest.skip("no Chromium on the PATH; install one, or name it in the variable CHROMIUM")
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def lab(chromium, tmp_path_factory):
    """(folder that the server shows, function from a notebook's name and a key of `PAGES` to its address)"""
    folder, settings = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("settings")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    places = {f"JUPYTER_{name}": str(settings / name) for name in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")}
    places |= {"JUPYTERLAB_SETTINGS_DIR": str(settings / "lab"), "JUPYTERLAB_WORKSPACES_DIR": str(settings / "spaces")}
    quiet = settings / "CONFIG_DIR" / "labconfig" / "page_config.json"
    quiet.parent.mkdir(parents=True)
    quiet.write_text(json.dumps({"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}))
    options = [
        f"--ServerApp.root_dir={folder}", f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--no-browser",
        "--ServerApp.ip=127.0.0.1", f"--IdentityProvider.token={token}", "--allow-root", "--expose-app-in-browser",
        "--JupyterNotebookApp.expose_app_in_browser=True",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.news_url=",
    ]  # fmt: skip
    with open(settings / "log", "wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options], env={**os.environ, **places}, stdout=log, stderr=log
        )
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + SETTLE / 1000
    while True:
        try:
            urllib.request.urlopen(f"{address}/api?token={token}")
            break
        except (urllib.error.URLError, ConnectionError):
            if server.poll() is not None or time.monotonic() > deadline:
                server.kill()
                pytest.fail(f"JupyterLab did not start: {(settings / 'log').read_text()[-2000:]}")
            time.sleep(0.2)
    yield folder, lambda name, page: f"{address}/{PAGES[page]}/{name}?reset&token={token}"
    server.send_signal(signal.SIGINT)
    server.send_signal(signal.SIGINT)  # the second one answers "really?"
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        server.kill()


@pytest.fixture(scope="module")
def open_notebook(chromium, lab):
    """open_notebook(file, kind="lab") -> a page of that kind that shows it, its kernel idle. Nothing may be asked of
    another machine."""
    folder, address = lab
    contexts, foreign = [], []

    def start(notebook: Path, kind: str = "lab"):
        if kind == "notebook":
            pytest.importorskip("notebook", reason="Notebook 7 is not installed")
        name = f"{notebook.stem}_{kind}.ipynb"  # a kernel of its own
        shutil.copy(notebook, folder / name)
        context = chromium.new_context(viewport=WINDOW, reduced_motion="reduce")
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(SETTLE)
        page.on("request", lambda request: foreign.append(request.url) if not local(request.url) else None)
        page.goto(address(name, kind))
        wait_until_idle(page)
        page.evaluate("window.jupyterapp.shell.collapseLeft()")
        page.evaluate("window.jupyterapp.shell.collapseRight()")
        return page

    yield start
    for context in contexts:
        if context.pages:  # not closed by the test
            context.pages[0].evaluate("window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
            context.close()
    assert foreign == [], "something was asked of another machine"


def run_all(page) -> None:
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")


def wait_until_idle(page) -> None:
    page.wait_for_function("window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'")


def scroll_to(page, selector: str) -> None:
    """Bring the output that holds this element into the middle."""
    page.evaluate(
        "(selector) => document.querySelector(selector).closest('.jp-OutputArea').scrollIntoView({block: 'center'})",
        selector,
    )
    page.wait_for_timeout(400)


def local(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "blob:", "data:"))


def set_theme(page, name: str) -> None:
    page.evaluate(f"window.jupyterapp.commands.execute('apputils:change-theme', {{theme: 'JupyterLab {name}'}})")
    page.wait_for_function(f"document.body.dataset.jpThemeName === 'JupyterLab {name}'")
    page.wait_for_timeout(400)  # its style sheet


def screenshot(target, name: str) -> Path:
    """Of a page or an element, into `SCREENSHOTS`."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    path = SCREENSHOTS / f"{name}.png"
    target.screenshot(path=path)
    return path
