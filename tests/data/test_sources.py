import pytest

from keras_ft.config.schema import DataConfig
from keras_ft.data.sources import load_examples
from keras_ft.errors import UserError


def load(data, **fields):
    return load_examples(DataConfig(data=str(data), **fields))


def load_table(folder, text, **fields):
    table = folder / "table.csv"
    table.write_bytes(text if isinstance(text, bytes) else text.encode())
    examples, findings = load(table, **fields)
    assert findings == []
    return examples


def test_a_table_lists_paths_labels_splits_and_groups(image_folder):
    examples = load_table(
        image_folder,
        "path,label,split,group\n"
        "red/0.png,ros\u00e9,train,p1\n"
        '"blue/0.png","sky, ""blue""",validation,\n'
        "\n"
        "green/0.png,ros\u00e9,,p1\n",
    )
    assert examples.class_names == ("ros\u00e9", 'sky, "blue"')
    assert examples.paths.tolist() == ["red/0.png", "blue/0.png", "green/0.png"]
    assert examples.files[0] == str(image_folder / "red" / "0.png")
    assert examples.labels.tolist() == [0, 1, 0]
    assert examples.splits.tolist() == ["train", "val", ""]
    assert examples.groups.tolist() == ["p1", "", "p1"]


def test_columns_may_be_in_any_order_after_a_byte_order_mark(image_folder):
    examples = load_table(image_folder, "\ufefflabel,path\r\na,red/0.png\r\n".encode())
    assert examples.paths.tolist() == ["red/0.png"]
    assert examples.splits.tolist() == examples.groups.tolist() == [""]


def test_other_columns_are_named_and_not_read(image_folder, caplog):
    caplog.set_level("INFO")
    text = ",path,label,width\n0,red/0.png,a,48\n1,blue/0.png,b,48\n"
    assert load_table(image_folder, text).class_names == ("a", "b")
    assert "table.csv that are not read: width." in caplog.text


@pytest.mark.parametrize("columns", [(), ("label", "age")])
def test_a_column_that_is_nearly_a_split_is_an_error(image_folder, columns):
    text = "path,label,age,Splits\nred/0.png,a,1,train\nblue/0.png,b,2,test\n"
    with pytest.raises(UserError, match="rename the column Splits to split"):
        load_table(image_folder, text, label_columns=columns)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_table_may_be_unicode_of_windows_programs(image_folder, encoding):
    text = "path,label\r\nred/0.png,ros\u00e9\r\n"
    examples = load_table(image_folder, text.encode(encoding))
    assert examples.class_names == ("ros\u00e9",)


def test_a_label_in_another_encoding_is_an_error_that_says_so(image_folder):
    text = "path,label\nred/0.png,ros\u00e9\n".encode("latin-1")
    with pytest.raises(UserError, match="save a table as UTF-8"):
        load_table(image_folder, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "first line must name the columns path,label"),
        ("file,label\n", "first line must name.* Received: file,label"),
        ("path;label\n", "first line must name.* Received: path;label"),
        ("path,path,label\n", "first line must name"),
        ("path,label\na.png,x\nb.png\n", "line 3: a row has 2 fields.*1 fields, b.png"),
        ("path,label\na.png,x,y\n", "line 2: a row has 2 fields"),
        ("path,label\na.png,\n", "line 2: a row needs a label. Received: a.png"),
        ("path,label\n,x\n", "line 2: a row needs a path"),
        ("path\na.png\n", "first line must name the columns path,label.*: path$"),
        ("path,label,split\na.png,x,no\n", "line 2: a split is one of .*: no"),
        ("path,label\na,x\nb,x\na,y\n", "line 4: .*line 2 has it. Received: a"),
        ('path,label\n"a\nb",x\nc\n', "line 4: a row has 2 fields"),
        ('path,label\n"a"b,x\n', "line 2: must be CSV"),
        ("path,label\n", "must contain labelled images"),
    ],
)
def test_an_error_in_a_table_names_the_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as error:
        load_table(tmp_path, text)
    assert "table.csv" in str(error.value)


def test_paths_may_be_absolute_or_relative_to_the_working_folder(
    image_folder, tmp_path, monkeypatch
):
    red = image_folder / "red" / "0.png"
    assert load_table(tmp_path, f"path,label\n{red},x\n").files == [str(red)]
    # A run's splits.csv is in another folder and has the paths that the run received.
    monkeypatch.chdir(image_folder)
    (tmp_path / "run").mkdir()
    examples = load_table(tmp_path / "run", "path,label\nred/0.png,x\nred/1.png,x\n")
    assert examples.files.tolist() == ["red/0.png", "red/1.png"]


def test_a_path_with_blanks_is_that_of_a_file_that_exists(image_folder):
    (image_folder / "z.png ").write_bytes(b"x")
    examples = load_table(image_folder, "path,label\nz.png ,x\n red/0.png ,x\n")
    assert examples.files.tolist() == [
        f"{image_folder}/z.png ",
        f"{image_folder}/red/0.png",
    ]


def test_a_path_may_be_written_as_on_windows(image_folder):
    (image_folder / r"red\1.png").write_bytes(b"x")
    examples = load_table(image_folder, "path,label\nred\\0.png,x\nred\\1.png,x\n")
    assert examples.files.tolist() == [
        f"{image_folder}/red/0.png",
        rf"{image_folder}/red\1.png",
    ]


def test_unused_rows_are_ignored_and_skipped_ones_are_used_again(image_folder):
    examples = load_table(
        image_folder,
        "path,label,split\nred/0.png,x,unused\nred/1.png,x,skipped\nred/2.png,x,test\n",
    )
    assert examples.paths.tolist() == ["red/1.png", "red/2.png"]
    assert examples.splits.tolist() == ["", "test"]


def test_a_table_may_list_examples_of_a_builtin_set(tmp_path):
    examples = load_table(
        tmp_path,
        "path,label,split\nbuiltin:faces/17,face,train\nbuiltin:faces/150,other,test\n",
        cache_dir=str(tmp_path / "cache"),
    )
    assert examples.splits.tolist() == ["train", "test"]
    with open(examples.files[0], "rb") as stream:
        assert stream.read(4) == b"\x89PNG"
    with pytest.raises(UserError, match="builtin:faces has no example builtin:faces/x"):
        load_table(
            tmp_path, "path,label\nbuiltin:faces/x,f\n", cache_dir=str(tmp_path / "c")
        )


def test_paths_of_a_table_need_not_be_utf8(tmp_path):
    examples = load_table(tmp_path, b"path,label\ncaf\xe9.png,x\n")
    assert examples.paths.tolist() == ["caf\udce9.png"]
    with pytest.raises(UserError, match="Class names must be valid UTF-8"):
        load_table(tmp_path, b"path,label\na.png,caf\xe9\n")


def test_classes_selects_images_of_any_source(image_folder, tmp_path):
    examples, _ = load(image_folder, classes=("red", "blue"))
    assert examples.class_names == ("blue", "red")
    assert len(examples) == 2 * len(load(image_folder)[0]) // 3
    digits, _ = load("builtin:digits", classes=("7", "1"), cache_dir=str(tmp_path))
    assert digits.class_names == ("1", "7")
    assert len(digits) == 182 + 179
    table = load_table(
        image_folder, "path,label\nred/0.png,x\nblue/0.png,y\n", classes=("y",)
    )
    assert table.paths.tolist() == ["blue/0.png"]


def test_a_class_that_the_data_does_not_have_is_an_error(image_folder):
    message = "--classes must name .*: blue, green, red. Received: pink, white"
    with pytest.raises(UserError, match=message):
        load(image_folder, classes=("red", "pink", "white"))
    with pytest.raises(UserError, match="Received: Red; 'Red' and 'red' are different"):
        load(image_folder, classes=("Red",))


def test_the_empty_folder_of_a_class_that_is_left_out_is_not_reported(image_folder):
    (image_folder / "empty").mkdir()
    assert [f.name for f in load(image_folder)[1]] == ["empty_folder"]
    assert load(image_folder, classes=("red", "blue"))[1] == []
