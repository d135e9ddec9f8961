import os

import pytest

from keras_ft.errors import UserError
from keras_ft.host.resumable import resumable


def interrupt(path, content, made_by):
    with (
        pytest.raises(KeyError),
        resumable(path, made_by, restart=False) as stream,
    ):
        stream.write(content)
        raise KeyError


def test_a_file_goes_on_where_an_earlier_process_ended(tmp_path):
    path = tmp_path / "out"
    interrupt(path, b"one ", {"a": 1})
    assert not path.exists()
    with resumable(path, {"a": 1}, restart=False) as stream:
        assert stream.read() == b"one "
        stream.write(b"two")
    assert path.read_bytes() == b"one two"
    assert os.listdir(tmp_path) == ["out"]


def test_a_file_of_something_else_is_kept(tmp_path):
    path, part = tmp_path / "out", tmp_path / "out.part"
    interrupt(path, b"one ", {"a": 1})
    with pytest.raises(UserError, match="same model and flags"):
        resumable(path, {"a": 2}, restart=False).__enter__()
    assert part.read_bytes() == b"one "
    (tmp_path / "out.part.json").unlink()
    with pytest.raises(UserError, match="same model and flags"):
        resumable(path, {"a": 1}, restart=False).__enter__()
    assert part.read_bytes() == b"one "
    with resumable(path, {"a": 2}, restart=True) as stream:
        assert stream.read() == b""
    assert path.read_bytes() == b""


def test_two_processes_do_not_write_the_same_file(tmp_path):
    with resumable(tmp_path / "out", {}, restart=False) as stream:
        stream.write(b"mine")
        with pytest.raises(UserError, match="Another process writes"):
            resumable(tmp_path / "out", {}, restart=True).__enter__()
    assert (tmp_path / "out").read_bytes() == b"mine"


def test_a_mistake_leaves_no_file_behind(tmp_path):
    with pytest.raises(KeyError), resumable(tmp_path / "out", {}, restart=False):
        raise KeyError
    assert os.listdir(tmp_path) == []
