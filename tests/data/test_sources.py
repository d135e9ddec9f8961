import pytest

from keras_ft.config.schema import DataConfig
from keras_ft.data import sources
from keras_ft.errors import UserError


def load(data, **fields):
    return sources.load_examples(DataConfig(data=str(data), **fields))


def load_table(folder, text, **fields):
    table = folder / "table.csv"
    table.write_bytes(text if isinstance(text, bytes) else text.encode())
    examples, findings = load(table, **fields)
    assert findings == []
    return examples


def test_a_table_gives_paths_labels_splits_and_groups(image_folder):
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


def test_columns_stand_in_any_order_and_a_byte_order_mark_is_passed_over(image_folder):
    examples = load_table(image_folder, "\ufefflabel,path\r\na,red/0.png\r\n".encode())
    assert examples.paths.tolist() == ["red/0.png"]
    assert examples.splits.tolist() == examples.groups.tolist() == [""]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "first line must name the columns: path,label"),
        ("file,label\n", "first line must name.* Received: file,label"),
        ("path;label\n", "first line must name.* Received: path;label"),
        ("path,path,label\n", "first line must name"),
        ("path,label\na.png,x\nb.png\n", "line 3: a row has 2 fields.*1 fields, b.png"),
        ("path,label\na.png,x,y\n", "line 2: a row has 2 fields"),
        ("path,label\na.png,\n", "line 2: a row needs a label. Received: a.png"),
        ("path,label\n,x\n", "line 2: a row needs a path"),
        ("path\na.png\n", "line 2: a row needs a label"),
        ("path,label,split\na.png,x,dev\n", "line 2: a split is one of .*: dev"),
        ("path,label\na,x\nb,x\na,y\n", "line 4: .*line 2 has it. Received: a"),
        ('path,label\n"a\nb",x\nc\n', "line 4: a row has 2 fields"),
        ('path,label\n"a"b,x\n', "line 2: must be CSV"),
        ("path,label\n", "must hold images"),
    ],
)
def test_mistakes_in_a_table_name_the_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as error:
        load_table(tmp_path, text)
    assert "table.csv" in str(error.value)


def test_absolute_paths_and_paths_from_the_working_folder(
    image_folder, tmp_path, monkeypatch
):
    red = image_folder / "red" / "0.png"
    assert load_table(tmp_path, f"path,label\n{red},x\n").files == [str(red)]
    # A run's splits.csv lies elsewhere and has paths as they were given to the run.
    monkeypatch.chdir(image_folder)
    (tmp_path / "run").mkdir()
    examples = load_table(tmp_path / "run", "path,label\nred/0.png,x\nred/1.png,x\n")
    assert examples.files.tolist() == ["red/0.png", "red/1.png"]


def test_unused_rows_are_left_out_and_skipped_ones_have_another_chance(image_folder):
    examples = load_table(
        image_folder,
        "path,label,split\nred/0.png,x,unused\nred/1.png,x,skipped\nred/2.png,x,test\n",
    )
    assert examples.paths.tolist() == ["red/1.png", "red/2.png"]
    assert examples.splits.tolist() == ["", "test"]


def test_a_table_may_name_examples_of_a_builtin_set(tmp_path):
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


def test_what_is_odd_about_folders_is_found(image_folder):
    (image_folder / "empty").mkdir()
    (image_folder / ".git").mkdir()
    (image_folder / "red" / "__MACOSX").mkdir()
    (image_folder / "red" / "__MACOSX" / "0.png").write_bytes(b"")
    (image_folder / "red" / "photo.heic").write_bytes(b"x")
    (image_folder / "red" / "Thumbs.db").write_bytes(b"x")
    (image_folder / "stray.jpg").write_bytes(b"x")
    examples, findings = load(image_folder)
    assert len(examples) == 30
    assert examples.class_names == ("blue", "green", "red")
    assert {(f.path.removeprefix(str(image_folder)), f.name) for f in findings} == {
        ("/empty", "empty_folder"),
        ("/.git", "suspicious_folder"),
        ("/red/__MACOSX", "suspicious_folder"),
        ("/red/photo.heic", "ignored_file"),
        ("/stray.jpg", "ignored_file"),
    }


def test_a_splits_csv_beside_new_images_keeps_the_old_splits(image_folder):
    red = image_folder / "red"
    (image_folder / "splits.csv").write_text(
        "path,label,split,group\n"
        f"{red / '0.png'},red,test,\n"
        "red/1.png,red,val,p\n"
        "red/2.png,red,unused,\n"
        "red/gone.png,red,train,\n"
    )
    examples, _ = load(image_folder)
    columns = (examples.paths, examples.splits, examples.groups)
    of = {path: rest for path, *rest in zip(*columns, strict=True)}
    assert len(of) == 29
    assert of.pop(str(red / "0.png")) == ["test", ""]
    assert of.pop(str(red / "1.png")) == ["val", "p"]
    assert all(rest == ["", ""] for rest in of.values())
    assert str(red / "2.png") not in of


def test_a_splits_csv_of_other_images_is_an_error(image_folder):
    (image_folder / "splits.csv").write_text("path,label\nelse/0.png,red\n")
    with pytest.raises(UserError, match="must list images of .*none of them"):
        load(image_folder)


def test_paths_of_a_table_need_not_be_utf8(tmp_path):
    examples = load_table(tmp_path, b"path,label\ncaf\xe9.png,x\n")
    assert examples.paths.tolist() == ["caf\udce9.png"]
    with pytest.raises(UserError, match="Class names must be valid UTF-8"):
        load_table(tmp_path, b"path,label\na.png,caf\xe9\n")


def test_links_to_images_are_followed_and_circles_of_folders_are_not(
    image_folder, tmp_path
):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (image_folder / "red" / "0.png").rename(elsewhere / "0.png")
    (image_folder / "red" / "0.png").symlink_to(elsewhere / "0.png")
    (image_folder / "red" / "circle").symlink_to("..")
    (image_folder / "linked class").symlink_to(elsewhere)
    examples, findings = load(image_folder)
    assert examples.class_names == ("blue", "green", "linked class", "red")
    assert len(examples) == 31
    [finding] = findings
    assert finding.path == str(image_folder / "red" / "circle")
    assert finding.name == "suspicious_folder"
