import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_ft.data.tables import check_columns, read_table
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
ROWS = st.lists(
    st.tuples(
        TEXT.filter(bool),
        TEXT,
        st.sampled_from(["", "train", "val", "test", "skipped", "unused"]),
        TEXT,
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
    assert read == [(path, "", (label,), *others) for path, label, *others in rows]


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


def test_a_table_that_is_a_fifo_is_an_error(tmp_path):
    os.mkfifo(tmp_path / "table.csv")
    with pytest.raises(UserError, match="not a regular file"):
        list(read_table(str(tmp_path / "table.csv")))
