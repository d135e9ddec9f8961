import os
import socket

import pytest

from keras_ft.host import files


def test_a_folder_is_removed_unless_it_is_renamed(tmp_path):
    with files.partial_folder(tmp_path) as folder:
        (folder / "a").touch()
    assert list(tmp_path.iterdir()) == []
    with files.partial_folder(tmp_path) as folder:
        (folder / "a").touch()
        folder.rename(tmp_path / "whole")
    assert [path.name for path in tmp_path.rglob("*")] == ["whole", "a"]


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
    assert files.read_json(path) == {"a": 1}

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
