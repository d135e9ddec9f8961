import pytest
from image_helpers import FILES, damaged_jpegs

from keras_ft.images.damage import find_damaged

GOOD = [content for content, *_ in FILES.values()]


@pytest.mark.parametrize("where", [(0, 1), (1, 70), (64, 99), (98, 99)])
def test_damaged_files_are_found_among_others(where, capfd):
    damaged = damaged_jpegs()
    files = (GOOD * 7)[:98]
    files[50] = FILES["jpeg"][0][:-200]  # it can't be decoded: another finding
    for index, content in zip(where, damaged, strict=True):
        files.insert(index, content)
    found = dict(find_damaged(files, lambda file: file))
    assert tuple(found) == where
    for line, end in zip(found.values(), damaged.values(), strict=True):
        assert line.startswith("Corrupt JPEG data: ") and line.endswith(end)
    assert "Corrupt" not in capfd.readouterr().err


def test_files_that_are_gone_are_passed_over():
    def read(file):
        raise OSError

    assert list(find_damaged(["x"], read)) == []
    assert list(find_damaged([], read)) == []
