"""Tests of archives that would unpack to too much."""

import zipfile

import pytest

from keras_ft.host.archives import check_archive, open_archive, read_document


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(100_000_000))
    with pytest.raises(zipfile.BadZipFile, match=r"bytes, and 100,000,000 when it is"):
        check_archive(tmp_path / "bomb.zip")


def test_a_large_document_is_not_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("small.json", "{}")
        archive.writestr("large.json", bytes(65_000_000))
    with open_archive(tmp_path / "a.zip") as archive:
        assert read_document(archive, "small.json") == b"{}"
        with pytest.raises(zipfile.BadZipFile, match="large.json in it has 65,000,000"):
            read_document(archive, "large.json")


def test_an_archive_of_very_many_files_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for i in range(10_001):
            archive.writestr(str(i), b"")
    with pytest.raises(zipfile.BadZipFile, match="archive of 10,001 files"):
        check_archive(tmp_path / "a.zip")


@pytest.mark.parametrize(("position", "value"), [(6, 1), (8, 99)])
def test_entries_that_cannot_be_unpacked_are_damage(tmp_path, position, value):
    """They are encrypted, or packed by an unknown method."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"content")
    content = bytearray(path.read_bytes())
    directory = content.index(b"PK\x01\x02")
    content[position] = content[directory + position + 2] = value
    path.write_bytes(content)
    with pytest.raises(zipfile.BadZipFile), open_archive(path) as archive:
        archive.read("a")
