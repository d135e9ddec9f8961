"""CSV files that list examples: `path[,label][,split][,group]`."""

import csv
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from keras_ft.data.examples import SET_PREFIXES, SPLIT_ALIASES
from keras_ft.errors import UserError

# Each run writes this table; `--data` accepts it, alone or in a folder of images.
SPLITS_CSV = "splits.csv"

_SPLITS = {"": "", **SPLIT_ALIASES, "skipped": "skipped", "unused": "unused"}


class TableRow(NamedTuple):
    """A row of a table; a column that the table does not have is empty.

    Attributes:
        path: The image, not empty.
        label: The name of its class.
        split: `train`, `val`, `test`, `skipped`, `unused` or empty.
        group: The group of examples that belong in one split.
    """

    path: str
    label: str
    split: str
    group: str


def is_table(data: str) -> bool:
    """Returns whether `--data` names a CSV file."""
    return data.lower().endswith(".csv") and not os.path.isdir(data)


def canonical_path(path: str) -> str:
    """Returns one name for all the paths that lead to the same image."""
    return path if path.startswith(SET_PREFIXES) else os.path.realpath(path)


def read_table(file: str) -> Iterator[tuple[int, TableRow]]:
    """Reads a CSV file whose header names its columns, in any order.

    Args:
        file: The file, UTF-8.

    Yields:
        The line number and the content of each row.

    Raises:
        UserError: The file can't be read, or a line is malformed.
    """
    try:
        # Paths need not be valid UTF-8; spreadsheets write a byte order mark.
        with open(
            file, newline="", encoding="utf-8-sig", errors="surrogateescape"
        ) as stream:
            reader = csv.reader(stream, strict=True)
            header = [name.strip() for name in next(reader, ())]
            _check_header(file, header)
            for cells in reader:
                if cells:
                    line = reader.line_num
                    yield line, _parse_row(file, line, header, cells)
    except OSError as error:
        raise UserError(f"--data can't be read: {error}") from error
    except csv.Error as error:
        raise line_error(file, reader.line_num, "must be CSV", str(error)) from error


def line_error(file: str, line: int, rule: str, received: str) -> UserError:
    """Returns an error about one line of a table."""
    return UserError(f"{file}, line {line}: {rule}. Received: {received}")


def _check_header(file: str, header: Sequence[str]) -> None:
    is_valid = set(header) <= set(TableRow._fields) and len(set(header)) == len(header)
    if "path" not in header or not is_valid:
        raise UserError(
            f"{file}: the first line must name the columns: path,label[,split][,group]."
            f" Received: {','.join(header)[:200]}"
        )


def _parse_row(
    file: str, line: int, header: Sequence[str], cells: Sequence[str]
) -> TableRow:
    text = ",".join(cells)[:200]
    if len(cells) != len(header):
        rule = f"a row has {len(header)} fields, {','.join(header)}"
        raise line_error(file, line, rule, f"{len(cells)} fields, {text}")
    by_name = dict(zip(header, cells, strict=True))
    path, label, split, group = (by_name.get(c, "") for c in TableRow._fields)
    if not path:
        raise line_error(file, line, "a row needs a path", text)
    if split not in _SPLITS:
        rule = f"a split is one of {', '.join(filter(None, _SPLITS))}, or empty"
        raise line_error(file, line, rule, split)
    return TableRow(path, label, _SPLITS[split], group)
