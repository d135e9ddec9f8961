"""The server as a process: command line, signals, a browser."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import types
import urllib.request

import pytest
from helpers import ROOT

from keras_ft import cli
from keras_ft.config.settings import Config
from keras_ft.errors import UserError
from keras_ft.extras.server import serve

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def address(finished_run):
    """The address of a server, which is stopped by SIGTERM at the end."""
    pytest.importorskip("uvicorn", reason="needs the extra serve")
    pytest.importorskip("starlette", reason="needs the extra serve")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "keras_ft", "--mode=serve", "--port=0"),
            f"--model={finished_run.run.workdir}",
        ],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    log = []
    for line in process.stderr:
        log.append(line)
        if found := re.search(r"Listens on (http\S+)\. ", line):
            yield found[1]
            break
    process.send_signal(signal.SIGTERM)
    log.append(process.communicate(timeout=60)[1])
    assert process.returncode == 0, log
    assert len("".join(log).splitlines()) == 2, log  # the model, and the address


def test_it_answers_from_the_start(address):
    with urllib.request.urlopen(f"{address}/health") as response:
        assert json.load(response) == {"status": "ok"}
    with urllib.request.urlopen(f"{address}/v1/models") as response:
        assert json.load(response) == {"models": ["run"]}


@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
def test_a_browser_shows_the_answer_for_an_image(address, finished_run, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    folder = f"{finished_run.data.data}/red"
    (tmp_path / "not_an_image.jpg").write_bytes(b"nothing")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"]
        )
        page = browser.new_page()
        problems = []
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(address)
        playwright.expect(page.locator("#answer")).to_be_hidden()
        page.set_input_files("#file", f"{folder}/0.png")
        playwright.expect(page.locator("#answer")).to_be_visible()
        rows = page.locator(".class")
        playwright.expect(rows).to_have_count(3)
        playwright.expect(rows.first).to_contain_text(re.compile(r"^\w+[\d.]+ %$"))
        assert page.locator("#image").evaluate("image => image.naturalWidth") == 20
        assert problems == []
        page.set_input_files("#file", tmp_path / "not_an_image.jpg")
        status = page.locator("#status")
        playwright.expect(status).to_contain_text("Image 0: not a readable")
        playwright.expect(page.locator("#answer")).to_be_hidden()
        drop(page, f"{folder}/1.png")
        playwright.expect(page.locator("#answer")).to_be_visible()
        playwright.expect(status).to_be_empty()
        browser.close()


def drop(page, file):
    """Drops a file on the page."""
    with open(file, "rb") as stream:
        content = list(stream.read())
    transfer = page.evaluate_handle(
        """content => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(content)], "x.png"));
            return transfer;
        }""",
        content,
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})


def test_a_port_in_use_is_one_line_before_anything_is_loaded(finished_run, monkeypatch):
    monkeypatch.setattr(serve, "_PACKAGES", ())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = Config(mode="serve", model=finished_run.run.workdir, port=port)
        with pytest.raises(UserError, match=f"that is free. Received: .*:{port}, "):
            serve.serve(config)


def test_a_server_that_is_stopped_ends_in_time(monkeypatch):
    """Also if a request takes longer, inside TensorFlow."""
    monkeypatch.setattr(serve, "_SECONDS_TO_END", 0.0)
    statuses = []
    monkeypatch.setattr(serve.os, "_exit", statuses.append)
    server, has_ended = types.SimpleNamespace(should_exit=False), threading.Event()
    watcher = threading.Thread(target=serve._end_in_time, args=[server, has_ended])
    watcher.start()
    assert statuses == []
    server.should_exit = True
    watcher.join(10)
    assert statuses == [0]
    has_ended.set()
    serve._end_in_time(server, has_ended)
    assert statuses == [0]


def test_a_missing_package_is_one_line(finished_run, capsys, monkeypatch):
    monkeypatch.setattr(serve, "_PACKAGES", ("uvicorn_is_missing",))
    model = f"--model={finished_run.run.workdir}"
    assert cli.main(["keras_ft", "--mode=serve", model]) == 1
    error = capsys.readouterr().err
    assert "pip install 'keras_ft[serve]'" in error


def test_a_model_is_needed(capsys):
    assert cli.main(["keras_ft", "--mode=serve"]) == 1
    assert "--mode=serve needs --model" in capsys.readouterr().err
