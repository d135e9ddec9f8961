import errno
import os
import socket
import tempfile

import pytest

from keras_ft.errors import UserError
from keras_ft.host import files
from keras_ft.host.typed_json import read_json


def test_a_folder_is_removed_unless_it_is_renamed(tmp_path):
    with files.partial_folder(tmp_path) as folder:
        (folder / "a").touch()
    assert list(tmp_path.iterdir()) == []
    with files.partial_folder(tmp_path) as folder:
        (folder / "a").touch()
        folder.rename(tmp_path / "whole")
    assert [path.name for path in tmp_path.rglob("*")] == ["whole", "a"]


def test_a_folder_is_discarded_with_its_content(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    files.discard(tmp_path / "a")
    files.discard(tmp_path / "a")  # another process may have been faster
    assert list(tmp_path.iterdir()) == []


def test_temporary_files_lie_in_a_folder_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with files.own_temporary_files():
        with tempfile.NamedTemporaryFile(delete=False) as stream:
            pass
        [own] = tmp_path.iterdir()
        assert os.path.dirname(stream.name) == str(own)
        assert own in files._partial  # a signal that ends the program removes it
    assert tempfile.gettempdir() == str(tmp_path)
    files.remove_partial()
    assert list(tmp_path.iterdir()) == []

    with files.own_temporary_files():
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_machine_without_room_for_temporary_files_is_one_line(monkeypatch):
    def find_none():
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", find_none)
    with (
        pytest.raises(UserError, match="TMPDIR must name .* No usable temporary"),
        files.own_temporary_files(),
    ):
        pass
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert files.default_cache_dir() == "~/.cache/keras_ft"


def test_the_cache_is_temporary_without_a_home(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    assert files.default_cache_dir() == "~/.cache/keras_ft"

    monkeypatch.setattr(os, "access", lambda path, _: path != str(tmp_path))
    assert files.default_cache_dir() == f"/tmp/keras_ft-{os.getuid()}"


def test_a_full_disk_is_explained_wherever_it_was_noticed():
    full = OSError(errno.ENOSPC, "No space left on device", "/tmp/x")
    try:
        try:
            raise full
        except OSError:
            raise ValueError("unrelated")  # noqa: B904
    except ValueError as error:
        explained = files.explain_full_disk(error)
    assert explained.startswith(
        "There is no room left: [Errno 28] No space left on device: '"
    )
    assert "TMPDIR" in explained
    of_tensorflow = RuntimeError("run/x; No space left on device\nmore lines")
    assert "run/x; No space left on device. Make" in files.explain_full_disk(
        of_tensorflow
    )
    assert files.explain_full_disk(OSError(errno.EACCES, "denied")) is None


def test_an_exception_removes_what_is_being_written(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with (
        pytest.raises(KeyError),
        files.partial_folder(tmp_path) as folder,
        files.replacing(tmp_path / "a.txt") as file,
    ):
        (folder / "a").touch()
        file.write_text("new")
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"
    assert files._partial == set()


def test_a_file_is_replaced_at_the_end_of_the_block(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with files.replacing(tmp_path / "a.txt") as file:
        file.write_text("new")
        assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "new"


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        files.write_json(path, {"a": object()})
    assert read_json(path) == {"a": 1}

    def broken_rows():
        yield ["a"]
        raise OSError

    files.write_csv(tmp_path / "x.csv", [["whole"]])
    with pytest.raises(OSError):
        files.write_csv(tmp_path / "x.csv", broken_rows())
    assert (tmp_path / "x.csv").read_text().strip() == "whole"


@pytest.mark.parametrize("through_link", [False, True])
def test_only_regular_files_are_opened(tmp_path, through_link):
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(tmp_path / "socket"))
    (tmp_path / "file").write_bytes(b"content")
    for target in (tmp_path / "fifo", tmp_path / "socket", "/dev/zero", tmp_path):
        path = target
        if through_link:
            path = tmp_path / "link"
            path.symlink_to(target)
        with pytest.raises(OSError, match="not a regular file"):
            files.read_bytes(path)
        if through_link:
            path.unlink()
    assert files.read_bytes(tmp_path / "file") == b"content"
