import pytest

from keras_ft.host.text import as_text, counted, hint_alike, printable, visible


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
    for cell in ("=1+1", "+1+1", "-1-A1", "-a", "@SUM(A1)", "\t=1", "\r=1"):
        assert as_text(cell) == f"'{cell}"
    # The names of classes that are numbers stay those that the user knows.
    for cell in ("", "a=1", "photos/-1.png", " =1", "-1", "+1", "-0.5"):
        assert as_text(cell) == cell


def test_things_are_counted_in_singular_and_plural():
    assert [counted(n, "image") for n in (0, 1, 2)] == [
        "0 images",
        "1 image",
        "2 images",
    ]
    assert [counted(n, "class") for n in (1, 2)] == ["1 class", "2 classes"]


def test_an_error_about_unknown_names_says_which_known_ones_look_alike():
    hint = hint_alike(["cat", "e\u0301"], ["Cat", "CAT", "dog", "\u00e9"])
    assert hint == (
        "; 'cat' and 'CAT', 'cat' and 'Cat', 'e\\u0301' and '\\xe9' are different names"
    )
    assert hint_alike(["bird"], ["cat", "dog"]) == ""
