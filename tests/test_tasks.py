import numpy as np
import pytest

from keras_ft.errors import UserError
from keras_ft.tasks import (
    Task,
    count_classes,
    is_labelled,
    is_plain,
    parse_columns,
    to_columns,
)


def test_columns_are_tasks_and_tasks_columns():
    tasks = parse_columns(["species", "tags:multi"])
    assert tasks == (Task("species"), Task("tags", is_multilabel=True))
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
    assert not is_plain([Task("tags", is_multilabel=True)])
    assert not is_plain([Task("species"), Task("age")])


def test_unlabelled_images_are_not_counted():
    target = np.array([1, -1, 1, 0])
    assert is_labelled(target).tolist() == [True, False, True, True]
    assert count_classes(Task(class_names=("a", "b", "c")), target).tolist() == [
        1,
        2,
        0,
    ]
    tags = np.array([[1, 1], [-1, -1], [0, 0], [0, 1]])
    assert is_labelled(tags).tolist() == [True, False, True, True]
    task = Task(class_names=("a", "b"), is_multilabel=True)
    assert count_classes(task, tags).tolist() == [1, 2]
