import pytest
from helpers import COLOURS, write_images

from keras_ft.config.schema import DataConfig
from keras_ft.config.settings import Config
from keras_ft.data.dataset import load_splits
from keras_ft.data.layout import parse_split
from keras_ft.data.sources import load_examples
from keras_ft.errors import UserError


@pytest.fixture
def load(tmp_path):
    """Loads folders, each with an image or, with a slash at its end, none.

    Returns the split, class and number of the images, and the findings.
    """

    def call(*folders):
        for folder in folders:
            if folder.endswith("/"):
                (tmp_path / folder).mkdir(parents=True)
            else:
                write_images(tmp_path / folder, COLOURS["red"], 1)
        examples, findings = load_examples(DataConfig(data=str(tmp_path)))
        names = [examples.class_names[label] for label in examples.labels]
        return (
            sorted(zip(examples.splits, names, strict=True)),
            [(f.path.removeprefix(f"{tmp_path}/"), f.name) for f in findings],
        )

    return call


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("TRAIN", ("train", "")),
        ("Training", ("train", "")),
        ("trainset", ("train", "")),
        ("TestImages", ("test", "")),
        ("Validation Data", ("val", "")),
        ("dev", ("val", "")),
        ("hold-out", ("test", "")),
        ("seg_train", ("train", "seg")),
        ("train2017", ("train", "2017")),
        ("train_val", ("", "")),
        ("strain", ("", "")),
        ("invalid", ("", "")),
        ("testicle", ("", "")),
        ("a", ("", "")),
        ("-1", ("", "")),
        ("größe", ("", "")),
    ],
)
def test_a_folder_may_be_named_after_a_split(name, expected):
    assert parse_split(name) == expected


@pytest.mark.parametrize(
    ("train", "other", "split"),
    [
        ("train", "test", "test"),
        ("Training", "Testing", "test"),
        ("TRAIN", "Val", "val"),
        ("train", "dev", "val"),
        ("train", "holdout", "test"),
        ("seg_train/seg_train", "seg_test/seg_test", "test"),
        ("train_images/train", "test_images/Test", "test"),
        ("train2017", "val2017", "val"),
        ("my train set", "my eval set", "test"),
        ("train/images", "val/images", "val"),
    ],
)
def test_splits_are_recognised_in_the_usual_spellings(load, train, other, split):
    found = load(*(f"{s}/{c}" for s in (train, other) for c in ("cat", "dog")))
    expected = [(s, c) for s in (split, "train") for c in ("cat", "dog")]
    assert found == (sorted(expected), [])


def test_a_folder_beside_splits_is_reported_and_no_class(load):
    folders = [f"seg_{s}/{c}" for s in ("train", "test") for c in ("cat", "dog")]
    rows, findings = load(*folders, "seg_pred", "runs/", "__MACOSX/a", ".git/")
    assert {name for _, name in rows} == {"cat", "dog"}
    assert sorted(findings) == [
        (path, "suspicious_folder") for path in (".git", "__MACOSX", "runs", "seg_pred")
    ]


@pytest.mark.parametrize(
    "folder", ["test", "test/", "test/images", "test/unknown/", "test/cat/"]
)
def test_an_unlabelled_split_is_reported_and_drawn(load, folder, tmp_path):
    rows, findings = load("train/cat", "train/dog", folder)
    assert rows == [("train", "cat"), ("train", "dog")]
    assert findings[-1:] == [("test", "unlabelled_split")]
    assert {name for _, name in findings[:-1]} <= {"empty_folder"}
    for name in ("cat", "dog"):
        write_images(tmp_path / "train" / name / "more", COLOURS["red"], 9)
    examples = load_splits(Config(mode="check", data=str(tmp_path)).data, seed=0)
    assert len(examples.test) == len(examples.val) == 4


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (
            ["train/cat", "train/dog", "runs"],
            "train, which contains cat, dog, beside runs. If train is a split, na",
        ),
        (["a", "test_b/a"], "test_b, which contains a, beside a. If .* CSV"),
        (
            ["train/a", "val/a", "valid/a"],
            "one folder per split.*2 for val: val, valid",
        ),
        (["Train/a", "TRAIN/a"], "one folder per split.*2 for train: TRAIN, Train"),
        (["eval", "dev"], "dev without folders; if splits are meant as classes"),
        (["train", "test"], "test without folders; if splits are meant as classes"),
        (
            ["cup/train", "cup/test", "jug/train", "jug/test"],
            "Splits must be above.*cup with test, train; .*pass --data=.*/cup$",
        ),
        (
            ["cup/train/good", "cup/test/bad", "jug/x"],
            "Splits must be above.*test, train",
        ),
        (["cup/Train", "jug/Train"], "Splits must be above.*/train/cup.*with Train"),
    ],
)
def test_folders_that_are_partly_splits_are_an_error(load, folders, message):
    with pytest.raises(UserError, match=message):
        load(*folders)


@pytest.mark.parametrize(
    ("folders", "suspicious"),
    [
        (["bus", "car", "train"], ["train"]),
        (["valid", "invalid"], ["valid"]),
        (["test_tube", "test_strip"], []),
        (["bullet train", "steam train"], []),
        (["0", "1", "10"], []),
        (["a", "b", "e"], []),
        (["cat/images", "dog/images"], []),
        (["2019/cat", "2019/dog", "2020/cat", "2020/dog"], [""]),
        (["cat/images", "cat/masks", "dog/images", "dog/masks"], [""]),
    ],
)
def test_classes_may_have_any_names(load, folders, suspicious, tmp_path):
    rows, findings = load(*folders)
    assert rows == sorted(("", folder.partition("/")[0]) for folder in folders)
    paths = [path.removeprefix(str(tmp_path)) for path, _ in findings]
    assert paths == suspicious
    assert {name for _, name in findings} <= {"suspicious_layout"}


@pytest.mark.parametrize(
    "inside", [("cat", "dog"), ("train/cat", "test/cat"), ("photos/cat", "photos/dog")]
)
def test_a_folder_around_all_classes_is_named_in_the_error(tmp_path, inside):
    for folder in inside:
        write_images(tmp_path / "photos" / folder, COLOURS["red"], 5)
    with pytest.raises(UserError, match=f"2 classes.*pass --data={tmp_path}/photos"):
        load_splits(Config(mode="check", data=str(tmp_path)).data, seed=0)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (
            ["dev/a", "dev/b", "test/a", "Entreno/a"],
            "test and val; .*Entreno is not n",
        ),
        (["train/Cat", "train/dog", "test/cat"], "none of 'cat'; 'cat' and 'Cat' are"),
    ],
)
def test_an_error_about_train_says_which_names_may_be_the_reason(
    load, tmp_path, folders, message
):
    load(*folders)
    with pytest.raises(UserError, match=message):
        load_splits(Config(mode="check", data=str(tmp_path)).data, seed=0)
