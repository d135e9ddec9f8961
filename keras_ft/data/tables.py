"""CSV files that list examples: `path[,label][,split][,group]` or more labels."""

import codecs
import contextlib
import csv
import difflib
import functools
import io
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_ft.data.examples import SET_PREFIXES, SPLIT_ALIASES, Row
from keras_ft.errors import UserError
from keras_ft.host.files import open_regular, regular_only
from keras_ft.kinds.task import DEFAULT_NAME

log = logging.getLogger("keras_ft")

# Each run writes this table; `--data` accepts it, alone or in a folder of images.
SPLITS_CSV = "splits.csv"

# Of a row, besides the labels. A run writes the last two.
_COLUMNS = ("path", "split", "group", "relative_to", "sha256")
# Files of Windows programs begin with one of them.
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SPLITS = {"": "", **SPLIT_ALIASES, "skipped": "skipped", "unused": "unused"}


def format_table(table: Any) -> str:
    """The text of a CSV file with the content of a table.

    Paths are made absolute, so that they mean the same in any folder.

    Args:
        table: What has `to_csv`, as a pandas DataFrame does; or a dict of columns.

    Raises:
        UserError: It is something else, or has no column `path` or no rows.
    """
    if hasattr(table, "to_csv"):
        header, *rows = csv.reader(io.StringIO(table.to_csv(index=False)))
    elif isinstance(table, Mapping) and len(set(map(len, table.values()))) == 1:
        header = list(table)
        rows = [
            # NaN, a missing value too, is not equal to itself.
            ["" if cell is None or cell != cell else str(cell) for cell in row]
            for row in zip(*table.values(), strict=True)
        ]
    else:
        header, rows = [], []
    if "path" not in header:
        raise UserError(
            "table must be a DataFrame or a dict of columns of one length, among them "
            f"path. Received: {type(table).__name__} of columns "
            f"{', '.join(header)[:200] or 'unknown'}"
        )
    if not rows:
        raise UserError("table must have rows. Received: none")
    index = header.index("path")
    for row in rows:
        if row[index] and not row[index].startswith(SET_PREFIXES):
            row[index] = os.path.abspath(row[index])
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([header, *rows])
    return stream.getvalue()


def is_table(data: str) -> bool:
    """Returns whether `--data` names a CSV file."""
    return data.lower().endswith(".csv") and not os.path.isdir(data)


def canonical_path(path: str) -> str:
    """Returns one name for all the paths that lead to the same image."""
    return path if path.startswith(SET_PREFIXES) else os.path.realpath(path)


def read_table(
    file: str, label_columns: Sequence[str] = ()
) -> Iterator[tuple[int, Row]]:
    """Yields number and content of the lines of a CSV file whose header names columns.

    Of the columns of labels only `label_columns` are read, which must exist. A split is
    `train`, `val`, `test`, `skipped`, `unused` or empty. Labels, splits and groups are
    stripped of blanks.

    Raises:
        UserError: The file can't be read, or a line is malformed.
    """
    with reading(file) as reader:
        header = [name.strip() for name in next(reader, ())]
        _check_header(file, header, label_columns)
        for cells in filter(None, reader):
            line, text = reader.line_num, ",".join(cells)[:200]
            if len(cells) != len(header):
                rule = f"a row has {len(header)} fields, {','.join(header)}"
                raise line_error(file, line, rule, f"{len(cells)} fields, {text}")
            by_name = dict(zip(header, cells, strict=True))
            path, split, group, *place = (by_name.get(name, "") for name in _COLUMNS)
            if not path.strip():
                raise line_error(file, line, "a row needs a path", text)
            split = split.strip().casefold()
            if split not in _SPLITS:
                rule = "a split is one of train, val, test, skipped, unused, or empty"
                raise line_error(file, line, rule, split[:200])
            # Blanks around it make a name no other one. Those of a file may be its own.
            labels = tuple(by_name[name].strip() for name in label_columns)
            yield line, Row(path, "", labels, _SPLITS[split], group.strip(), *place)


@contextlib.contextmanager
def reading(file: str) -> Iterator[Any]:
    """In this block, the lines of a CSV file, which raise UserErrors."""
    reader = None
    try:
        with open_regular(file) as start:
            is_utf16 = start.read(2) in UTF16_MARKS
        # Paths need not be valid UTF-8; spreadsheets write a byte order mark.
        with open(
            file,
            newline="",
            encoding="utf-16" if is_utf16 else "utf-8-sig",
            errors="strict" if is_utf16 else "surrogateescape",
            opener=regular_only,
        ) as stream:
            reader = csv.reader(stream, strict=True)
            yield reader
    except OSError as error:
        raise UserError(f"--data can't be read: {error}") from error
    except (csv.Error, UnicodeError) as error:
        line = reader.line_num if reader else 1
        raise line_error(file, line, "must be CSV", str(error)) from error


def make_find_file(table: str) -> Callable[[Row], str]:
    """Makes the function from a row of a table to the file that its path names.

    Paths are relative to the table. Those of a run are relative to the folder that it
    recorded, and after a move of both, or in a splits.csv of earlier versions, to the
    working folder or to one above the table: to the first folder with any of the files.
    """
    beside = os.path.dirname(table)
    above = [str(folder) for folder in Path(table).absolute().parents]

    @functools.cache
    def find_folder(recorded: str) -> str:
        folders = [*filter(None, [recorded]), *dict.fromkeys((beside, "", *above))]
        for folder in folders:
            rows = (row for _, row in read_table(table) if row.relative_to == recorded)
            if any(_find_in(folder, row.path) for row in rows):
                return folder
        return folders[0]

    def find_file(row: Row) -> str:
        folder = find_folder(row.relative_to)
        if len(spell(row.path)) == 1:  # the file may be missing
            return os.path.join(folder, row.path)
        return _find_in(folder, row.path) or os.path.join(folder, row.path)

    return find_file


def spell(path: str) -> list[str]:
    """A path; then what it means if no such file exists.

    That is the path without blanks around it, and one that was written on Windows.
    """
    stripped = path.strip()
    return [*dict.fromkeys((path, stripped, stripped.replace("\\", "/")))]


def _find_in(folder: str, path: str) -> str:
    """The file in a folder that a path means, empty if there is none."""
    files = (os.path.join(folder, spelling) for spelling in spell(path))
    return next(filter(os.path.exists, files), "")


def line_error(file: str, line: int, rule: str, received: str) -> UserError:
    """Returns an error about one line of a table."""
    return UserError(f"{file}, line {line}: {rule}. Received: {received}")


def check_columns(file: str, labels: Sequence[str] = ()) -> None:
    """Checks the names of a table's columns; logs those that are not read.

    Raises:
        UserError: It lacks `path`, or `label` if that is one of `labels`; or a name is
            nearly `split` or `group`, which would be passed over; or it can't be read.
    """
    with reading(file) as reader:
        header = [name.strip() for name in next(reader, ())]
    received = f"Received: {','.join(header)[:200]}"
    # Of other labels, `read_table` says what is missing.
    if {"path", DEFAULT_NAME} & ({"path", *labels} - set(header)):
        raise UserError(
            f"{file}: the first line must name the columns path,label[,split][,group], "
            f"or --label_columns those of the labels. {received}"
        )
    others = [name for name in header if name not in (*_COLUMNS, *labels)]
    for name in others:
        near = difflib.get_close_matches(name.casefold(), ("split", "group"), 1, 0.8)
        if near and near[0] not in header:
            raise UserError(
                f"{file}: rename the column {name} to {near[0]} if it is that, or else "
                f"to something less similar. {received}"
            )
    if names := ", ".join(filter(None, others))[:200]:  # an index has no name
        log.info("Columns of %s that are not read: %s.", file, names)


def _check_header(
    file: str, header: Sequence[str], label_columns: Sequence[str]
) -> None:
    if "path" not in header or len(set(header)) < len(header):
        raise UserError(
            f"{file}: the first line must name the columns, path and others, each "
            f"once. Received: {','.join(header)[:200]}"
        )
    missing = [name for name in label_columns if name not in header]
    if missing:
        raise UserError(
            f"--label_columns must name columns of {file}: {','.join(header)[:200]}. "
            f"Received: {','.join(missing)}"
        )
