"""Predictions in numbered parts, so that a prediction that was killed goes on.

OUTPUT.parts has a ZIP file of each part, of the rows and, if asked for, the features of
the same images: a single file can't lack one of them, and has checksums. Its name has
the number of the first image and a hash of the paths of all images of the part.
`made_by.json` says what the parts depend on besides.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import logging
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from keras_ft.errors import UserError
from keras_ft.host import files
from keras_ft.host.archives import open_archive
from keras_ft.host.file_lock import lock_file
from keras_ft.host.text import counted
from keras_ft.host.typed_json import read_json

log = logging.getLogger("keras_ft")

_RESUMES = "The same command resumes from here."


@dataclasses.dataclass(frozen=True)
class Parts:
    """The parts of a prediction."""

    folder: Path
    # Images per part: whole batches, since rounding depends on the size of a batch. The
    # last part may have fewer.
    size: int

    def skip_done(self, images: Iterator[tuple[str, str]]) -> int:
        """Takes the images of the finished parts from an iterator; returns how many.

        The parts from the first missing or damaged one on are removed.
        """
        num_done = 0
        with explaining_failure("output"):
            self._remove_damaged()
        for part in self.finished():
            paths = [path for path, _ in itertools.islice(images, self.size)]
            if part.stem != _make_name(num_done + 1, paths):
                raise UserError(
                    "--data must list the same images in the same order to resume, or "
                    "give --overwrite to start again. Received: other images than "
                    f"those of {part}"
                )
            num_done += len(paths)
        if num_done:
            done = counted(num_done, "prediction")
            log.info("Resumes after %s in %s.", done, self.folder)
        return num_done

    def count_failed(self) -> int:
        """How many images of the finished parts could not be read."""
        failed = 0
        for part in self.finished():
            with zipfile.ZipFile(part) as archive:
                # Parts of earlier versions do not say.
                if "failed" in archive.namelist():
                    failed += int(archive.read("failed"))
        return failed

    def write(
        self,
        first: int,
        paths: Sequence[str],
        rows: str,
        num_failed: int,
        features: np.ndarray | None,
    ) -> None:
        """Writes a part of N images, completely or not at all.

        `first` is the number of the first image, from 1; `num_failed` of them could not
        be read; `features` are float32 [N, D].
        """
        part = self.folder / f"{_make_name(first, paths)}.zip"
        with (
            explaining_failure("output", _RESUMES),
            files.replacing(part) as partial,
            zipfile.ZipFile(partial, "w") as archive,
        ):
            archive.writestr("rows", _encode(rows))
            archive.writestr("failed", str(num_failed))
            if features is not None:
                archive.writestr("features", features.tobytes())

    def join_rows(self, header: str, path: Path) -> None:
        """Writes the file of all rows."""
        with _replacing(path, "output") as stream:
            stream.write(_encode(header))
            self._join("rows", stream)

    def join_features(self, shape: tuple[int, int], path: Path) -> None:
        """Writes the .npy file of all features, float32 [N, D]."""
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        with _replacing(path, "features") as stream:
            np.lib.format.write_array_header_1_0(stream, header)
            self._join("features", stream)

    def finished(self) -> list[Path]:
        """The files of the finished parts, in order."""
        return sorted(self.folder.glob("[0-9]*.zip"))

    def _join(self, name: str, stream: BinaryIO) -> None:
        for part in self.finished():
            with zipfile.ZipFile(part) as archive:
                stream.write(archive.read(name))

    def _remove_damaged(self) -> None:
        is_kept = True
        for i, part in enumerate(self.finished()):
            is_next = part.name.startswith(_make_number(i * self.size + 1))
            # Later ones go too: parts are predicted in order.
            is_kept = is_kept and is_next and _is_whole(part)
            if not is_kept:
                part.unlink()


@contextlib.contextmanager
def open_parts(
    path: Path, size: int, made_by: Mapping[str, Any], restart: bool
) -> Iterator[Parts]:
    """Opens PATH.parts, which remains if the block does not end normally.

    `made_by` is what the parts depend on besides the images, for JSON; with `restart`,
    those of an earlier process are removed.

    Raises:
        UserError: The parts are made by something else or it is not known by what,
            another process writes them, or they can't be written.
    """
    parts = Parts(path.with_name(f"{path.name}.parts"), size)
    record = parts.folder / "made_by.json"
    with explaining_failure("output"):
        parts.folder.mkdir(exist_ok=True)
        stream = open(parts.folder / ".lock", "a")  # noqa: SIM115
    with stream:
        if not lock_file(stream):
            raise UserError(
                f"Another process writes {parts.folder}. Wait for it, or give another "
                "--output."
            )
        try:
            for part in parts.finished() if restart else ():
                part.unlink()
            if not parts.finished():
                files.write_json(record, made_by)
            elif _read_record(record) != made_by:
                raise UserError(
                    f"{parts.folder} must be of the same model and flags to resume. "
                    "Give those, --overwrite to start again, or another --output."
                )
            yield parts
        except UserError:
            # A mistake in flags or data leaves nothing behind.
            if not parts.finished():
                shutil.rmtree(parts.folder)
            raise
        shutil.rmtree(parts.folder)


@contextlib.contextmanager
def explaining_failure(flag: str, advice: str = "") -> Iterator[None]:
    """In this block, failing to write a file is a UserError about a flag."""
    try:
        yield
    except OSError as error:
        message = f"--{flag} can't be written: {error}"
        raise UserError(f"{message}. {advice}" if advice else message) from error


@contextlib.contextmanager
def _replacing(path: Path, flag: str) -> Iterator[BinaryIO]:
    """Opens the file that a flag names, which is replaced whole."""
    with (
        explaining_failure(flag, _RESUMES),
        files.replacing(path) as partial,
        open(partial, "wb") as stream,
    ):
        yield stream


def _read_record(record: Path) -> Any:
    try:
        return read_json(record, dict)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{record} must say what the parts were made by. Received: {error}; give "
            "--overwrite to start again, or another --output"
        ) from error


def _is_whole(part: Path) -> bool:
    try:
        with open_archive(part) as archive:
            return archive.testzip() is None
    except zipfile.BadZipFile:
        return False


def _make_name(first: int, paths: Sequence[str]) -> str:
    digest = hashlib.sha256(_encode("\0".join(paths))).hexdigest()
    return f"{_make_number(first)}{digest[:16]}"


def _make_number(first: int) -> str:
    return f"{first:09d}-"


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")  # file names of any bytes
