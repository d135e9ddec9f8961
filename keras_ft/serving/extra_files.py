"""What `--features` and `--heatmaps` write beside the rows of predictions."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from keras_ft.config.modes import ApplyConfig
from keras_ft.errors import UserError
from keras_ft.host.files import replacing
from keras_ft.runs.find_model import check_output

# Path and `extras.Described` of the images of a batch.
_Batch = Sequence[tuple[str, Any]]
# Of a batch; the first image is that of a row, counted from 1.
Write = Callable[[int, _Batch], None]


def check_extras(config: ApplyConfig, model: Path, overwrite: bool) -> None:
    """Checks that the model has what is asked for, and that it is not there already.

    Args:
        config: `features` and `heatmaps`, and `output`, whose unfinished file says that
            they are of the same prediction, which resumes.
        model: What `find_model` found.
        overwrite: Whether they may be there.

    Raises:
        UserError: A rule is broken.
    """
    overwrite = overwrite or os.path.exists(f"{config.output}.part")
    check_output(config.features, overwrite, "features")
    if not config.heatmaps:
        return
    if model.suffix != ".keras":
        raise UserError(
            "--heatmaps needs a workdir or a model.keras as --model: exports have no "
            f"gradients. Received: {model}"
        )
    folder = Path(config.heatmaps)
    if not overwrite and folder.exists() and not _is_empty(folder):
        raise UserError(
            "--heatmaps must be a new or empty folder, or give --overwrite, which "
            f"replaces files of the same name. Received: {folder}"
        )


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and next(folder.iterdir(), None) is None


@contextlib.contextmanager
def open_extras(
    config: ApplyConfig, num_done: int, num_features: int
) -> Iterator[Write]:
    """Opens what `--features` and `--heatmaps` name.

    Args:
        config: `features` and `heatmaps`, each may be empty.
        num_done: How many images have a row, whose features and heatmaps remain.
        num_features: D.

    Yields:
        A function that writes those of the next batch; to be called before its rows
        are written.

    Raises:
        UserError: They can't be written, or what an earlier process wrote is missing.
    """
    with contextlib.ExitStack() as stack:
        features, folder = None, Path(config.heatmaps)
        if config.features:
            opened = _open_features(Path(config.features), num_done, num_features)
            features = stack.enter_context(opened)
        if config.heatmaps:
            with _explained("heatmaps"):
                folder.mkdir(parents=True, exist_ok=True)

        def write(row: int, batch: _Batch) -> None:
            if features:
                with _explained("features"):
                    _append(features, batch, num_features)
            if config.heatmaps:
                with _explained("heatmaps"):
                    _write_heatmaps(folder, row, batch)

        yield write


@contextlib.contextmanager
def _open_features(path: Path, num_done: int, size: int) -> Iterator[BinaryIO]:
    """Opens FILE.part, an array float32 [N, D] that gets its name at the end.

    What it has beyond the images that have rows is removed.
    """
    part = path.with_name(f"{path.name}.part")
    if num_done and path.exists() and not part.exists():
        os.replace(path, part)  # the last process was killed at the very end
    with _explained("features"):
        stream = open(part, "r+b" if num_done else "w+b")  # noqa: SIM115
    with stream:
        start = _write_header(stream, num_done, size)
        end = start + num_done * size * 4
        if stream.seek(0, os.SEEK_END) < end:
            raise UserError(
                f"{part} must be whole to resume: give --overwrite to start again."
            )
        stream.truncate(end)
        stream.seek(end)
        yield stream
        _write_header(stream, (stream.tell() - start) // (size * 4), size)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(part, path)


def _write_header(stream: BinaryIO, count: int, size: int) -> int:
    """Writes the start of a .npy file, which is as long for any count."""
    stream.seek(0)
    header = {"descr": "<f4", "fortran_order": False, "shape": (count, size)}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.tell()


def _append(stream: BinaryIO, batch: _Batch, size: int) -> None:
    rows = np.full((len(batch), size), np.nan, "<f4")
    for row, (_, described) in zip(rows, batch, strict=True):
        if described.features is not None:
            row[:] = described.features
    stream.write(rows.tobytes())
    stream.flush()  # before the rows of predictions, which say what is done


def _write_heatmaps(folder: Path, first: int, batch: _Batch) -> None:
    for row, (path, described) in enumerate(batch, first):
        for k, (task, image) in enumerate(described.heatmaps.items(), 1):
            name = f"{row:08d}_{_clean(Path(path).stem)}"
            if len(described.heatmaps) > 1:
                name += f"_{k}_{_clean(task)}"
            with replacing(folder / f"{name}.jpg") as partial:
                image.save(partial, quality=90)


def _clean(name: str) -> str:
    """A part of a file name that is short and plain; the numbers make it unique."""
    return re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII)[:60]


@contextlib.contextmanager
def _explained(flag: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"--{flag} can't be written: {error}") from error
