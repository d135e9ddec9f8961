"""One process at a time works in a workdir."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from keras_ft.errors import UserError
from keras_ft.host.file_lock import lock_file
from keras_ft.host.files import writing
from keras_ft.runs.paths import RunPaths


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a workdir; a UserError if one works there."""
    is_new = not folder.exists()
    lock = RunPaths(folder).lock
    with writing():
        folder.mkdir(parents=True, exist_ok=True)
        stream = open(lock, "a")  # noqa: SIM115
    with stream:
        if not lock_file(stream):
            raise UserError(
                f"Another process works in {folder}. Wait for it, or give another "
                "--workdir."
            )
        try:
            yield
        finally:
            # A mistake in flags or data leaves no folder behind.
            if is_new and os.listdir(folder) == [lock.name]:
                shutil.rmtree(folder)


def wait_until_free(folder: Path, seconds: float) -> None:
    """Waits until no process works in a workdir, at most for a number of seconds."""
    lock = RunPaths(folder).lock
    if lock.exists():
        with writing(), open(lock, "a") as stream:
            lock_file(stream, seconds)
