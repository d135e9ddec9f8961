import numpy as np
import pytest

from keras_ft.errors import UserError
from keras_ft.kinds.task import (
    MULTICLASS,
    MULTILABEL,
    Task,
    is_plain,
    parse_columns,
    to_columns,
)


def test_columns_are_tasks_and_tasks_columns():
    tasks = parse_columns(["species", "tags:multi"])
    assert tasks == (Task("species"), Task("tags", kind=MULTILABEL))
    assert to_columns(tasks) == ("species", "tags:multi")
    assert parse_columns([]) == (Task("label"),)


@pytest.mark.parametrize(
    "columns", [["a", "a"], ["a", "a:multi"], [""], ["path"], ["a/b"], ["a:many"]]
)
def test_names_must_be_usable(columns):
    with pytest.raises(UserError, match=rf"Received: {','.join(columns)}$"):
        parse_columns(columns)


def test_only_one_task_with_one_class_per_image_needs_no_name():
    assert is_plain([Task("species")])
    assert not is_plain([Task("tags", kind=MULTILABEL)])
    assert not is_plain([Task("species"), Task("age")])


def test_unlabelled_images_are_not_counted():
    target = np.array([1, -1, 1, 0])
    assert MULTICLASS.is_labelled(target).tolist() == [True, False, True, True]
    assert Task(class_names=("a", "b", "c")).count_classes(target).tolist() == [
        1,
        2,
        0,
    ]
    tags = np.array([[1, 1], [-1, -1], [0, 0], [0, 1]])
    assert MULTILABEL.is_labelled(tags).tolist() == [True, False, True, True]
    task = Task(class_names=("a", "b"), kind=MULTILABEL)
    assert task.count_classes(tags).tolist() == [1, 2]
