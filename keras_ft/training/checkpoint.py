"""Checkpoints, from which a run that was killed resumes, in `WORKDIR/checkpoints`.

Each file is an .npz archive. It has a checksum of each array, which is compared when
the array is read, and no pickle, so reading it runs no code.
"""

import dataclasses
import json
import logging
import re
import zipfile
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from keras_ft.host import files

log = logging.getLogger("keras_ft")

_KEPT = 2
_STATE = "state"
# Raised by NumPy if an archive is damaged.
DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A phase after some of its epochs.

    Attributes:
        epoch: Number of finished epochs.
        arrays: Lists of arrays by name, such as the network's variables.
        state: Other values, as JSON can hold them.
    """

    epoch: int
    arrays: dict[str, list[np.ndarray]]
    state: dict[str, Any]


class CheckpointWriter:
    """Writes the checkpoints of a phase beside the work of the caller.

    The end of the `with` block waits for the last one.

    Args:
        folder: Where the checkpoints are.
        phase: Name of the phase.

    Raises:
        OSError: By the next call, or at the end: a checkpoint could not be written.
    """

    def __init__(self, folder: Path, phase: str):
        self.folder = folder
        self.phase = phase
        self._pool = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown()
        if kind is None:
            self._wait()

    @property
    def is_busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._writing is not None and not self._writing.done()

    def write(self, checkpoint: Checkpoint) -> None:
        """Begins to write a checkpoint, after the one before is written."""
        self._wait()
        self._writing = self._pool.submit(
            write_checkpoint, self.folder, self.phase, checkpoint
        )

    def _wait(self) -> None:
        if self._writing:
            self._writing.result()


def write_checkpoint(folder: Path, phase: str, checkpoint: Checkpoint) -> None:
    """Writes a phase's checkpoint and removes all but the newest two."""
    path = folder / f"{phase}-{checkpoint.epoch:05}.npz"
    arrays = {
        f"{name}/{i}": array
        for name, group in checkpoint.arrays.items()
        for i, array in enumerate(group)
    }
    write_arrays(path, arrays, checkpoint.state)
    for old in _find(folder, phase)[:-_KEPT]:
        old.unlink(missing_ok=True)


def load_checkpoint(folder: Path, phase: str) -> Checkpoint | None:
    """Reads a phase's newest checkpoint, or if that is damaged, the one before."""
    for path in reversed(_find(folder, phase)):
        try:
            arrays, state = load_arrays(path)
        except DAMAGED as error:
            log.warning("%s is damaged (%s): the one before is used.", path, error)
            continue
        groups: dict[str, list[np.ndarray]] = {}
        for key in sorted(arrays, key=lambda key: int(key.partition("/")[2])):
            groups.setdefault(key.partition("/")[0], []).append(arrays[key])
        return Checkpoint(int(path.stem.rpartition("-")[2]), groups, state)
    return None


def keep_last_checkpoint(folder: Path, phase: str) -> None:
    """Removes all checkpoints but the newest of one phase."""
    newest = _find(folder, phase)[-1:]
    for path in folder.glob("*-*.npz"):
        if path not in newest:
            path.unlink(missing_ok=True)


def write_arrays(
    path: Path, arrays: dict[str, np.ndarray], state: dict[str, Any]
) -> None:
    """Writes arrays and JSON values to an .npz file, completely or not at all."""
    path.parent.mkdir(exist_ok=True)
    with files.replacing(path) as partial, open(partial, "wb") as stream:
        content: dict[str, Any] = {_STATE: np.array(json.dumps(state)), **arrays}
        np.savez(stream, **content)


def load_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads what `write_arrays` wrote.

    Raises:
        OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error: It is damaged.
    """
    with np.load(path, allow_pickle=False) as stored:
        arrays = dict(stored)
    return arrays, json.loads(str(arrays.pop(_STATE)))


def _find(folder: Path, phase: str) -> list[Path]:
    """A phase's checkpoints, the oldest first."""
    pattern = re.compile(rf"{re.escape(phase)}-\d+\.npz")
    return sorted(path for path in folder.glob("*.npz") if pattern.fullmatch(path.name))
