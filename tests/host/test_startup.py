"""How the program starts where little memory is left."""

import subprocess
import sys

import pytest
from helpers import ROOT

from keras_ft.errors import UserError
from keras_ft.host.startup import import_tensorflow


def test_a_limit_that_is_too_low_is_one_line():
    command = f"ulimit -v 1000000; {sys.executable} run.py --help"
    ended = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("keras_ft: TensorFlow needs 2,500,000,000 bytes")
    assert "Received: 1,024,000,000; raise the limit" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ImportError("libx.so: failed to map segment from shared object"),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("can't start new thread"),
    ],
)
def test_too_little_memory_for_tensorflow_is_a_user_error(error, monkeypatch):
    class Finder:
        def find_spec(self, name, *_):
            raise error

    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder()])
    with pytest.raises(UserError, match="not enough memory to start TensorFlow"):
        import_tensorflow()
