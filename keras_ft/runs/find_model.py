"""What `--model`, `--weights` and `--output` name."""

import contextlib
import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from keras_ft.catalog.formats import FORMATS, SAVED_MODEL, SUFFIXES
from keras_ft.errors import UserError
from keras_ft.runs.paths import RunPaths
from keras_ft.runs.record import load_record

log = logging.getLogger("keras_ft")

_UNFINISHED = (
    ", whose run has not finished; --mode=export exports its best epoch so far"
)


def find_model(path: Path) -> Path:
    """Finds the model file, or the folder of a SavedModel, that a `--model` names.

    It names a workdir, a folder of a format in its export/, whose newest version is
    meant, a version in that, or a model file. Raises a UserError if there is none.
    """
    if path.suffix in SUFFIXES and path.is_file():
        return path
    paths, is_unfinished = RunPaths(path), False
    with contextlib.suppress(UserError):  # a damaged run.json says nothing
        is_unfinished = load_record(paths).state == "running"
    if paths.model.is_file():
        if is_unfinished:
            log.warning(
                "The run in %s has not finished: the model is the best of the phases "
                "that have. --mode=export exports the best epoch so far.",
                path,
            )
        return paths.model
    versions = [p for p in path.glob("*/") if p.name.isdigit()]
    newest = max(versions, key=lambda version: int(version.name), default=path)
    for name, row in FORMATS.items():
        if (newest / row.file).is_file():
            return newest if name == SAVED_MODEL else newest / row.file
    raise UserError(
        "--model must be a workdir with a model.keras, a folder such as "
        f"export/saved_model or export/onnx, or a model file ({', '.join(SUFFIXES)}). "
        f"Received: {path}" + is_unfinished * _UNFINISHED
    )


def hash_model(model: Path) -> str:
    """Returns the SHA-256 of what `find_model` found, over all of its files."""
    files = [model]
    if model.is_dir():
        files = sorted(filter(Path.is_file, model.rglob("*")))
    elif model.suffix == ".xml":  # of OpenVINO, whose weights are in another file
        files.append(model.with_suffix(".bin"))
    digest = hashlib.sha256()
    try:
        for file in files:
            with open(file, "rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    except OSError as error:
        raise UserError(f"--model can't be read: {error}") from error
    return digest.hexdigest()


def check_output(
    output: str, overwrite: bool, flag: str = "output", beside: Sequence[str] = ()
) -> None:
    """Raises a UserError if the file of a flag, if any, exists or can't be written.

    `beside` are the endings of files that are written beside it.
    """
    if os.path.exists(output) and not overwrite:
        raise UserError(
            f"--{flag} must not exist, or give --overwrite. Received: {output}"
        )
    for path in (Path(output).with_suffix(suffix) for suffix in beside if output):
        if path.exists() and not overwrite:
            raise UserError(
                f"--{flag} must not exist, nor {path}, which is written beside it, or "
                f"give --overwrite. Received: {output}"
            )
    if output and not os.path.isdir(os.path.dirname(os.path.abspath(output))):
        raise UserError(
            f"--{flag} must lie in a folder that exists. Received: {output}"
        )
