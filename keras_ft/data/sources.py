"""Lists the examples that `--data` names, without opening an image."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from keras_ft.config.schema import DataConfig
from keras_ft.data.examples import SET_PREFIXES, Examples, Finding, Row
from keras_ft.data.folders import list_folder
from keras_ft.data.sets import list_set
from keras_ft.data.tables import is_table, line_error, read_table
from keras_ft.errors import UserError


def load_examples(config: DataConfig) -> tuple[Examples, list[Finding]]:
    """Lists the labelled images of a data set.

    Args:
        config: `data`, `classes`, and the folders of built-in and TFDS sets.

    Returns:
        The examples, with the splits that their source assigns, and findings about
        its folders.

    Raises:
        UserError: The source does not exist, is malformed, contains no image or none
            of one of `classes`.
    """
    findings: list[Finding] = []
    if config.data.startswith(SET_PREFIXES):
        rows = list_set(config)
    elif is_table(config.data):
        rows = list(_list_table(config))
    else:
        rows, findings = list_folder(config.data)
    if config.classes:
        rows = _select_classes(rows, config)
        findings = [f for f in findings if not _is_left_out(f, config.classes)]
    return _make_examples(rows, config.data), findings


def _select_classes(rows: Sequence[Row], config: DataConfig) -> list[Row]:
    """The rows of `--classes`."""
    existing = {row.class_name for row in rows}
    unknown = [name for name in config.classes if name not in existing]
    if unknown:
        raise UserError(
            f"--classes must name classes of {config.data}: "
            f"{', '.join(sorted(existing))}. Received: {', '.join(unknown)}"
        )
    return [row for row in rows if row.class_name in config.classes]


def _is_left_out(finding: Finding, classes: Sequence[str]) -> bool:
    """Whether a finding is about the empty folder of a class that is not selected."""
    is_empty = finding.name == "empty_folder"
    return is_empty and os.path.basename(finding.path) not in classes


def load_table_images(config: DataConfig) -> tuple[list[str], list[str]]:
    """Lists paths and files of all rows of a CSV file; labels are optional.

    Raises:
        UserError: The CSV file can't be read or is malformed.
    """
    find_file = _make_find_file(config)
    paths = [row.path for _, row in read_table(config.data)]
    return paths, [find_file(path) for path in paths]


def _list_table(config: DataConfig) -> Iterator[Row]:
    find_file = _make_find_file(config)
    lines: dict[str, int] = {}
    for line, (path, label, split, group) in read_table(config.data):
        if not label:
            raise line_error(config.data, line, "a row needs a label", path)
        if lines.setdefault(path, line) != line:
            rule = f"a path must be unique, and line {lines[path]} has it"
            raise line_error(config.data, line, rule, path)
        if split == "unused":
            continue
        # A file that an earlier run skipped may be readable now.
        split = "" if split == "skipped" else split
        yield Row(path, find_file(path), label, split, group)


def _make_find_file(config: DataConfig) -> Callable[[str], str]:
    """Makes the function from a path in a CSV file to the file of the image.

    Paths are relative to the CSV file. In a run's splits.csv they are as the run
    received them: if the first one exists only relative to the working folder, all of
    them are relative to that.
    """
    folder = os.path.dirname(config.data)
    for _, row in itertools.islice(read_table(config.data), 1):
        beside_table = os.path.join(folder, row.path)
        if not os.path.exists(beside_table) and os.path.exists(row.path):
            folder = ""

    @functools.cache
    def list_files(name: str) -> dict[str, str]:
        rows = list_set(dataclasses.replace(config, data=name))
        return {row.path: row.file for row in rows}

    def find_file(path: str) -> str:
        if not path.startswith(SET_PREFIXES):
            return os.path.join(folder, path)
        # builtin:NAME/NUMBER or tfds:NAME/SPLIT/NUMBER
        name = path.rsplit("/", 2 if path.startswith("tfds:") else 1)[0]
        files = list_files(name)
        if path not in files:
            raise UserError(f"{config.data}: {name} has no example {path}.")
        return files[path]

    return find_file


def _make_examples(rows: Sequence[Row], data: str) -> Examples:
    if not rows:
        raise UserError(f"--data must contain images. Received: {data} without any")
    paths, files, labels, splits, groups = zip(*rows, strict=True)
    class_names = sorted(set(labels))
    for name in class_names:
        try:
            name.encode()
        except UnicodeEncodeError:  # a SavedModel can't store it
            message = f"Class names must be valid UTF-8. Received: {name!a}"
            raise UserError(message) from None
    index = {name: label for label, name in enumerate(class_names)}
    return Examples(
        np.array(paths, object),
        np.array(files, object),
        np.array([index[name] for name in labels], np.int64),
        np.array(splits, object),
        np.array(groups, object),
        tuple(class_names),
    )
