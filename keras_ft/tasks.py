"""Tasks: the questions that a classifier answers about each image."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_ft.errors import UserError

# The task of data that has one label per image and no name for it.
DEFAULT_NAME = "label"
# Between the labels of an image in one cell of a table.
SEPARATOR = "|"
_MULTILABEL_SUFFIX = ":multi"


@dataclasses.dataclass(frozen=True)
class Task:
    """A question about an image.

    Attributes:
        name: The column of the labels.
        class_names: The K possible answers, sorted.
        is_multilabel: Whether any number of classes apply to an image, also none;
            otherwise it is exactly one.
        thresholds: K probabilities from which on a class of a multilabel task applies;
            empty if they are not chosen yet, and for other tasks.
    """

    name: str = DEFAULT_NAME
    class_names: tuple[str, ...] = ()
    is_multilabel: bool = False
    thresholds: tuple[float, ...] = ()

    @property
    def kind(self) -> str:
        """`multilabel` or `multiclass`."""
        return "multilabel" if self.is_multilabel else "multiclass"


def is_plain(tasks: Sequence[Task]) -> bool:
    """Whether there is one question with one answer, so that no task needs a name."""
    return len(tasks) == 1 and not tasks[0].is_multilabel


def is_labelled(target: np.ndarray) -> np.ndarray:
    """Returns which images are labelled for a task, bool [N].

    Args:
        target: The labels: int [N], or int [N, K] of a multilabel task; -1 in all of an
            image that is not labelled.
    """
    return np.asarray(target >= 0 if target.ndim == 1 else (target >= 0).all(axis=1))


def count_classes(task: Task, target: np.ndarray) -> np.ndarray:
    """Returns the number of images of each class of a task, int64 [K].

    Args:
        task: The task.
        target: The labels, see `is_labelled`.
    """
    labels = target[is_labelled(target)]
    if task.is_multilabel:
        return labels.sum(axis=0, dtype=np.int64)
    return np.bincount(labels, minlength=len(task.class_names))


def parse_columns(columns: Sequence[str]) -> tuple[Task, ...]:
    """Reads `--label_columns`: `NAME`, or `NAME:multi` for a multilabel task.

    Returns:
        Tasks without classes; the default one if there are no columns.

    Raises:
        UserError: A name is empty, not unique or can't be used.
    """
    tasks = tuple(
        Task(
            column.removesuffix(_MULTILABEL_SUFFIX),
            is_multilabel=column.endswith(_MULTILABEL_SUFFIX),
        )
        for column in columns
    )
    names = [task.name for task in tasks]
    bad = [
        name
        for name in names
        if not name or name in ("path", "split", "group") or set(name) & set("/:")
    ]
    if bad or len(set(names)) < len(names):
        raise UserError(
            "--label_columns must name each column of labels once, without / and :, "
            "such as species,tags:multi; path, split and group are no labels. "
            f"Received: {','.join(columns)}"
        )
    return tasks or (Task(),)


def to_columns(tasks: Sequence[Task]) -> tuple[str, ...]:
    """The `--label_columns` of tasks."""
    return tuple(
        task.name + (_MULTILABEL_SUFFIX if task.is_multilabel else "") for task in tasks
    )
