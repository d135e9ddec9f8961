import fcntl
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from keras_ft.host import progress


@pytest.mark.parametrize(
    ("total", "line"),
    [
        (1000, "Work: 503 of 1000 images, 0.1 per second, 1:22:50 left."),
        (None, "Work: 503 images, 0.1 per second."),
    ],
)
def test_a_log_line_has_the_rate_and_the_time_left(monkeypatch, caplog, total, line):
    monkeypatch.setattr(progress, "SECONDS", 30.0)
    clock = iter([0.0, 10.0, 20.0, 30.0, 40.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    caplog.set_level("INFO")
    tracked = progress.track("abcd", "Work", total, "image", num_done=500)
    assert list(tracked) == ["a", "b", "c", "d"]
    assert caplog.messages == [line]


WORK = """
import logging, os, sys, time
from keras_ft.host import console, progress
progress.DELAY = 0.0
console.configure_logging()
bar = progress.make_bar("Work", 1000, "image", 500)
for i in range(2):
    time.sleep(0.2)
    bar.set_postfix_str("loss 0.4213, " + "x" * int(sys.argv[1]))
    bar.update(50)
    logging.getLogger("keras_ft").info("Line %d.", i)
try:
    with progress.bars_closed():
        raise ValueError
except ValueError:
    print("The error.", file=sys.stderr)
"""


def run_in_terminal(script: str, width: int, *arguments: str) -> str:
    """What a script writes on a terminal of some columns."""
    mine, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    command = [sys.executable, "-c", script, *arguments]
    with subprocess.Popen(command, stdout=terminal, stderr=terminal):
        os.close(terminal)
        written = b""
        while part := _read(mine):
            written += part
    os.close(mine)
    return written.decode().replace("\r\n", "\n")


def _read(mine: int) -> bytes:
    try:
        return os.read(mine, 4096)
    except OSError:  # the other side is closed
        return b""


@pytest.mark.parametrize("width", [80, 120])
def test_on_a_terminal_a_bar_fits_the_width_and_is_below_the_log(width):
    written = run_in_terminal(WORK, width, "0")
    bars = re.findall(r"Work: [^\r\n]*", written)
    assert "left, " in bars[-1] and "loss 0.4213" in bars[-1]
    assert {len(bar) for bar in bars if "|" in bar} == {width - 1}
    # Whatever a line was, what is seen of it at last.
    seen = [line.split("\r")[-1].rstrip() for line in written.split("\n")[:-1]]
    assert seen == ["Line 0.", "Line 1.", "The error."]


def test_a_bar_with_a_long_text_does_not_wrap():
    bars = re.findall(r"Work: [^\r\n]*", run_in_terminal(WORK, 80, "100"))
    assert max(map(len, bars)) == 79


def test_a_notebook_has_a_bar_too(monkeypatch, capsys):
    stream = type("OutStream", (), {"__module__": "ipykernel.iostream"})()
    stream.isatty, stream.write = lambda: False, sys.stderr.write
    stream.flush, stream.encoding = sys.stderr.flush, "utf-8"
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(progress, "DELAY", 0.0)
    assert list(progress.track("ab", "Work", 10, "image", 5)) == ["a", "b"]
    assert "Work:  50%|" in capsys.readouterr().err


def test_lines_are_shown_without_a_log_too(caplog, capsys):
    log = logging.getLogger("keras_ft")
    caplog.set_level("INFO", "keras_ft")
    progress.show("in the log")
    caplog.set_level("WARNING", log.name)
    progress.show("beside it")
    assert caplog.messages == ["in the log"]
    assert capsys.readouterr().err == "beside it\n"
