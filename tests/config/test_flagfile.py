import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_ft.config import flagfile
from keras_ft.errors import UserError


def expand(tmp_path, content):
    path = tmp_path / "some.cfg"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return flagfile.expand([f"--flagfile={path}"])


@pytest.mark.parametrize(
    ("line", "argument"),
    [
        ("--seed=1 # a note", "--seed=1"),
        ("--mirror\t# a note with 'quotes\"", "--mirror"),
        ("--data=photos#2", "--data=photos#2"),
        ('--data="photos #2" # a note', "--data=photos #2"),
        ("--data='my photos'", "--data=my photos"),
        ('"--data=my photos"', "--data=my photos"),
        ("--data=it's", "--data=it's"),
        ('--classes="a,b",c', '--classes="a,b",c'),
        ('--classes="a ""b"" # c"', '--classes=a "b" # c'),
        ("--sweep=seed=1|2", "--sweep=seed=1|2"),
        ("  --seed=1\r", "--seed=1"),
    ],
)
def test_quotes_and_notes_are_no_part_of_a_value(tmp_path, line, argument):
    content = f"# first\n\n{line}\n// last"
    assert expand(tmp_path, content) == [argument]


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])))
def test_a_line_that_is_written_is_read_as_the_same(tmp_path_factory, value):
    argument = f"--data={value}"
    path = tmp_path_factory.getbasetemp() / "written.cfg"
    path.write_bytes(flagfile.quote(argument).encode())
    assert flagfile.expand([f"--flagfile={path}"]) == [argument]


def test_a_byte_order_mark_is_ignored_and_notes_have_any_encoding(tmp_path):
    assert expand(tmp_path, b"\xef\xbb\xbf--seed=1\n# gr\xf6\xdfe") == ["--seed=1"]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_flag_in_another_encoding_is_named(tmp_path, encoding):
    content = "--seed=1\n--data=größe\n"
    line = (
        "some.cfg, line 1" if encoding == "utf-16" else "some.cfg, line 2: '--data=gr"
    )
    with pytest.raises(UserError, match=f"must be text in UTF-8.* Received: .*{line}"):
        expand(tmp_path, content.encode(encoding))


def test_a_file_is_included_relative_to_the_file_that_names_it(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.cfg").write_text("--seed=1\n--flagfile=../b.cfg\n")
    (tmp_path / "b.cfg").write_text("--seed=2\n")
    include = ["--mirror", "--flagfile", str(tmp_path / "sub" / "a.cfg"), "--seed=3"]
    expected = ["--mirror", "--seed=1", "--seed=2", "--seed=3"]
    assert flagfile.expand(include) == expected


@pytest.mark.parametrize("name", ["some.cfg", "../{}/some.cfg"])
def test_a_file_that_includes_itself_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="must not include itself"):
        expand(tmp_path, f"--flagfile={name.format(tmp_path.name)}")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=f"can be read.*{tmp_path}/nowhere.cfg"):
        expand(tmp_path, "--flagfile=nowhere.cfg")
