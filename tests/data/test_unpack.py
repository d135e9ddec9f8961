import pytest

from keras_ft.data.unpack import unpack_rows
from keras_ft.errors import UserError

IMAGES = [(b"first", "a"), (b"second", "b"), (b"third", "a")]


def unpack(folder):
    return unpack_rows("set", folder, lambda: iter(IMAGES), "val")


def test_images_become_numbered_files(tmp_path):
    folder = tmp_path / "cache" / "set"
    rows = unpack(folder)
    assert rows[1] == ("set/1", str(folder / "1"), "b", "val", "")
    assert [row.class_name for row in rows] == ["a", "b", "a"]
    for row, (content, _) in zip(rows, IMAGES, strict=True):
        with open(row.file, "rb") as stream:
            assert stream.read() == content


def test_unpacked_files_are_reused_and_a_missing_one_is_restored(tmp_path):
    unpack(tmp_path / "set")
    first = tmp_path / "set" / "0"
    created = first.stat().st_mtime_ns
    unpack(tmp_path / "set")
    assert first.stat().st_mtime_ns == created
    (tmp_path / "set" / "2").unlink()
    unpack(tmp_path / "set")
    assert (tmp_path / "set" / "2").read_bytes() == b"third"


def test_a_cache_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match="--cache_dir must be a folder"):
        unpack(tmp_path / "cache" / "set")
