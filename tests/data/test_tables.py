import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_ft.data.examples import Row
from keras_ft.data.tables import check_columns, make_find_file, read_table
from keras_ft.errors import UserError
from keras_ft.host import files


def _can_be_stored(text: str) -> bool:
    """Whether a file can store a text: surrogates must be escaped bytes."""
    try:
        content = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return content.decode("utf-8", "surrogateescape") == text


# Any text that a file can store, including names that are not UTF-8.
TEXT = st.text(st.characters(codec="utf-8") | st.characters(categories=["Cs"])).filter(
    _can_be_stored
)
STRIPPED = TEXT.map(str.strip)
ROWS = st.lists(
    st.tuples(
        TEXT.filter(str.strip),
        STRIPPED,
        st.sampled_from(["", "train", "val", "test", "skipped", "unused"]),
        STRIPPED,
    )
)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A file that each example overwrites."""
    return tmp_path_factory.mktemp("tables") / "table.csv"


@given(ROWS)
@settings(deadline=None)  # writes a file
def test_written_rows_are_read_unchanged(table, rows):
    files.write_csv(table, [("path", "label", "split", "group"), *rows])
    read = [row for _, row in read_table(str(table), ["label"])]
    assert read == [Row(path, "", (label,), *others) for path, label, *others in rows]


def test_blanks_and_case_make_no_other_label_split_or_group(table):
    rows = [
        ("path ", " label", "split", "group"),
        (" a.png ", "cat ", "Training", " p"),
    ]
    files.write_csv(table, [*rows, ("b.png", "\tcat", " TEST ", "p\xa0")])
    read = [row[:5] for _, row in read_table(str(table), ["label"])]
    assert read == [
        (" a.png ", "", ("cat",), "train", "p"),
        ("b.png", "", ("cat",), "test", "p"),
    ]


@given(st.binary() | TEXT.map(lambda t: t.encode(errors="ignore")))
@settings(max_examples=300, deadline=None)
def test_any_file_is_a_table_or_a_user_error(table, content):
    for header in (b"", b"path,label\n", b"path,label,split,group\n"):
        table.write_bytes(header + content)
        try:
            check_columns(str(table))
            for line, row in read_table(str(table), ["label"]):
                assert line >= 1
                assert row.path
        except UserError as error:
            assert str(table) in str(error)


def find(table):
    """The files that the rows of a table name."""
    find_file = make_find_file(str(table))
    return [find_file(row) for _, row in read_table(str(table))]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A working folder with images and, elsewhere, tables that name them."""
    folder = tmp_path / "project"
    (folder / "t").mkdir(parents=True)
    (folder / "runs" / "a").mkdir(parents=True)
    for i in range(3):
        (folder / "t" / f"{i}.png").write_text("an image")
    monkeypatch.chdir(folder)
    return folder


def test_paths_are_relative_to_the_table_or_else_to_the_working_folder(project):
    # Of a list of images the first, and any others, may be missing.
    table = project / "runs" / "table.csv"
    table.write_text("path\nt/-1.png\nt/0.png\nt/9.png\nt/2.png\n")
    assert find(table) == ["t/-1.png", "t/0.png", "t/9.png", "t/2.png"]
    (project / "runs" / "t").mkdir()
    (project / "runs" / "t" / "2.png").write_text("an image")
    assert find(table)[3] == str(project / "runs" / "t" / "2.png")


def test_a_table_of_an_earlier_run_is_read_from_any_folder(
    project, tmp_path, monkeypatch
):
    table = project / "runs" / "a" / "splits.csv"
    table.write_text("path,split\nt/-1.png,train\nt/0.png,test\n")
    monkeypatch.chdir("/")
    assert find(table) == [str(project / "t" / name) for name in ("-1.png", "0.png")]
    monkeypatch.chdir(tmp_path)
    [_, relative] = find("project/runs/a/splits.csv")
    assert relative == str(project / "t" / "0.png")


def test_a_run_records_what_its_paths_are_relative_to(project, tmp_path, monkeypatch):
    table = tmp_path / "scratch" / "splits.csv"
    table.parent.mkdir()
    rows = [f"t/{i}.png,{project},00" for i in (7, 1, 2)]
    table.write_text("\n".join(["path,relative_to,sha256", *rows, "new.png,,"]))
    (table.parent / "new.png").write_text("an image")
    # Other images of the same names are in the working folder.
    other = tmp_path / "other" / "t"
    other.mkdir(parents=True)
    (other / "7.png").write_text("another image")
    monkeypatch.chdir(other.parent)
    expected = [str(project / "t" / f"{i}.png") for i in (7, 1, 2)]
    assert find(table) == [*expected, str(table.parent / "new.png")]
    # Table and images move together.
    table.rename(project / "runs" / "splits.csv")
    project.rename(tmp_path / "moved")
    monkeypatch.chdir("/")
    files = find(tmp_path / "moved" / "runs" / "splits.csv")
    assert files[1] == str(tmp_path / "moved" / "t" / "1.png")


def test_a_table_that_is_a_fifo_is_an_error(tmp_path):
    os.mkfifo(tmp_path / "table.csv")
    with pytest.raises(UserError, match="not a regular file"):
        list(read_table(str(tmp_path / "table.csv")))
