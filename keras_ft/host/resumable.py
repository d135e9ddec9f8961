"""A file that is written piece by piece, over several processes if they are killed."""

import contextlib
import fcntl
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from keras_ft.errors import UserError
from keras_ft.host import files


@contextlib.contextmanager
def resumable(
    path: Path, made_by: Mapping[str, Any], restart: bool
) -> Iterator[io.FileIO]:
    """Opens PATH.part, which gets its name at the end of the block.

    If the block ends otherwise, the file remains as it is, and the next call opens it
    again. PATH.part.json beside it says what it is made by.

    Args:
        path: The file to write.
        made_by: What the content depends on, for JSON.
        restart: Whether to begin with an empty file in any case.

    Yields:
        The file, open for reading and appending without a buffer, at its start.

    Raises:
        UserError: There is a PATH.part made by something else, another process writes
            it, or it can't be opened.
    """
    part = path.with_name(f"{path.name}.part")
    record = path.with_name(f"{part.name}.json")
    with _locked(part) as stream:
        if restart or not part.stat().st_size:
            stream.truncate(0)
            files.write_json(record, made_by)
        elif not record.exists() or files.read_json(record) != made_by:
            raise UserError(
                f"{part} must be of the same model and flags to resume. Give those, "
                "--overwrite to start again, or another --output."
            )
        stream.seek(0)
        try:
            yield stream
            os.fsync(stream.fileno())
            os.replace(part, path)
            record.unlink()
        finally:
            # A mistake in flags or data leaves no file behind.
            if part.exists() and not part.stat().st_size:
                part.unlink()
                record.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(part: Path) -> Iterator[io.FileIO]:
    """Opens a file that no other process has open in this way."""
    try:
        stream = open(part, "a+b", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise UserError(f"--output can't be written: {error}") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"Another process writes {part}. Wait for it, or give another --output."
            ) from None
        yield stream
