"""A run's images are recognised by their content."""

import dataclasses
import os
import shutil

import pytest
from helpers import COLOURS, read_table, write_images

from keras_ft.config.schema import DataConfig
from keras_ft.data.dataset import load_headers, make_splits
from keras_ft.data.sources import load_examples
from keras_ft.errors import UserError
from keras_ft.runs.same_images import (
    check_same_data,
    check_same_images,
    check_same_splits,
    relocate,
)
from keras_ft.runs.split_tables import write_splits


@pytest.fixture
def table(tmp_path, monkeypatch):
    """The splits.csv of a run on `photos`, the working folder being above it."""
    monkeypatch.chdir(tmp_path)
    for name, colour in COLOURS.items():
        write_images(tmp_path / "photos" / name, colour, 6)
    (tmp_path / "runs" / "a").mkdir(parents=True)
    table = tmp_path / "runs" / "a" / "splits.csv"
    write_splits(table, load("photos"))
    return table


def as_config(data):
    return DataConfig(data=str(data), cache_dir="cache")


def load(data):
    dataset = load_headers(as_config(data))
    examples = make_splits(dataset, as_config(data), seed=0)
    return dataclasses.replace(dataset, examples=examples)


def make_old(table):
    """Makes a table one of an earlier version."""
    rows = read_table(table)
    lines = [",".join((r["path"], r["label"], r["split"], r["group"])) for r in rows]
    table.write_text("\n".join(["path,label,split,group", *lines, ""]))


def changes(table, data):
    with pytest.raises(UserError, match="images have changed since the run in") as info:
        check_same_images(table, load_headers(as_config(data)), "Restore them.")
    assert str(info.value).endswith(" Restore them.")
    return str(info.value).partition("began: ")[2].removesuffix(". Restore them.")


def test_images_may_be_given_by_another_path(table, tmp_path):
    os.symlink("photos", "link")
    for data in ("photos", "photos/", "./photos", tmp_path / "photos", "link"):
        check_same_splits(table, load(data), "")


@pytest.mark.parametrize("old", [False, True])
def test_a_splits_csv_of_an_earlier_version_has_places_only(table, tmp_path, old):
    if old:
        make_old(table)
    for data in ("photos", "./photos", tmp_path / "photos"):
        check_same_splits(table, load(data), "")
    shutil.copytree("photos", "copy")
    shutil.rmtree("photos")
    if old:
        [counts, basis] = changes(table, "copy").split(", by ")
        assert counts == "18 new, 18 gone"
        assert basis == "their paths: an earlier version has recorded no content"
    else:
        check_same_splits(table, load("copy"), "")


def test_a_change_is_counted_by_its_kind(table, tmp_path):
    shutil.copytree("photos", "moved")
    shutil.rmtree("photos")
    os.remove("moved/red/0.png")
    assert changes(table, "moved") == "1 gone"
    write_images(tmp_path / "moved" / "red" / "more", (90, 90, 90), 2)
    assert changes(table, "moved") == "2 new, 1 gone"
    shutil.rmtree("moved/red/more")
    os.rename("moved/blue/1.png", "moved/green/x.png")
    assert changes(table, "moved") == "1 gone, 1 with another label or group"
    # A copy of an image is one more image.
    shutil.copyfile("moved/red/1.png", "moved/red/0.png")
    assert changes(table, "moved") == "1 new, 1 gone, 1 with another label or group"


def test_an_image_that_was_replaced_has_other_content(table):
    with open("photos/red/3.png", "r+b") as stream:
        stream.seek(300)
        byte = stream.read(1)
        stream.seek(300)
        stream.write(bytes([byte[0] ^ 1]))
    assert changes(table, "photos") == "1 with other content"


def test_given_splits_are_compared(table, tmp_path):
    shutil.copy(table, "given.csv")
    write_splits(table, load("given.csv"))
    given = tmp_path / "given.csv"
    given.write_text(given.read_text().replace(",red,test,", ",red,val,", 1))
    assert changes(table, "given.csv") == "1 in another split"


def test_another_order_is_refused(table):
    # What a run has predicted so far is in the order of its table.
    os.rename("photos/red/0.png", "photos/red/z.png")
    dataset = load("photos")
    by_content = {row["sha256"]: row["split"] for row in read_table(table)}
    splits = dataset.examples.splits
    for i, digest in enumerate(dataset.facts["digest"]):
        splits[i] = by_content[digest.tobytes().hex()]
    check_same_images(table, dataset, "")
    with pytest.raises(
        UserError, match="another order or other splits than.*renamed. Rest"
    ):
        check_same_splits(table, dataset, "Restore them.")


def test_the_table_gets_the_new_places_of_images(table, tmp_path, monkeypatch):
    shutil.copyfile("photos/red/1.png", "photos/red/copy.png")
    write_splits(table, load("photos"))
    before = read_table(table)
    relocate(table, load("photos"))
    assert read_table(table) == before
    shutil.move("photos", "moved")
    relocate(table, load("moved"))
    after = read_table(table)
    assert [row | {"path": ""} for row in after] == [
        row | {"path": ""} for row in before
    ]
    assert len({row["path"] for row in after}) == len(after) == 19
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    files = load_examples(DataConfig(data=str(table)))[0].files
    assert all(map(os.path.isfile, files))


@pytest.mark.parametrize(
    ("change", "is_moved"),
    [
        (lambda text: "\ufeff" + text.replace("sha256", " sha256 ") + "\n", True),
        (lambda text: text.replace("relative_to", "folder"), False),
    ],
)
def test_a_table_that_was_edited_gets_the_new_places(table, change, is_moved):
    text = change(table.read_text())
    table.write_text(text)
    shutil.move("photos", "moved")
    relocate(table, load("moved"))
    assert ("moved/red/0.png" in table.read_text()) == is_moved
    assert (table.read_text() == text) != is_moved


def test_images_of_a_finished_run_may_be_gone(table, caplog):
    os.rename("photos", "gone")
    then = as_config("photos")
    check_same_data(table, then, then, "")
    assert "Whether the images of" in caplog.text
    caplog.clear()
    builtin = DataConfig(data="builtin:no_such_set")  # the same name, the same images
    check_same_data(table, builtin, builtin, "")
    assert caplog.text == ""


@pytest.mark.parametrize("path", ["{}/{}.png ", "{}\\{}.png"])
def test_a_table_with_odd_paths_is_written_so_that_it_is_read_again(
    table, tmp_path, path
):
    rows = [f"{path.format(name, i)},{name}" for name in COLOURS for i in range(6)]
    (tmp_path / "photos" / "t.csv").write_text("\n".join(["path,label", *rows]))
    write_splits(table, load("photos/t.csv"))
    assert {row["relative_to"] for row in read_table(table)} == {
        str(tmp_path / "photos")
    }
    examples, _ = load_examples(as_config(table))
    assert all(map(os.path.isfile, examples.files))
