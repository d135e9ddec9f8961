"""Tasks: the questions that a classifier answers about each image."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_ft.errors import UserError
from keras_ft.kinds.kind import Kind
from keras_ft.kinds.multiclass import Multiclass
from keras_ft.kinds.multilabel import Multilabel

# The task of data that has one label per image and no name for it.
DEFAULT_NAME = "label"
MULTICLASS = Multiclass()
MULTILABEL = Multilabel()
KINDS: dict[str, Kind] = {kind.name: kind for kind in (MULTICLASS, MULTILABEL)}


@dataclasses.dataclass(frozen=True)
class Task:
    """A question about an image, with K possible answers, sorted.

    It has the name of the column of the labels. The thresholds are K probabilities from
    which on a class of a multilabel task applies; none if they are not chosen yet.
    """

    name: str = DEFAULT_NAME
    class_names: tuple[str, ...] = ()
    kind: Kind = MULTICLASS
    thresholds: tuple[float, ...] = ()

    def names_of(self, label: np.ndarray) -> list[str]:
        """The names of the classes in one row of a target."""
        _, classes = self.kind.list_classes(np.asarray(label)[None])
        return [self.class_names[i] for i in classes]

    def name_all(self, probabilities: np.ndarray) -> dict[str, float]:
        """All classes and their probabilities, float [K], the highest first."""
        order = np.argsort(-probabilities, kind="stable")
        return {self.class_names[i]: float(probabilities[i]) for i in order}

    def count_classes(self, target: np.ndarray) -> np.ndarray:
        """The number of examples of each class in a target, int64 [K]."""
        _, classes = self.kind.list_classes(target)
        return np.bincount(classes, minlength=len(self.class_names))


def agree(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Whether all answers for an example are the same: two targets -> bool [N]."""
    return (one == other).reshape(len(one), -1).all(axis=1)


def is_plain(tasks: Sequence[Task]) -> bool:
    """Whether there is one question with one answer, so that no task needs a name.

    Files and signatures then have a shape of their own, as classifiers usually have.
    """
    return len(tasks) == 1 and tasks[0].kind == MULTICLASS


def name_field(name: str, task: Task, tasks: Sequence[Task]) -> str:
    """The name of something that each of the tasks has: `TASK/name`, or plainly it."""
    return name if is_plain(tasks) else f"{task.name}/{name}"


def parse_columns(columns: Sequence[str]) -> tuple[Task, ...]:
    """Reads `--label_columns`: `NAME`, or `NAME:multi` for a multilabel task.

    Raises:
        UserError: A name is empty, not unique or can't be used.
    """
    by_suffix = {kind.suffix: kind for kind in KINDS.values()}
    tasks = []
    for column in columns:
        name, colon, suffix = column.partition(":")
        if colon + suffix not in by_suffix:
            name = column
        tasks.append(Task(name, kind=by_suffix.get(colon + suffix, MULTICLASS)))
    names = {task.name for task in tasks}
    reserved = names & {"", "path", "split", "group", "relative_to", "sha256"}
    if reserved or set("".join(names)) & set("/:") or len(names) < len(tasks):
        raise UserError(
            "--label_columns must name each column of labels once, without / and :, "
            "such as species,tags:multi; path, split, group, relative_to and sha256 "
            f"are no labels. Received: {','.join(columns)}"
        )
    return tuple(tasks) or (Task(),)


def to_columns(tasks: Sequence[Task]) -> tuple[str, ...]:
    """The `--label_columns` of tasks."""
    return tuple(task.name + task.kind.suffix for task in tasks)
