import os

import numpy as np
import pytest
from helpers import COLOURS, write_images

from keras_ft.config.settings import Config
from keras_ft.data import dataset as data
from keras_ft.errors import UserError


def load(folder, seed=0, **fields):
    return data.load_splits(Config(mode="check", data=str(folder), **fields).data, seed)


def counts(split, num_classes=3):
    return np.bincount(split.labels, minlength=num_classes).tolist()


def test_splits_of_class_folders_are_stratified(image_folder):
    splits = load(image_folder, val_fraction=0.2, test_fraction=0.3)
    assert splits.class_names == ("blue", "green", "red")
    assert counts(splits.train) == [5, 5, 5]
    assert counts(splits.val) == [2, 2, 2]
    assert counts(splits.test) == [3, 3, 3]
    paths = np.concatenate([splits.train.paths, splits.val.paths, splits.test.paths])
    assert len(set(paths)) == 30
    for split in (splits.train, splits.val, splits.test):
        for path, label in zip(split.paths, split.labels, strict=True):
            assert os.path.basename(os.path.dirname(path)) == splits.class_names[label]


def test_splits_depend_on_the_seed_alone(image_folder):
    first, again, other = load(image_folder), load(image_folder), load(image_folder, 1)
    assert first.test.paths.tolist() == again.test.paths.tolist()
    assert first.test.paths.tolist() != other.test.paths.tolist()


@pytest.mark.parametrize(
    ("sizes", "fractions", "expected"),
    [
        # A small class is in every split.
        ((3, 40), {}, {"train": (1, 28), "val": (1, 6), "test": (1, 6)}),
        # Large fractions leave an image of each class in train.
        ((3, 3), {"val_fraction": 0.48, "test_fraction": 0.5}, {"train": (1, 1)}),
    ],
)
def test_each_class_is_in_every_split(tmp_path, sizes, fractions, expected):
    for name, size in zip(("blue", "red"), sizes, strict=True):
        write_images(tmp_path / name, COLOURS[name], size)
    splits = load(tmp_path, **fractions)
    for name, of_class in expected.items():
        assert tuple(counts(splits.split(name), 2)) == of_class


@pytest.mark.parametrize("val_name", ["val", "valid", "validation"])
def test_given_splits_are_kept_and_a_missing_one_is_drawn(tmp_path, val_name):
    for name in ("blue", "red"):
        write_images(tmp_path / "train" / name, COLOURS[name], 10)
        write_images(tmp_path / val_name / name, COLOURS[name], 4)
    splits = load(tmp_path, test_fraction=0.2)
    assert counts(splits.val, 2) == [4, 4]
    assert counts(splits.train, 2) == [8, 8]
    assert counts(splits.test, 2) == [2, 2]
    assert all(f"/{val_name}/" in path for path in splits.val.paths)
    assert all("/train/" in path for path in splits.test.paths)


def test_a_class_folder_without_images_is_an_error(image_folder):
    (image_folder / "empty").mkdir()
    (image_folder / "empty" / "0.eps").write_text("%!PS")
    with pytest.raises(UserError, match="contain image files.*/empty.* 1 file .*.eps"):
        load(image_folder)


def test_files_of_a_table_that_do_not_exist_are_counted(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("path,label\na/1.png,a\na/2.png,b\n")
    with pytest.raises(UserError, match=f"2 of 2 files .*first: {tmp_path}/a/1.png;"):
        load(table)


def test_a_class_folder_may_be_empty_in_val(tmp_path):
    for folder in ("train/blue", "train/red", "val/blue"):
        write_images(tmp_path / folder, COLOURS["red"], 8)
    (tmp_path / "val" / "red").mkdir()
    assert counts(load(tmp_path).val, 2) == [8, 0]


def test_near_duplicates_stay_together_unless_a_class_is_too_small(image_folder):
    table = image_folder / "table.csv"
    red, blue = ([f"{c}/{i}.png,{c}" for i in range(10)] for c in ("red", "blue"))
    table.write_text("\n".join(["path,label", *red, *blue]))
    config = Config(mode="check", data=str(table)).data
    (image_folder / "red" / "0.png").write_bytes(b"")  # indices are those of all images
    dataset = data.load_dataset(config)
    for seed in range(5):
        splits = data.make_splits(dataset, config, seed, [(4, 11), (2, 8)]).splits
        assert splits[4] == splits[11]
        assert splits[2] == splits[8]
    splits = ["", "val", "test", "train", *[""] * 6]
    rows = (f"{row},{split}" for row, split in zip(red, splits, strict=True))
    table.write_text("\n".join(["path,label,split", *rows, f"{blue[0]},"]))
    dataset = data.load_dataset(config)
    assert data.make_splits(dataset, config, 0, [(1, 10)]).splits[10] == "train"


def spoil(image_folder):
    (image_folder / "red" / "0.png").write_text("a text")
    (image_folder / "red" / "1.png").write_bytes(b"")


def test_unreadable_images_are_skipped_and_recorded(image_folder):
    spoil(image_folder)
    splits = load(image_folder)
    used = np.concatenate([splits.train.paths, splits.val.paths, splits.test.paths])
    assert len(used) == 28
    skipped = [str(image_folder / "red" / name) for name in ("0.png", "1.png")]
    assert splits.paths[splits.splits == "skipped"].tolist() == skipped
    assert not set(skipped) & set(used)


def test_unreadable_images_are_an_error_if_requested(image_folder):
    spoil(image_folder)
    with pytest.raises(UserError, match=r"2 of 30 that are not: .*0.png, .*1.png"):
        load(image_folder, on_bad_image="error")


def test_an_error_lists_at_most_ten_unreadable_images():
    with pytest.raises(UserError, match=r"12 of 99 .*: 0, 1, .*, 9 and 2 more"):
        data.check_readable([str(i) for i in range(12)], 99)


def test_a_class_of_unreadable_images_is_an_error(image_folder):
    for file in (image_folder / "red").iterdir():
        file.write_bytes(b"")
    with pytest.raises(UserError, match="readable images of each class.*'red'"):
        load(image_folder)


def test_examples_per_class_limits_train_only(image_folder):
    splits = load(image_folder, examples_per_class=2)
    assert counts(splits.train) == [2, 2, 2]
    assert counts(splits.val) == counts(splits.test) == [2, 2, 2]
    assert np.sum(splits.splits == "unused") == 12


def test_images_to_evaluate_on_are_test_or_all_without_splits(image_folder):
    table = image_folder / "table.csv"
    table.write_text("path,label,split\nred/0.png,red,test\nblue/0.png,blue,train\n")
    split = data.load_test(Config(mode="check", data=str(table)).data)
    assert split.paths.tolist() == ["red/0.png"]
    assert split.class_names == ("blue", "red")
    table.write_text("path,label\nred/0.png,red\nblue/0.png,blue\n")
    assert len(data.load_test(Config(mode="check", data=str(table)).data)) == 2
    table.write_text("path,label,split\nred/0.png,red,train\nblue/0.png,blue,\n")
    with pytest.raises(UserError, match="a test split, or without.*with train"):
        data.load_test(Config(mode="check", data=str(table)).data)


def test_a_test_split_that_is_not_labelled_is_named(tmp_path):
    for folder in ("train/a", "train/b", "test"):
        write_images(tmp_path / folder, COLOURS["red"], 1)
    message = "with train; .*/test is not read, since it contains no class folders"
    with pytest.raises(UserError, match=message):
        data.load_test(Config(mode="check", data=str(tmp_path)).data)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({"only": 5}, "at least 2 classes.*'only' only"),
        ({"a": 5, "b": 1}, "at least 3 images.*1 of class 'b'"),
        ({"train/a": 4, "train/b": 4, "test/c": 4}, "in train.*none of 'c'"),
        ({"test/a": 4, "test/b": 4}, "images in train.*with test"),
    ],
)
def test_too_few_classes_or_images_are_an_error(tmp_path, folders, message):
    for folder, count in folders.items():
        write_images(tmp_path / folder, COLOURS["red"], count)
    with pytest.raises(UserError, match=message):
        load(tmp_path)


def test_the_error_about_a_class_says_what_its_first_file_is(tmp_path):
    write_images(tmp_path / "data" / "a", COLOURS["red"], 4)
    (tmp_path / "data" / "a" / "0.png").write_bytes(b"")
    rows = [*(f"data/a/{i}.png,a" for i in range(4)), *(f"{i}.png,b" for i in range(4))]
    (tmp_path / "t.csv").write_text("\n".join(["path,label", *rows]))
    with pytest.raises(UserError, match="none of 'b'; 4 of 8 files .*/0.png; paths"):
        load(tmp_path / "t.csv")
