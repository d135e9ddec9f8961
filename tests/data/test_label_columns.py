"""Several columns of labels: from a table to splits, and back to a table."""

import numpy as np
import pytest
from helpers import make_dataset

from keras_ft.config.schema import DataConfig
from keras_ft.data.examples import Examples
from keras_ft.data.sources import load_examples
from keras_ft.data.splits import assign_splits, limit_train
from keras_ft.errors import UserError
from keras_ft.kinds.task import MULTILABEL, Task
from keras_ft.runs.split_tables import write_splits

TABLE = """path,species,tags,note
1.png,cat,old|big,x
2.png,,big,
3.png,dog,|,
4.png,cat,,
5.png,,,
6.png,dog, old ,
"""


def load(folder, text, *columns):
    table = folder / "table.csv"
    table.write_text(text)
    config = DataConfig(data=str(table), label_columns=columns)
    return load_examples(config)[0]


def test_each_column_is_a_task_and_empty_cells_are_not_labelled(tmp_path, caplog):
    examples = load(tmp_path, TABLE, "species", "tags:multi")
    assert examples.tasks == (
        Task("species", ("cat", "dog")),
        Task("tags", ("big", "old"), kind=MULTILABEL),
    )
    assert examples.paths.tolist() == ["1.png", "2.png", "3.png", "4.png", "6.png"]
    species, tags = examples.targets
    assert species.tolist() == [0, -1, 1, 0, 1]
    assert tags.tolist() == [[1, 1], [1, 0], [0, 0], [-1, -1], [0, 1]]
    assert "Left out 1 image of" in caplog.text
    assert "1 image without a label of tags: the cell is empty" in caplog.text


def test_one_task_has_the_examples_that_are_labelled_for_it(tmp_path):
    by_task = load(tmp_path, TABLE, "species", "tags:multi").by_task
    assert by_task["species"].paths.tolist() == ["1.png", "3.png", "4.png", "6.png"]
    assert by_task["species"].labels.tolist() == [0, 1, 0, 1]
    assert by_task["tags"].count_classes().tolist() == [2, 2]


def test_written_splits_are_read_as_the_same_tasks(tmp_path):
    examples = load(tmp_path, TABLE, "species", "tags:multi")
    splits = np.array(["train", "val", "train", "test", "test"], object)
    dataset = make_dataset(examples.with_splits(splits))
    write_splits(tmp_path / "splits.csv", dataset)
    text = (tmp_path / "splits.csv").read_text()
    again = load(tmp_path, text, "species", "tags:multi")
    assert again.tasks == examples.tasks
    for path, *labels in zip(again.paths, *again.targets, strict=True):
        [i] = np.flatnonzero(examples.paths == path)
        for label, target in zip(labels, examples.targets, strict=True):
            np.testing.assert_array_equal(label, target[i])
        assert again.splits[list(again.paths).index(path)] == splits[i]


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        (TABLE, ["specis"], "must name columns of .*Received: specis"),
        (TABLE, [], "or --label_columns those of the labels"),
        ("path,a\n1.png,x|y\n", ["a"], "line 2: .*says a:multi. Received: x|y"),
        ("path,a,b\n1.png,x,\n", ["a", "b"], "all cells of b are empty"),
        ("path,a\n1.png,\n", ["a"], "must contain labelled images"),
    ],
)
def test_mistakes_in_columns_are_named(tmp_path, text, columns, message):
    with pytest.raises(UserError, match=message):
        load(tmp_path, text, *columns)


def test_only_tables_have_columns(tmp_path):
    config = DataConfig(data="builtin:faces", label_columns=("a", "b"))
    with pytest.raises(UserError, match="columns of a CSV file.*builtin:faces"):
        load_examples(config)


def make_examples(count, seed=0):
    """A task of unequal classes, one of half of the images, and rare tags."""
    rng = np.random.default_rng(seed)
    species = rng.choice(4, count, p=[0.6, 0.3, 0.08, 0.02])
    age = np.where(rng.random(count) < 0.5, -1, rng.integers(0, 2, count))
    tags = (rng.random((count, 5)) < [0.5, 0.3, 0.1, 0.03, 0.01]).astype(np.int8)
    tags[rng.random(count) < 0.3] = -1
    names = np.array([f"{i}.png" for i in range(count)], object)
    empty = np.full(count, "", object)
    tasks = (
        Task("species", tuple("abcd")),
        Task("age", tuple("yo")),
        Task("tags", tuple("vwxyz"), kind=MULTILABEL),
    )
    return Examples(names, names, tasks, (species, age, tags), empty, empty)


@pytest.mark.parametrize("seed", range(3))
def test_splits_have_their_fraction_of_each_class_of_each_task(seed):
    examples = make_examples(1500, seed)
    split = assign_splits(examples, np.arange(1500), 0.1, 0.2, seed)
    for task, target in zip(examples.tasks, examples.targets, strict=True):
        counts = task.count_classes(target)
        for name, fraction in (("val", 0.1), ("test", 0.2)):
            drawn = task.count_classes(target[split.splits == name])
            # A random draw would miss rare classes by their standard deviation.
            assert np.all(np.abs(drawn - fraction * counts) <= 2 + 0.02 * counts)


def test_groups_do_not_cross_splits_with_several_tasks():
    examples = make_examples(400)
    groups = np.array([f"g{i // 3}" for i in range(400)], object)
    grouped = Examples(
        examples.paths,
        examples.files,
        examples.tasks,
        examples.targets,
        examples.splits,
        groups,
    )
    splits = assign_splits(grouped, np.arange(400), 0.15, 0.15, 0).splits
    for group in set(groups):
        assert len(set(splits[groups == group])) == 1


def test_a_rare_class_stays_in_train():
    species = np.array([0] * 20 + [1] * 20)
    tags = np.zeros((40, 2), np.int8)
    tags[::2, 0] = 1
    tags[7, 1] = 1  # one example only
    names = np.array([f"{i}.png" for i in range(40)], object)
    empty = np.full(40, "", object)
    tasks = (Task("species", ("a", "b")), Task("tags", ("c", "d"), kind=MULTILABEL))
    examples = Examples(names, names, tasks, (species, tags), empty, empty)
    for seed in range(10):
        splits = assign_splits(examples, np.arange(40), 0.3, 0.3, seed).splits
        assert splits[7] == "train"


def test_a_task_without_labels_in_a_split_is_an_error():
    examples = make_examples(100)
    species, age, tags = examples.targets
    age[:] = -1
    age[:2] = [0, 1]
    with pytest.raises(UserError, match="none for age in"):
        assign_splits(examples, np.arange(100), 0.15, 0.15, 0)


def test_limited_sets_keep_labels_of_each_class_of_each_task():
    examples = make_examples(600)
    train = examples.with_splits(np.full(600, "train", object))
    limited = limit_train(train, 5, seed=0)
    for task, target in zip(examples.tasks, examples.targets, strict=True):
        kept = task.count_classes(target[limited.splits == "train"])
        assert np.all(kept >= np.minimum(5, task.count_classes(target)))
    assert np.sum(limited.splits == "train") < 60
    larger = limit_train(train, 8, seed=0)
    assert np.all((limited.splits != "train") | (larger.splits == "train"))
    assert MULTILABEL.is_labelled(examples.targets[2]).sum() < 600
