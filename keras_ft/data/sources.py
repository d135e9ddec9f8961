"""Lists the examples that `--data` names, without opening an image."""

import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from keras_ft.config.schema import DataConfig
from keras_ft.data.examples import SET_PREFIXES, Examples, Finding, Row
from keras_ft.data.file_facts import FORMAT_NAMES
from keras_ft.data.folders import list_folder
from keras_ft.data.layout import count_ignored
from keras_ft.data.sets import list_set
from keras_ft.data.tables import (
    check_columns,
    is_table,
    line_error,
    make_find_file,
    read_table,
)
from keras_ft.errors import UserError
from keras_ft.host.text import counted, hint_alike
from keras_ft.kinds.task import Task, parse_columns

log = logging.getLogger("keras_ft")


def load_examples(config: DataConfig) -> tuple[Examples, list[Finding]]:
    """Lists labelled images, in the splits of their source; and findings about folders.

    Raises:
        UserError: The source does not exist, is malformed, contains no labelled image
            or none of one of `classes`, or has not all `label_columns`.
    """
    tasks = parse_columns(config.label_columns)
    findings: list[Finding] = []
    if config.label_columns and not is_table(config.data):
        raise UserError(
            "--label_columns names columns of a CSV file. "
            f"Received: --data={config.data}"
        )
    if config.data.startswith(SET_PREFIXES):
        rows = list_set(config)
    elif is_table(config.data):
        rows = list(_list_table(config, tasks))
    else:
        rows, findings = list_folder(config.data)
    if config.classes:
        rows = _select_classes(rows, config)
        findings = [
            finding
            for finding in findings
            if finding.name != "empty_folder"
            or os.path.basename(finding.path).strip() in config.classes
        ]
    if not rows:
        others = count_ignored(findings)
        raise UserError(
            f"--data must contain labelled images, {FORMAT_NAMES}. "
            f"Received: none in {config.data}{others and f'; {others}'}"
        )
    return _make_examples(rows, tasks), findings


def _select_classes(rows: Sequence[Row], config: DataConfig) -> list[Row]:
    existing = {row.labels[0] for row in rows}
    unknown = [name for name in config.classes if name not in existing]
    if unknown:
        raise UserError(
            f"--classes must name classes of {config.data}: "
            f"{', '.join(sorted(existing))}. Received: {', '.join(unknown)}"
            f"{hint_alike(unknown, existing)}"
        )
    return [row for row in rows if row.labels[0] in config.classes]


def read_table_images(config: DataConfig) -> Iterator[tuple[str, str]]:
    """Reads path and file of all rows of a CSV file; labels are optional.

    Raises:
        UserError: The CSV file can't be read or is malformed.
    """
    find_file = _make_find_file(config)
    for _, row in read_table(config.data):
        yield row.path, find_file(row)


def _list_table(config: DataConfig, tasks: Sequence[Task]) -> Iterator[Row]:
    """Lists the rows of a table that have a label."""
    columns = [task.name for task in tasks]
    check_columns(config.data, columns)
    find_file = _make_find_file(config)
    lines: dict[str, int] = {}
    num_unlabelled = 0
    for line, row in read_table(config.data, columns):
        if lines.setdefault(row.path, line) != line:
            rule = f"a path must be unique, and line {lines[row.path]} has it"
            raise line_error(config.data, line, rule, row.path)
        if not any(row.labels):
            if not config.label_columns:
                raise line_error(config.data, line, "a row needs a label", row.path)
            num_unlabelled += 1
            continue
        if config.label_columns:
            for label, task in zip(row.labels, tasks, strict=True):
                if rule := task.kind.find_mistake(task, label):
                    raise line_error(config.data, line, rule, label)
        if row.split == "unused":
            continue
        # A file that an earlier run skipped may be readable now.
        split = "" if row.split == "skipped" else row.split
        yield row._replace(file=find_file(row), split=split)
    if num_unlabelled:
        log.info(
            "Left out %s of %s without any label.",
            counted(num_unlabelled, "image"),
            config.data,
        )


def _make_find_file(config: DataConfig) -> Callable[[Row], str]:
    """Makes the function from a row of a CSV file to the file of the image."""
    find_file_of_user = make_find_file(config.data)

    @functools.cache
    def list_files(name: str) -> dict[str, str]:
        rows = list_set(dataclasses.replace(config, data=name))
        return {row.path: row.file for row in rows}

    def find_file(row: Row) -> str:
        path = row.path
        if not path.startswith(SET_PREFIXES):
            return find_file_of_user(row)
        # builtin:NAME/NUMBER or tfds:NAME/SPLIT/NUMBER
        name = path.rsplit("/", 2 if path.startswith("tfds:") else 1)[0]
        files = list_files(name)
        if path not in files:
            raise UserError(f"{config.data}: {name} has no example {path}.")
        return files[path]

    return find_file


def _make_examples(rows: Sequence[Row], tasks: Sequence[Task]) -> Examples:
    paths, files, labels, splits, groups, *_ = zip(*rows, strict=True)
    columns = ([name.strip() for name in c] for c in zip(*labels, strict=True))
    labelled = [task.kind.read(task, c) for task, c in zip(tasks, columns, strict=True)]
    for task, _ in labelled:
        _check_names(task)
    return Examples(
        np.array(paths, object),
        np.array(files, object),
        tuple(task for task, _ in labelled),
        tuple(target for _, target in labelled),
        np.array(splits, object),
        np.array(groups, object),
    )


def _check_names(task: Task) -> None:
    if not task.class_names:
        raise UserError(
            "--label_columns must name columns with labels. Received: all cells of "
            f"{task.name} are empty"
        )
    for name in task.class_names:
        try:
            name.encode()
        except UnicodeEncodeError:  # a SavedModel can't store it
            raise UserError(
                "Class names must be valid UTF-8: save a table as UTF-8, or rename a "
                f"folder. Received: {name!a}"
            ) from None
