"""Files and folders that are written completely or not at all."""

import contextlib
import csv
import errno
import io
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

PARTIAL = ".partial-"  # prefix of names of files and folders that are being written
_partial: set[Path] = set()  # what this process is writing at the moment


def default_cache_dir() -> str:
    """Returns the folder of this program's cache, which may begin with `~`."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return os.path.join(base, "keras_ft")


def regular_only(path: str, flags: int) -> int:
    """An `opener` of `open`: a FIFO, socket or device is an OSError, at once."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "not a regular file", path)
    # Does not wait where a FIFO has taken the place of the file since.
    return os.open(path, flags | os.O_NONBLOCK)


def open_regular(path: str | Path) -> io.BufferedReader:
    """Opens a file for reading, see `regular_only`."""
    return open(path, "rb", opener=regular_only)


def read_bytes(path: str | Path) -> bytes:
    """Reads a file as `open_regular` opens it."""
    with open_regular(path) as stream:
        return stream.read()


def read_json(path: Path) -> Any:
    """Reads a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file, completely or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_rows(path: Path) -> list[dict[str, str]]:
    """Reads the rows of a CSV file with a header."""
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """Writes a CSV file, completely or not at all."""
    # File names need not be valid UTF-8.
    utf8: Any = {"encoding": "utf-8", "errors": "surrogateescape"}
    with replacing(path) as partial, open(partial, "w", newline="", **utf8) as stream:
        csv.writer(stream).writerows(rows)


def write_text(path: Path, text: str) -> None:
    """Writes a text file, completely or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Writes a file under another name and renames it at the end of the block.

    A reader of `path` finds either the previous content or all of the new content, even
    if the process is killed or the machine loses power. If the block ends with an
    exception, or the program by a signal, the unfinished file is removed. It is in the
    same folder and has the same ending.
    """
    partial = path.with_name(f"{PARTIAL}{path.name}")
    with _removed_on_failure(partial):
        yield partial
        with open(partial, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(partial, path)


@contextlib.contextmanager
def partial_folder(parent: Path) -> Iterator[Path]:
    """Makes a folder in another one, which the block fills and renames.

    If the block ends without renaming it, or the program by a signal, the folder is
    removed with everything in it. Only its owner has access.
    """
    partial = Path(tempfile.mkdtemp(dir=parent, prefix=PARTIAL))
    with _removed_on_failure(partial):
        yield partial
    _remove(partial)


def remove_partial() -> None:
    """Removes all files and folders that this process has not finished writing."""
    for path in list(_partial):
        _remove(path)


@contextlib.contextmanager
def _removed_on_failure(path: Path) -> Iterator[None]:
    _partial.add(path)
    try:
        yield
    except BaseException:
        _remove(path)
        raise
    finally:
        _partial.discard(path)


def _remove(path: Path) -> None:
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
