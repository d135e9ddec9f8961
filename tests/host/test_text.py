import pytest

from keras_ft.host.text import as_text, printable, visible


def test_names_do_not_steer_the_terminal():
    assert printable("a\x1b[2Jb\r\x9b\x7f") == r"a\x1b[2Jb\r\x9b\x7f"
    assert printable("Äpfel,\n\t日本 🍎") == "Äpfel,\n\t日本 🍎"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("cat", "cat"),
        ("two\nlines\x00", r"two\nlines\x00"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\udcff.png", r"\udcff.png"),
        ("👩\u200d👧 \u0642\u0637 漢字", "👩\u200d👧 \u0642\u0637 漢字"),
    ],
)
def test_invisible_characters_are_escaped(name, shown):
    assert visible(name) == shown
    visible(name).encode()


def test_cells_that_spreadsheets_would_compute_become_text():
    for cell in ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"):
        assert as_text(cell) == f"'{cell}"
    for cell in ("", "a=1", "photos/-1.png", " =1"):
        assert as_text(cell) == cell
