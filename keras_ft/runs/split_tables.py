"""splits.csv, which names the examples of a run, and audit.csv."""

import functools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from keras_ft.data.examples import SET_PREFIXES, SPLIT_NAMES, Dataset, Finding, Row
from keras_ft.data.file_facts import list_hashes
from keras_ft.data.tables import spell
from keras_ft.host import files
from keras_ft.host.text import as_text

LEFT_OUT = ("skipped", "unused")


def list_rows(dataset: Dataset) -> Iterator[Row]:
    """The examples as rows of splits.csv, split by split; first those without one."""
    examples, hashes = dataset.examples, list_hashes(dataset.facts)
    absolute = functools.cache(os.path.abspath)
    order = ("", *SPLIT_NAMES, *LEFT_OUT)
    which = np.concatenate([np.flatnonzero(examples.splits == name) for name in order])
    for i in which.tolist():
        path, file = examples.paths[i], dataset.originals[i]
        labels = (
            task.kind.to_cell(task, target[i])
            for task, target in zip(examples.tasks, examples.targets, strict=True)
        )
        is_relative = not (os.path.isabs(path) or path.startswith(SET_PREFIXES))
        end = next(filter(file.endswith, spell(path)), path)
        relative_to = absolute(file.removesuffix(end)) if is_relative else ""
        split, group = examples.splits[i], examples.groups[i]
        yield Row(path, file, tuple(labels), split, group, relative_to, hashes[i])


def write_splits(path: Path, dataset: Dataset) -> None:
    """Writes the table of all examples, which `--data` accepts."""
    labels = (task.name for task in dataset.examples.tasks)
    header = ("path", *labels, "split", "group", "relative_to", "sha256")
    rows = (
        (row.path, *row.labels, row.split, row.group, row.relative_to, row.sha256)
        for row in list_rows(dataset)
    )
    files.write_csv(path, [header, *rows])


def write_audit(path: Path, findings: Iterable[Finding]) -> None:
    """Writes findings as a CSV file."""
    rows = [(as_text(each.path), each.name, as_text(each.detail)) for each in findings]
    files.write_csv(path, [("path", "finding", "detail"), *rows])
