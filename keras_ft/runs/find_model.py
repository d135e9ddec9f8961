"""What `--model`, `--weights` and `--output` name."""

import contextlib
import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_ft.catalog.backbones import Weights
from keras_ft.catalog.formats import FORMATS, SAVED_MODEL, SUFFIXES
from keras_ft.data.examples import Examples
from keras_ft.data.tables import canonical_path, read_table
from keras_ft.errors import UserError
from keras_ft.runs.paths import SPLITS, RunPaths
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


def leave_out_seen(examples: Examples, model: Path) -> Examples:
    """Leaves out the examples that a model was trained or selected on.

    If `model`, as `find_model` returns it, lies in a workdir, its splits.csv says which
    they are; else none is left out. Raises a UserError if none remains.
    """
    # Of WORKDIR/export/onnx/1/model.onnx, the workdir is the fourth parent.
    candidates = (folder / SPLITS for folder in model.absolute().parents[:4])
    recorded = next((path for path in candidates if path.is_file()), None)
    if recorded is None:
        return examples
    unseen = ~_are_listed(examples, recorded, ("train", "val"))
    if not unseen.any():
        raise UserError(
            "--data must have images that the model was not trained on. Received: "
            f"only images that {recorded} lists under train or val"
        )
    if not unseen.all():
        log.info(
            "Left out %d of %d images that the model was trained or selected on (%s).",
            np.sum(~unseen),
            len(examples),
            recorded,
        )
    return examples.take(unseen)


def warn_of_seen(examples: Examples, weights: Weights) -> None:
    """Warns if a run is measured on images that its initial weights were trained on.

    If their file lies in a workdir, its splits.csv says which images were train.
    """
    recorded = Path(weights.file or "").parent / SPLITS
    if not weights.file or not recorded.is_file():
        return
    held_out = examples.take(np.isin(examples.splits, ("val", "test")))
    if count := np.sum(_are_listed(held_out, recorded, ("train",))):
        log.warning(
            "Results will be too good: %d of %d images in val and test are ones that "
            "--weights=%s was trained on. Give %s as --data, with rows for new images.",
            count,
            len(held_out),
            weights.used,
            recorded,
        )


def _are_listed(examples: Examples, splits: Path, names: Sequence[str]) -> np.ndarray:
    """Whether each example is in some splits of a splits.csv, bool [N]."""
    rows = read_table(str(splits))
    listed = {canonical_path(row.path) for _, row in rows if row.split in names}
    return np.array([canonical_path(path) in listed for path in examples.paths], bool)


def check_output(output: str, overwrite: bool, flag: str = "output") -> None:
    """Raises a UserError if the file of a flag, if any, exists or can't be written."""
    if os.path.exists(output) and not overwrite:
        raise UserError(
            f"--{flag} must not exist, or give --overwrite. Received: {output}"
        )
    if output and not os.path.isdir(os.path.dirname(os.path.abspath(output))):
        raise UserError(
            f"--{flag} must lie in a folder that exists. Received: {output}"
        )
