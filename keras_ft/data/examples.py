"""The examples of a data set: a table of labelled images."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# str [N]
Strings = Sequence[str] | np.ndarray

SPLIT_NAMES = ("train", "val", "test")
# The names that folders, tables and TFDS sets may use for a split, and ours.
SPLIT_ALIASES = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
# Paths of examples that come from a set and not from a file of the user's.
SET_PREFIXES = ("builtin:", "tfds:")


class Row(NamedTuple):
    """One example as its source lists it; see `Examples` for the columns."""

    path: str
    file: str
    class_name: str
    split: str = ""
    group: str = ""


@dataclasses.dataclass(frozen=True)
class Examples:
    """Images, one row each.

    Attributes:
        paths: str [N], names as written in splits.csv and predictions.
        files: str [N], files with the encoded images: the user's, or copies of them in
            a format that TensorFlow decodes.
        labels: int64 [N], indices into `class_names`; -1 without a label.
        splits: str [N], one of `SPLIT_NAMES`, or `skipped` (can't be read), `unused`
            (left out by `--examples_per_class`) or empty (not assigned yet).
        groups: str [N]; examples of one group, such as one patient, belong in one
            split. Empty for an example without a group.
        class_names: The K classes, sorted.
    """

    paths: np.ndarray
    files: np.ndarray
    labels: np.ndarray
    splits: np.ndarray
    groups: np.ndarray
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, which: np.ndarray) -> "Examples":
        """Returns the examples at some indices, or where a mask is true."""
        columns = ("paths", "files", "labels", "splits", "groups")
        return dataclasses.replace(
            self, **{name: getattr(self, name)[which] for name in columns}
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

    def count_classes(self) -> np.ndarray:
        """Returns the number of examples of each class, int64 [K]."""
        return np.bincount(self.labels, minlength=len(self.class_names))


def make_examples(
    paths: Strings,
    files: Strings | None = None,
    labels: Sequence[int] | np.ndarray | None = None,
    class_names: Sequence[str] = (),
) -> Examples:
    """Makes examples without splits and groups.

    Args:
        paths: N names.
        files: N files. Defaults to `paths`.
        labels: N indices into `class_names`. Defaults to -1, no label.
        class_names: K names.
    """
    empty = np.full(len(paths), "", object)
    return Examples(
        paths=np.array(paths, object),
        files=np.array(paths if files is None else files, object),
        labels=np.array([-1] * len(paths) if labels is None else labels, np.int64),
        splits=empty,
        groups=empty,
        class_names=tuple(class_names),
    )


@dataclasses.dataclass(frozen=True)
class Finding:
    """A problem or a peculiarity of a data set.

    Attributes:
        path: The image, folder or class that it concerns.
        name: The kind of finding, in snake case.
        detail: A description in words.
    """

    path: str
    name: str
    detail: str


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The content of a data source, before it is split.

    Attributes:
        examples: N examples, with the splits that the source assigns.
        facts: `file_facts.FACTS` [N], properties of the user's files.
        findings: Problems with the source's folders.
    """

    examples: Examples
    facts: np.ndarray
    findings: Sequence[Finding]
