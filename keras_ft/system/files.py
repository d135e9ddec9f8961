"""Files that are written whole or not at all: text, JSON, CSV."""

import contextlib
import csv
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from keras_ft.system.signals import cleanup

# Begins the names of files that are being written.
PARTIAL = ".partial-"


def as_text(cell: str) -> str:
    """A cell that spreadsheets show and do not compute.

    What they would take for a formula gets an apostrophe before it (OWASP, "CSV
    injection").
    """
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file with a header."""
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """Writes a CSV file, whole or not at all."""
    # File names need not be valid UTF-8.
    with (
        replacing(path) as partial,
        open(
            partial, "w", newline="", encoding="utf-8", errors="surrogateescape"
        ) as stream,
    ):
        csv.writer(stream).writerows(rows)


def write_text(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write, which takes the place of another when it is whole.

    A reader of `path` finds what was there before or all of what is written, even
    where the process is killed or the machine loses its power.

    Args:
        path: The file to write or replace.

    Yields:
        A name beside it, with the same ending.
    """
    partial = path.with_name(f"{PARTIAL}{path.name}")
    with cleanup(lambda: partial.unlink(missing_ok=True)):
        yield partial
        with open(partial, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(partial, path)
