"""The examples of a data set: a table of labelled images."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from keras_ft.host.text import counted
from keras_ft.kinds.task import Task

# str [N]
Strings = Sequence[str] | np.ndarray

SPLIT_NAMES = ("train", "val", "test")
# The names that folders, tables and TFDS sets may use for a split, and ours.
SPLIT_ALIASES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "holdout", "eval", "evaluation"), "test"),
}
# Paths of examples that come from a set and not from a file of the user's.
SET_PREFIXES = ("builtin:", "tfds:")


class Row(NamedTuple):
    """One example as its source lists it, see `Examples`.

    `labels` are cells of a table, empty without a label. In tables `file` is empty;
    those that a run has written say where the image was: `path` in `relative_to`.
    """

    path: str
    file: str
    labels: tuple[str, ...]
    split: str = ""
    group: str = ""
    relative_to: str = ""
    sha256: str = ""


@dataclasses.dataclass(frozen=True)
class Examples:
    """Images, one row each.

    Attributes:
        paths: str [N], names as written in splits.csv and predictions.
        files: str [N], the user's image files, or copies that TensorFlow can decode.
        tasks: At least one.
        targets: For each task N labels, as its kind says; of multiclass tasks indices
            into the classes, int64 [N], -1 for an image that is not labelled.
        splits: str [N], one of `SPLIT_NAMES`, or `skipped` (can't be read), `unused`
            (left out by `--examples_per_class`) or empty (not assigned yet).
        groups: str [N]; examples of one group, such as one patient, belong in one
            split. Empty without a group.
    """

    paths: np.ndarray
    files: np.ndarray
    tasks: tuple[Task, ...]
    targets: tuple[np.ndarray, ...]
    splits: np.ndarray
    groups: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def __repr__(self) -> str:
        return f"Examples({counted(len(self), 'image')})"

    def take(self, which: np.ndarray) -> "Examples":
        """Returns the examples at some indices, or where a mask is true."""
        columns = ("paths", "files", "splits", "groups")
        return dataclasses.replace(
            self,
            targets=tuple(target[which] for target in self.targets),
            **{name: getattr(self, name)[which] for name in columns},
        )

    def with_splits(self, splits: np.ndarray) -> "Examples":
        """Returns the same examples in other splits."""
        return dataclasses.replace(self, splits=splits)

    def split(self, name: str) -> "Examples":
        """Returns the examples of one split."""
        return self.take(self.splits == name)

    @functools.cached_property
    def train(self) -> "Examples":
        """The examples to learn from."""
        return self.split("train")

    @functools.cached_property
    def val(self) -> "Examples":
        """The examples that select the best model."""
        return self.split("val")

    @functools.cached_property
    def test(self) -> "Examples":
        """The examples that measure the selected model."""
        return self.split("test")

    @property
    def task(self) -> Task:
        """The only task."""
        [task] = self.tasks
        return task

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of the only task."""
        return self.task.class_names

    @property
    def labels(self) -> np.ndarray:
        """The labels of the only task, see `targets`."""
        [labels] = self.targets
        return labels

    @functools.cached_property
    def by_task(self) -> dict[str, "Examples"]:
        """For each task, the examples that are labelled for it, with that task only."""
        return {
            task.name: dataclasses.replace(self, tasks=(task,), targets=(target,)).take(
                task.kind.is_labelled(target)
            )
            for task, target in zip(self.tasks, self.targets, strict=True)
        }

    def target_of(self, task_name: str) -> np.ndarray:
        """Returns the labels of one of the tasks, see `targets`."""
        return self.targets[[task.name for task in self.tasks].index(task_name)]

    def count_classes(self) -> np.ndarray:
        """Returns the number of examples of each class of the only task, int64 [K]."""
        return self.task.count_classes(self.labels)


@dataclasses.dataclass(frozen=True)
class Finding:
    """What `name` says in snake case about `path`: an image, a folder or a class.

    `other` is the path of the image that it is compared with, empty if there is none.
    """

    path: str
    name: str
    detail: str
    other: str = ""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """N examples, and findings about them.

    Attributes:
        examples: In their splits, once these are assigned.
        facts: `file_facts.FACTS` [N] about the user's files.
        findings: What is wrong with them, or peculiar.
        originals: str [N], the user's files, of which `examples.files` may be copies.
    """

    examples: Examples
    facts: np.ndarray
    findings: Sequence[Finding]
    originals: np.ndarray
