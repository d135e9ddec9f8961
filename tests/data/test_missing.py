import pytest

from keras_ft.data.missing import explain_missing


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("https://a.b/1.png", "first: https://a.b/1.png; addresses are not read"),
        (r"C:\t\1.png", r"first: C:\\t\\1.png; for a path of Windows, give one that"),
        (r"\\server\1.png", "a path of Windows"),
        ("gone/1.png", "first: {0}/gone/1.png; paths are relative to the table"),
        ("there", "first: {0}/there; {0}/there.png exists: paths need the ext"),
        ("caf\udce9/1.png", "the path is not UTF-8: save the table as UTF-8"),
    ],
)
def test_the_reason_is_that_of_the_first_missing_file(tmp_path, path, expected):
    there = tmp_path / "there.png"
    there.write_text("an image")
    paths = ["there.png", path, "other.png"]
    files = [str(there), str(tmp_path / path), str(tmp_path / "other.png")]
    explained = explain_missing(paths, files)
    assert explained.startswith("2 of 3 files do not exist, the first: ")
    assert expected.format(tmp_path).replace("\\\\", "\\") in explained


def test_nothing_is_said_if_all_files_exist(tmp_path):
    assert explain_missing(["."], [str(tmp_path)]) == ""
