import os

import pytest
from helpers import COLOURS, write_images

from keras_ft.config.schema import DataConfig
from keras_ft.data.sources import load_examples
from keras_ft.errors import UserError


def load(folder):
    return load_examples(DataConfig(data=str(folder)))


def test_empty_and_hidden_folders_and_ignored_files_are_findings(image_folder):
    (image_folder / "empty").mkdir()
    (image_folder / ".git").mkdir()
    for name in ("__MACOSX", "@eaDir"):
        (image_folder / "red" / name).mkdir()
        (image_folder / "red" / name / "0.png").write_bytes(b"")
    (image_folder / "red" / "photo.psd").write_bytes(b"x")
    (image_folder / "red" / "Thumbs.db").write_bytes(b"x")
    (image_folder / "stray.jpg").write_bytes(b"x")
    examples, findings = load(image_folder)
    assert len(examples) == 30
    assert examples.class_names == ("blue", "green", "red")
    assert {(f.path.removeprefix(str(image_folder)), f.name) for f in findings} == {
        ("/empty", "empty_folder"),
        ("/.git", "suspicious_folder"),
        ("/red/__MACOSX", "suspicious_folder"),
        ("/red/@eaDir", "suspicious_folder"),
        ("/red/photo.psd", "ignored_file"),
        ("/stray.jpg", "ignored_file"),
    }


def test_links_are_followed_unless_they_lead_back(image_folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (image_folder / "red" / "0.png").rename(elsewhere / "0.png")
    (image_folder / "red" / "0.png").symlink_to(elsewhere / "0.png")
    (image_folder / "red" / "cycle").symlink_to("..")
    (image_folder / "linked class").symlink_to(elsewhere)
    (image_folder / "green" / "more").symlink_to(elsewhere)
    examples, findings = load(image_folder)
    assert examples.class_names == ("blue", "green", "linked class", "red")
    assert examples.count_classes().tolist() == [10, 11, 1, 10]
    [finding] = findings
    assert finding.path == str(image_folder / "red" / "cycle")
    assert finding.name == "suspicious_folder"


def test_a_splits_csv_in_the_folder_keeps_the_old_splits(image_folder):
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


def test_hidden_files_and_other_formats_are_ignored(image_folder):
    write_images(image_folder / ".cache", COLOURS["red"], 1)
    write_images(image_folder / "__MACOSX", COLOURS["red"], 1)
    (image_folder / "red" / "notes.txt").write_text("x")
    (image_folder / "red" / "._0.png").write_bytes(b"resource fork")
    write_images(image_folder / "red" / "more", (200, 0, 0), 2)
    examples, _ = load(image_folder)
    assert examples.class_names == ("blue", "green", "red")
    assert examples.count_classes().tolist() == [10, 10, 12]


def test_class_names_must_be_utf8(image_folder):
    os.rename(image_folder / "red", str(image_folder / "ros\udce9"))
    with pytest.raises(UserError, match="valid UTF-8: .* Received: 'ros.udce9'"):
        load(image_folder)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("nowhere", "a folder or a CSV file that exists.*nowhere"),
        ("", "one folder of images per class"),
    ],
)
def test_a_folder_that_is_missing_or_without_class_folders_is_an_error(
    tmp_path, folder, message
):
    with pytest.raises(UserError, match=message):
        load(tmp_path / folder)


def test_blanks_around_the_name_of_a_folder_make_no_other_class(image_folder):
    (image_folder / "red").rename(image_folder / "red ")
    write_images(image_folder / "blue ", COLOURS["blue"], 2)
    examples, _ = load_examples(
        DataConfig(data=str(image_folder), classes=("red", "blue"))
    )
    assert examples.class_names == ("blue", "red")
    assert examples.count_classes().tolist() == [12, 10]


def test_a_link_to_itself_costs_no_other_image(tmp_path):
    for name in ("cat", "dog"):
        write_images(tmp_path / name, COLOURS["red"], 2)
    for folder in (tmp_path, tmp_path / "cat"):
        (folder / "loop").symlink_to("loop")
    (tmp_path / "dog" / "all").symlink_to("/")
    examples, findings = load(tmp_path)
    assert len(examples) == 4
    [finding] = [each for each in findings if each.name == "suspicious_folder"]
    assert finding.path == str(tmp_path / "dog" / "all")
