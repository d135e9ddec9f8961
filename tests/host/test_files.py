import pytest

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
