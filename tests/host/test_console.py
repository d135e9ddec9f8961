"""Tests of standard streams that are closed or have another encoding."""

import os
import subprocess
import sys

PRINT = """
import sys
from keras_ft.host import console
console.prepare_streams()
with open(sys.argv[1], "w") as stream:
    print("größe")
    print("warning", file=sys.stderr)
    stream.write("content")
"""


def test_output_to_closed_streams_is_discarded(tmp_path):
    def close() -> None:
        for number in range(3):
            os.close(number)

    path = tmp_path / "file"
    done = subprocess.run([sys.executable, "-c", PRINT, path], preexec_fn=close)

    assert done.returncode == 0
    assert path.read_text() == "content"  # no line of output went there


def test_characters_that_the_encoding_lacks_are_escaped(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    command = [sys.executable, "-c", PRINT, tmp_path / "file"]
    assert subprocess.check_output(command) == b"gr\\xf6\\xdfe\n"
