"""What `--data` names -> a table of examples: folder, CSV, TFDS or builtin set.

Lists files and reads tables; opens no image.
"""

import csv
import dataclasses
import itertools
import os
from collections.abc import Iterator, Sequence

import numpy as np

from keras_ft.config.schema import DataConfig
from keras_ft.data import unpack
from keras_ft.data.examples import Examples, Finding
from keras_ft.data.unpack import SPLIT_ALIASES, Row
from keras_ft.errors import UserError

EXTENSIONS = (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".webp")
# The table that each run writes, which `--data` takes again, alone or in a folder.
SPLITS_CSV = "splits.csv"
_COLUMNS = ("path", "label", "split", "group")


def load_examples(config: DataConfig) -> tuple[Examples, list[Finding]]:
    """Lists the labelled images of a data set.

    Args:
        config: `data`, and where unpacked sets lie.

    Returns:
        The examples, with the splits that their source gives them, and what is odd
        about the folders.

    Raises:
        UserError: The source does not exist, is malformed or holds no image.
    """
    findings = []
    if config.data.startswith(("builtin:", "tfds:")):
        rows = [(*row, split, "") for split, row in _unpacked_rows(config)]
    elif is_table(config.data):
        rows = list(_table_rows(config))
    else:
        rows, findings = _folder_rows(config.data)
    return _make_examples(rows, config), findings


def _make_examples(
    rows: list[tuple[str, str, str, str, str]], config: DataConfig
) -> Examples:
    if not rows:
        raise UserError(f"--data must hold images. Received: {config.data} without any")
    paths, files, labels, splits, groups = zip(*rows, strict=True)
    class_names = sorted(set(labels))
    for name in class_names:
        if not _is_utf8(name):  # a SavedModel could not hold it
            raise UserError(f"Class names must be valid UTF-8. Received: {name!a}")
    index = {name: label for label, name in enumerate(class_names)}
    return Examples(
        np.array(paths, dtype=object),
        np.array(files, dtype=object),
        np.fromiter((index[name] for name in labels), np.int64, len(labels)),
        np.array(splits, dtype=object),
        np.array(groups, dtype=object),
        tuple(class_names),
    )


def is_table(data: str) -> bool:
    """Whether `--data` names a CSV file."""
    return data.lower().endswith(".csv") and not os.path.isdir(data)


def identity(path: str) -> str:
    """The same for all names of one file."""
    return path if path.startswith(("builtin:", "tfds:")) else os.path.realpath(path)


def list_images(path: str) -> list[str]:
    """Image files below a folder, sorted, hidden ones left out; or the one file.

    Raises:
        UserError: Nothing is there.
    """
    if os.path.isfile(path):
        return [path]
    if not os.path.isdir(path):
        raise UserError(f"--data must exist. Received: {path}")
    return _walk(path)[0]


def load_table_images(config: DataConfig) -> tuple[list[str], list[str]]:
    """Paths and files of all rows of a CSV file, which need no label.

    Raises:
        UserError: The file can't be read or is malformed.
    """
    resolve = _make_resolver(config)
    paths = [path for _, (path, *_) in read_table(config.data)]
    return paths, [resolve(path) for path in paths]


def _unpacked_rows(config: DataConfig) -> Iterator[tuple[str, Row]]:
    """Split and row of each example of a builtin or TFDS set."""
    if config.data.startswith("builtin:"):
        rows = {"": unpack.builtin_rows(config)["train"]}
    else:
        rows = unpack.tfds_rows(config)
    return ((split, row) for split in rows for row in rows[split])


# --- tables ------------------------------------------------------------------


def _table_rows(config: DataConfig) -> Iterator[tuple[str, str, str, str, str]]:
    """Path, file, label, split and group of each row of a CSV file."""
    resolve = _make_resolver(config)
    seen = {}
    for line, (path, label, split, group) in read_table(config.data):
        if not label:
            raise _line_error(config.data, line, "a row needs a label", path)
        if seen.setdefault(path, line) != line:
            rule = f"a path stands in one row only, and line {seen[path]} has it"
            raise _line_error(config.data, line, rule, path)
        if split == "unused":
            continue
        # What was skipped may have been mended.
        split = "" if split == "skipped" else split
        yield path, resolve(path), label, split, group


def read_table(file: str) -> Iterator[tuple[int, tuple[str, str, str, str]]]:
    """Reads a CSV file with a header: path[,label][,split][,group], in any order.

    Args:
        file: The file, UTF-8.

    Yields:
        For each row its line number, and path, label, split (`train`, `val`, `test`,
        `skipped`, `unused`) and group, each empty where there is none.

    Raises:
        UserError: The file can't be read, or a line breaks a rule.
    """
    try:
        # File names need not be valid UTF-8; spreadsheets write a mark at the start.
        with open(
            file, newline="", encoding="utf-8-sig", errors="surrogateescape"
        ) as stream:
            reader = csv.reader(stream, strict=True)
            header = [name.strip() for name in next(reader, ())]
            _check_header(file, header)
            columns = [header.index(c) if c in header else None for c in _COLUMNS]
            for row in reader:
                if row:
                    yield (
                        reader.line_num,
                        _parse_row(file, reader.line_num, row, header, columns),
                    )
    except OSError as error:
        raise UserError(f"--data can't be read: {error}") from error
    except csv.Error as error:
        raise _line_error(file, reader.line_num, "must be CSV", str(error)) from error


def _check_header(file: str, header: Sequence[str]) -> None:
    known = set(header) <= set(_COLUMNS) and len(set(header)) == len(header)
    if "path" not in header or not known:
        raise UserError(
            f"{file}: the first line must name the columns: path,label[,split][,group]."
            f" Received: {','.join(header)[:200]}"
        )


def _parse_row(
    file: str,
    line: int,
    row: Sequence[str],
    header: Sequence[str],
    columns: Sequence[int | None],
) -> tuple[str, str, str, str]:
    if len(row) != len(header):
        rule = f"a row has {len(header)} fields, {','.join(header)}"
        raise _line_error(file, line, rule, f"{len(row)} fields, {','.join(row)[:200]}")
    path, label, split, group = ("" if i is None else row[i] for i in columns)
    if not path:
        raise _line_error(file, line, "a row needs a path", ",".join(row)[:200])
    try:
        return path, label, _SPLITS[split], group
    except KeyError:
        rule = f"a split is one of {', '.join(filter(None, _SPLITS))}, or empty"
        raise _line_error(file, line, rule, split) from None


_SPLITS = {"": "", **SPLIT_ALIASES, "skipped": "skipped", "unused": "unused"}


def _line_error(file: str, line: int, rule: str, received: str) -> UserError:
    return UserError(f"{file}, line {line}: {rule}. Received: {received}")


def _make_resolver(config: DataConfig):
    """The function from a path in a CSV file to the file that holds the image.

    Paths are relative to the CSV file. A run's splits.csv has them as they were given
    to the run, so where the first one is not there but below the working folder, all
    are taken from there.
    """
    folder = os.path.dirname(config.data)
    unpacked = {}
    for _, (path, *_) in itertools.islice(read_table(config.data), 1):
        beside = os.path.join(folder, path)
        if not os.path.exists(beside) and os.path.exists(path):
            folder = ""

    def resolve(path: str) -> str:
        if not path.startswith(("builtin:", "tfds:")):
            return os.path.join(folder, path)
        name = path.rpartition("/")[0]
        if path.startswith("tfds:"):
            name = name.rpartition("/")[0]  # the split
        if name not in unpacked:
            source = dataclasses.replace(config, data=name)
            rows = _unpacked_rows(source)
            unpacked[name] = {path: file for _, (path, file, _) in rows}
        if path not in unpacked[name]:
            raise UserError(f"{config.data}: {name} has no example {path}.")
        return unpacked[name][path]

    return resolve


# --- folders -----------------------------------------------------------------


def _folder_rows(
    folder: str,
) -> tuple[list[tuple[str, str, str, str, str]], list[Finding]]:
    if not os.path.isdir(folder):
        raise UserError(
            "--data must be a folder or a CSV file that exists, tfds:NAME, "
            f"builtin:faces or builtin:digits. Received: {folder}"
        )
    subfolders, findings = _subfolders(folder)
    splits = {"": folder}
    if subfolders and set(subfolders) <= set(SPLIT_ALIASES):
        splits = {}
        for name in subfolders:
            split = SPLIT_ALIASES[name]
            if split in splits:
                raise UserError(
                    f"--data must have one folder per split. Received: two for {split} "
                    f"in {folder}: {', '.join(subfolders)}"
                )
            splits[split] = os.path.join(folder, name)
    rows = []
    for split, of_split in splits.items():
        of_classes, more = _class_folder_rows(of_split)
        rows += [(*row, split, "") for row in of_classes]
        findings += more
    return _keep_splits(folder, rows), findings


def _class_folder_rows(folder: str) -> tuple[list[Row], list[Finding]]:
    rows = []
    classes, findings = _subfolders(folder)
    if not classes:
        raise UserError(
            "--data must hold one folder of images per class. "
            f"Received: {folder} without folders"
        )
    for class_name in classes:
        below = os.path.join(folder, class_name)
        files, more = _walk(below)
        findings += more
        if not files:
            findings.append(Finding(below, "empty_folder", "holds no image file"))
        rows += [(file, file, class_name) for file in files]
    return rows, findings


def _subfolders(folder: str) -> tuple[list[str], list[Finding]]:
    """Names of the folders in a folder, sorted, and what else lies there."""
    visible, findings = [], []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir() and _is_visible(entry.name):
            visible.append(entry.name)
        elif entry.is_dir():
            findings.append(_hidden(entry.path))
        elif entry.name.lower().endswith(EXTENSIONS):
            findings.append(
                Finding(entry.path, "ignored_file", "lies in no class folder")
            )
    return visible, findings


def _walk(folder: str) -> tuple[list[str], list[Finding]]:
    """Image files below a folder, sorted, and what else lies there."""
    files, findings = [], []
    for parent, subfolders, names in os.walk(folder):
        for name in sorted(subfolders):
            below = os.path.join(parent, name)
            if not _is_visible(name):
                findings.append(_hidden(below))
            elif os.path.islink(below):  # which may lead in a circle
                detail = "a link to a folder; its files are not read"
                findings.append(Finding(below, "suspicious_folder", detail))
        subfolders[:] = filter(_is_visible, subfolders)
        for name in filter(_is_visible, names):
            path = os.path.join(parent, name)
            if name.lower().endswith(EXTENSIONS):
                files.append(path)
            elif name not in ("Thumbs.db", "desktop.ini"):
                findings.append(
                    Finding(path, "ignored_file", "no image format is named so")
                )
    return sorted(files), findings


def _hidden(folder: str) -> Finding:
    return Finding(folder, "suspicious_folder", "hidden; its files are not read")


def _keep_splits(
    folder: str, rows: list[tuple[str, str, str, str, str]]
) -> list[tuple[str, str, str, str, str]]:
    """Gives images the split that a splits.csv in their folder has for them."""
    table = os.path.join(folder, SPLITS_CSV)
    if not os.path.isfile(table):
        return rows
    known = {}
    for _, (path, _, split, group) in read_table(table):
        for name in (path, os.path.join(folder, path)):
            known[identity(name)] = (split, group)
    kept, found = [], 0
    for path, file, label, split, group in rows:
        if identity(path) in known:
            found += 1
            split, group = known[identity(path)]
        if split != "unused":
            split = "" if split == "skipped" else split
            kept.append((path, file, label, split, group))
    if not found:
        raise UserError(
            f"{table} must list images of {folder}. Received: none of them; give it as "
            "--data, or take it out of the folder"
        )
    return kept


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"
