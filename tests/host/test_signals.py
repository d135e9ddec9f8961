import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT

from keras_ft.host import signals

PROGRAM = """
import os, signal, subprocess, sys
from pathlib import Path
from keras_ft.host import files
from keras_ft.host import signals

class Ended:
    def __del__(self):
        # No exception comes out of here, as none may cross TensorFlow's C++ code.
        signal.raise_signal(int(sys.argv[2]))

def stop_while_writing():
    with (
        files.partial_folder(Path(".")) as folder,
        files.replacing(Path("a.txt")) as file,
    ):
        (folder / "in_folder").touch()
        file.touch()
        print(len(os.listdir()), flush=True)
        try:
            Ended()
        finally:
            print("still running", flush=True)

os.chdir(sys.argv[1])
with signals.stoppable():
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # as TensorFlow is imported
    if sys.argv[3:]:
        command = [sys.executable, "-c", sys.argv[3]]
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
        child.stdout.readline()  # it is ready
        print(child.pid, flush=True)
        with signals.child_process(child):
            stop_while_writing()
    stop_while_writing()
"""
CHILD = """
import os, signal, time
def stop(*_):
    {when_stopped}
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
while True:
    time.sleep(1)
"""


def run(folder, number, *child):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), str(int(number)), *child],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("name, status", [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_ends_the_program_and_removes_unfinished_files(name, status, tmp_path):
    ended = run(tmp_path, signal.Signals[name])
    assert ended.returncode == status
    assert ended.stdout == "2\n"
    assert ended.stderr == (
        f"\nkeras_ft: stopped by {name}. The same command resumes from here.\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_signal_ends_the_child_process_first(tmp_path):
    child = CHILD.format(when_stopped='open("ended", "w").close(); os._exit(0)')
    ended = run(tmp_path, signal.SIGTERM, child)
    assert ended.returncode == 143
    assert [path.name for path in tmp_path.iterdir()] == ["ended"]
    pid = int(ended.stdout.splitlines()[0])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_second_signal_ends_the_program_at_once(tmp_path):
    child = CHILD.format(when_stopped="os.kill(os.getppid(), 15); os._exit(0)")
    ended = run(tmp_path, signal.SIGTERM, child)
    assert ended.returncode == 143
    assert ended.stderr.count("keras_ft: stopped by SIGTERM.") == 1


def test_an_exception_ends_the_child_process():
    process = subprocess.Popen(["sleep", "60"])
    with pytest.raises(KeyError), signals.child_process(process):
        raise KeyError
    assert process.returncode == -signal.SIGTERM
    assert signals._children == []


def test_handlers_are_restored():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with signals.stoppable():
        assert signal.getsignal(signal.SIGTERM) not in before
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_process_ends_with_a_parent_that_is_killed():
    child = (
        "import sys, time; from keras_ft.system import signals\n"
        "signals.end_with_parent(int(sys.argv[1])); print('ready', flush=True)\n"
        "time.sleep(60)"
    )
    parent = (
        "import os, subprocess, sys\n"
        f"command = [sys.executable, '-c', {child!r}, str(os.getpid())]\n"
        "process = subprocess.Popen(command, stdout=subprocess.PIPE)\n"
        "process.stdout.readline()\n"
        "print(process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", parent], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL
    assert has_ended(int(done.stdout))


def test_a_process_whose_parent_is_gone_already_ends():
    script = "from keras_ft.host import signals; signals.end_with_parent(1)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT)
    assert done.returncode == -signal.SIGTERM


def test_handlers_that_a_library_replaces_are_put_back():
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    with signals.handlers_kept():
        for number in numbers:
            signal.signal(number, lambda *_: None)
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.mark.parametrize("module", ["numpy", "tensorflow"])
def test_ctrl_c_ends_the_program_in_one_line_while_it_starts(module, image_folder):
    script = f"""
import runpy, signal, sys

class Finder:
    def find_spec(self, name, *_):
        if name == "{module}":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Finder())
sys.argv = ["run.py", "--mode=check", "--data={image_folder}", "--output=x.csv"]
runpy.run_path("run.py", run_name="__main__")
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 130
    assert re.fullmatch(r"\nkeras_ft: stopped by SIGINT\..*\n", ended.stderr)
    assert ended.stdout == ""


def has_ended(pid, seconds=30.0):
    """Whether a process ends in time. One without a parent may remain as a zombie."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False
