"""Files and folders that are written completely or not at all."""

import atexit
import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from keras_ft.errors import UserError

PARTIAL = ".partial-"  # prefix of names of files and folders that are being written
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of a disk, a quota, a limit
_partial: set[Path] = set()  # what this process is writing at the moment


def default_cache_dir() -> str:
    """Returns the folder of this program's cache, which may begin with `~`.

    It is one for temporary files where there is no home that can be written.
    """
    folder = os.environ.get("XDG_CACHE_HOME")
    if not folder and _may_be_made(os.path.expanduser("~/.cache/keras_ft")):
        folder = "~/.cache"
    if not folder:
        with contextlib.suppress(FileNotFoundError):  # there is none for them, either
            return os.path.join(tempfile.gettempdir(), f"keras_ft-{os.getuid()}")
    return os.path.join(folder or "~/.cache", "keras_ft")


def _may_be_made(folder: str) -> bool:
    """Whether a folder can be written, or made; not if `~` could not be expanded."""
    if not os.path.isabs(folder):
        return False
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    return os.access(folder, os.W_OK)


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


def compute_digest(file: Path, algorithm: str) -> str:
    """Computes the hexadecimal digest of a file by an algorithm of `hashlib`."""
    with open_regular(file) as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


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
    removed with everything in it.
    """
    partial = _make_partial(parent)
    with _removed_on_failure(partial):
        yield partial
    remove(partial)


def _make_partial(parent: Path) -> Path:
    # Not `tempfile.mkdtemp`: it keeps others out, also of what has been renamed.
    partial = parent / f"{PARTIAL}{secrets.token_hex(8)}"
    partial.mkdir()
    _partial.add(partial)
    return partial


@contextlib.contextmanager
def own_temporary_files() -> Iterator[None]:
    """In this block, temporary files lie in a folder that is removed at exit.

    A signal that ends the program removes it, too: libraries do not expect one.
    Raises a UserError if no folder for temporary files can be written.
    """
    before = tempfile.tempdir
    try:
        folder = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise UserError(
            "TMPDIR must name a folder for temporary files that can be written. "
            f"Received: {error.strerror}"
        ) from error
    own = _make_partial(folder)
    # Libraries remove theirs in functions that they register later, so that these are
    # called before.
    atexit.register(remove, own)
    tempfile.tempdir = str(own)
    try:
        yield
    finally:
        tempfile.tempdir = before
        with contextlib.suppress(OSError):  # only if it is empty
            own.rmdir()
            _partial.discard(own)


@contextlib.contextmanager
def writing(flag: str = "workdir") -> Iterator[None]:
    """In this block, failing to write the folder of a flag is a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--{flag} must be a folder that can be written. Received: {error}"
        ) from error


def explain_full_disk(error: BaseException) -> str | None:
    """Says what to do if a disk that is full has caused an exception; else None."""
    cause: BaseException | None = error
    while cause is not None:
        # TensorFlow has no numbers of errors.
        is_full = isinstance(cause, OSError) and cause.errno in _FULL
        if is_full or os.strerror(errno.ENOSPC) in str(cause):
            reason = str(cause).strip().partition("\n")[0]
            return (
                f"There is no room left: {reason}. Make room, or name other folders: "
                "--workdir, --cache_dir and, for temporary files, the variable TMPDIR. "
                "The same command resumes."
            )
        cause = cause.__cause__ or cause.__context__
    return None


def discard(folder: Path) -> None:
    """Removes a folder that other processes may look for, at once or not at all."""
    hidden = folder.with_name(f"{PARTIAL}{secrets.token_hex(8)}")
    with contextlib.suppress(OSError):
        folder.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def remove(path: Path) -> None:
    """Removes a file, or a folder with everything in it, as far as possible."""
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def count_bytes(path: Path) -> int:
    """The number of bytes of a file, or of all files in a folder."""
    parts = path.rglob("*") if path.is_dir() else [path]
    return sum(part.stat().st_size for part in parts if part.is_file())


def find_partial(folder: Path) -> list[Path]:
    """What killed processes had not finished writing, if no other one writes there."""
    return [path for path in folder.glob(f"{PARTIAL}*") if path not in _partial]


def remove_partial() -> None:
    """Removes all files and folders that this process has not finished writing."""
    for path in list(_partial):
        remove(path)
        _partial.discard(path)


@contextlib.contextmanager
def _removed_on_failure(path: Path) -> Iterator[None]:
    _partial.add(path)
    try:
        yield
    except BaseException:
        remove(path)
        raise
    finally:
        _partial.discard(path)
