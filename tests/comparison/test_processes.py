import os
import signal
import subprocess
import sys
import time

import pytest
from helpers import ROOT

from keras_ft.comparison.processes import train_in_process
from keras_ft.config.settings import Config
from keras_ft.errors import UserError

PYTHON = sys.executable


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Trains with a shell script in place of Python; returns how it ended."""

    def call(script, **flags):
        python = write_script(tmp_path / "python", script)
        monkeypatch.setattr(sys, "executable", str(python))
        config = Config(data="photos", workdir=str(tmp_path / "runs" / "a"), **flags)
        return train_in_process(config, tmp_path / "runs" / "a.log")

    return call


def write_script(path, script):
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_the_program_receives_the_flags_and_the_import_path(
    train, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(tmp_path / "importable")
    train('echo "$@"; echo $PYTHONPATH', dropout=0.5, weights=("a,b.h5", "starter"))
    *program, arguments, path = (tmp_path / "runs" / "a.log").read_text().splitlines()
    assert program[0].startswith("-P -c")
    assert "from keras_ft import cli" in program
    assert arguments.startswith(f" {os.getpid()} --")
    assert f" --workdir={tmp_path}/runs/a" in arguments
    assert " --dropout=0.5 " in arguments
    assert ' --weights="a,b.h5",starter ' in arguments
    assert str(tmp_path / "importable") in path.split(os.pathsep)


def test_the_output_is_appended_to_the_log_and_the_error_is_the_new_one(
    train, tmp_path
):
    first = train("echo starts; echo 'keras_ft: too much dropout.'; exit 1")
    assert first == "too much dropout."
    second = train("printf '50 %%\\rkeras_ft: no memory.\\n' >&2; echo ends; exit 1")
    assert second == "no memory."
    assert train("echo starts; echo crashes; exit 1") == "crashes"
    assert train("exit 7") == "exit status 7"
    log = (tmp_path / "runs" / "a.log").read_bytes()
    assert log == (
        b"starts\nkeras_ft: too much dropout.\n50 %\rkeras_ft: no memory.\nends\n"
        b"starts\ncrashes\n"
    )


def test_a_killed_process_does_not_end_this_one(train):
    killed = train("echo starts; kill -KILL $$")
    assert killed == "ended by SIGKILL, perhaps because the memory was full"
    assert train("echo starts; kill -SEGV $$") == "ended by SIGSEGV"


def test_a_user_error_of_the_program_is_returned(tmp_path):
    config = Config(data="/nowhere/photos", workdir=str(tmp_path / "a"))
    log = tmp_path / "a.log"
    error = train_in_process(config, log)
    assert "/nowhere/photos" in error
    assert log.read_text() == f"keras_ft: {error}\n"


def test_a_log_that_cannot_be_written_is_a_user_error(train, tmp_path):
    (tmp_path / "runs").touch()
    with pytest.raises(UserError, match="--workdir must be a folder that can be"):
        train("exit 0")


def test_a_signal_ends_the_process_too(tmp_path):
    pid_file = tmp_path / "pid"
    # The name is there only when the number is in it.
    sleep = f"echo $$ > {pid_file}.new; mv {pid_file}.new {pid_file}; exec sleep 60"
    python = write_script(tmp_path / "python", sleep)
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from keras_ft.comparison.processes import train_in_process\n"
        "from keras_ft.config.settings import Config\n"
        "from keras_ft.host.signals import stoppable\n"
        f"sys.executable = {str(python)!r}\n"
        "with stoppable():\n"
        f"    config = Config(data='photos', workdir={str(tmp_path / 'a')!r})\n"
        f"    train_in_process(config, Path({str(tmp_path / 'a.log')!r}))\n"
    )
    process = subprocess.Popen(
        [PYTHON, "-c", script], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    while not pid_file.exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "The same command" in err
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)
