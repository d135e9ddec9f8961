"""Classes with too few images for each split."""

import numpy as np
from helpers import COLOURS, make_labelled, write_images

from keras_ft.config.settings import Config
from keras_ft.data import dataset as data
from keras_ft.data.splits import assign_splits, find_rare_classes


def test_classes_that_are_too_small_can_stay_in_train():
    examples = make_labelled([0] * 10 + [1] + [2] * 2 + [3] * 3)
    splits = assign_splits(examples, np.arange(16), 0.15, 0.15, 0, "train").splits
    assert set(splits[10:13]) == {"train"}
    assert sorted(splits[13:]) == ["test", "train", "val"]
    assert set(splits[:10]) == {"train", "val", "test"}


def test_a_class_is_rare_by_its_groups_and_by_the_splits_that_are_drawn():
    groups = [""] * 6 + ["p"] * 4
    assert (
        find_rare_classes(
            make_labelled([0] * 6 + [1] * 4, groups=groups), np.arange(10)
        )
        == 1
    )
    given = ["test"] * 2 + [""] * 3
    examples = make_labelled([0, 1, 0, 0, 1], given)
    assert find_rare_classes(examples, np.arange(5)).tolist() == [1]
    assert not len(find_rare_classes(make_labelled([0, 1] * 3), np.arange(6)))


def test_rare_classes_can_be_left_out(tmp_path):
    for name, size in (("blue", 1), ("green", 6), ("red", 6)):
        write_images(tmp_path / name, COLOURS[name], size)
    (tmp_path / "empty").mkdir()
    (tmp_path / "blue" / "bad.png").write_text("no image")
    config = Config(mode="check", data=str(tmp_path), on_rare_class="skip").data
    dataset = data.load_dataset(config)
    assert dataset.examples.class_names == ("green", "red")
    assert len(dataset.facts) == len(dataset.originals) == len(dataset.examples) == 12
    assert set(dataset.originals[dataset.examples.labels == 1]) == {
        str(path) for path in (tmp_path / "red").iterdir()
    }
    found = {f.name: (f.path, f.detail) for f in dataset.findings}
    assert found["rare_class"] == ("blue", "left out: 2 images")
    assert data.load_splits(config, 0).count_classes().tolist() == [6, 6]
