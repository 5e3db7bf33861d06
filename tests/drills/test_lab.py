"""`make lab` in a real browser: the first notebooks run by "Run All Cells", and a price published from one of them is what the
running gateway charges within a second.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import openai
import pandas as pd
import pytest
from playwright.sync_api import Page

from tests.dashboard.browsers import chromium
from tests.gateway.test_demo import Demo, start_demo
from tests.notebooks.sandbox import NOTEBOOKS
from tests.rig import ROOT
from tests.servers import free_port

pytestmark = [pytest.mark.drill, pytest.mark.alone]

MODEL = "deepseek-chat"
TOKEN = "the-token-of-the-drill"
_SHELL = "window.jupyterapp.shell.currentWidget"


@contextlib.contextmanager
def lab(folder: Path, database_url: str) -> Iterator[str]:
    """The address of JupyterLab on copies of the notebooks; nothing of the person's own configuration is used."""
    shutil.copytree(NOTEBOOKS, folder / "notebooks", ignore=shutil.ignore_patterns(".*"))
    port, log = free_port(), folder / "lab.log"
    options = (
        f"--no-browser --allow-root --port {port} --IdentityProvider.token={TOKEN} --LabApp.expose_app_in_browser=True"
    )
    told = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "OPS_", "JUPYTER"))},
        **{f"JUPYTER_{kind}_DIR": str(folder / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")},
        "GATEWAY_DATABASE_URL": database_url,
        "OPS_OPERATOR": "olga",
        "PYTHONPATH": str(ROOT),
    }
    # The packages are there, or this drill would not run: nothing is installed for it.
    command = ["make", "--old-file=.venv/.lab-installed", "lab", f"NOTEBOOKS={folder / 'notebooks'}", f"ARGS={options}"]
    with log.open("wb") as output:
        running = subprocess.Popen(command, cwd=ROOT, env=told, stdout=output, stderr=output, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 30
        while running.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/api?token={TOKEN}", timeout=2):
                break
            time.sleep(0.1)
        else:
            raise AssertionError("JupyterLab did not start: " + log.read_text()[-3_000:])
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGTERM)
        running.wait(20)


def open_notebook(page: Page, url: str, name: str) -> None:
    page.goto(f"{url}/lab/tree/{name}?token={TOKEN}&reset")
    page.wait_for_function(
        f"() => window.jupyterapp && {_SHELL}?.context?.path === '{name}'"
        f" && {_SHELL}.sessionContext.session?.kernel?.status === 'idle'",
        timeout=30_000,
    )


def run_all(page: Page) -> None:
    """By the menu, as a person does; returns when the last cell has its number. Fails where a cell ended with an error."""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name=re.compile("^Run All Cells")).click()
    cells = f"{_SHELL}.content.model.sharedModel.cells.filter(cell => cell.cell_type === 'code')"
    page.wait_for_function(
        f"() => {cells}.every(cell => cell.execution_count !== null) || {cells}.some(cell => cell.outputs.some("
        "output => output.output_type === 'error'))",
        timeout=60_000,
    )
    errors = page.evaluate(
        f"() => {cells}.flatMap(c => c.outputs).filter(o => o.output_type === 'error').map(o => o.evalue)"
    )
    assert errors == []


def rewrite(page: Page, *changes: tuple[str, str]) -> None:
    """The cell of parameters, typed anew by keyboard."""
    cell = page.locator(".jp-CodeCell .cm-content").filter(has_text="publish = False").first
    text = page.evaluate(
        f"() => {_SHELL}.content.model.sharedModel.cells.find(c => c.source.includes('publish = False')).source"
    )
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    cell.click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(text)


@contextlib.contextmanager
def customers(demo: Demo) -> Iterator[None]:
    """Somebody calls the model again and again meanwhile, and has been served once before."""
    served, done, troubles = threading.Event(), threading.Event(), list[BaseException]()

    def call() -> None:
        client = openai.OpenAI(base_url=demo.base_url, api_key=demo.key, max_retries=0)
        try:
            while not done.wait(0.15):
                client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hi"}], max_tokens=3)
                served.set()
        except BaseException as error:
            troubles.append(error)
            served.set()

    thread = threading.Thread(target=call)
    thread.start()
    try:
        assert served.wait(30)
        yield
        time.sleep(2)  # What is charged from a second on after the publication has to happen first.
    finally:
        done.set()
        thread.join()
    assert troubles == []


def test_a_price_published_in_the_lab_is_charged_within_a_second(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    database_url = f"sqlite://{folder / 'var' / 'gateway.db'}"
    with start_demo(folder) as demo, lab(tmp_path, database_url) as url, chromium() as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        open_notebook(page, url, "00_start_here.ipynb")
        run_all(page)
        page.screenshot(path=tmp_path / "00.png")
        before = demo.desk.catalog.prices().set_index("model").loc[MODEL]
        open_notebook(page, url, "01_catalog_and_prices.ipynb")
        run_all(page)
        assert demo.desk.catalog.prices().set_index("model").loc[MODEL, "price_version"] == before["price_version"]
        rewrite(
            page,
            ("model = None  # the alias whose", f'model = "{MODEL}"  # the alias whose'),
            ('change = "-5%"', 'change = "+10%"'),
            ("replaces = None", f"replaces = {before['price_version']}"),
            ("reason = None", 'reason = "costs rose"'),
            ("publish = False", "publish = True"),
        )
        page.evaluate(f"() => {_SHELL}.content.model.sharedModel.cells.forEach(c => {{ c.execution_count = null }})")
        with customers(demo):
            run_all(page)
        page.screenshot(path=tmp_path / "01.png")
        after = demo.desk.catalog.prices().set_index("model").loc[MODEL]
        assert (after["input_usd"], after["operator"]) == (before["input_usd"] * 11 / 10, "olga")
        records = demo.desk.usage.records()
        late = records[records["at"] > after["published_at"] + pd.Timedelta(seconds=1)]
        assert len(late) > 0
        assert set(late["price_version"]) == {after["price_version"]}
        assert before["price_version"] in set(records["price_version"])
        assert demo.desk.reconcile()["ok"].all()
