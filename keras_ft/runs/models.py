"""What `--model` and `--output` name."""

import logging
import os
from pathlib import Path

import numpy as np

from keras_ft.data.examples import Examples
from keras_ft.data.tables import canonical_path, read_table
from keras_ft.errors import UserError
from keras_ft.runs.paths import SPLITS, RunPaths

log = logging.getLogger("keras_ft")


def find_model(path: Path) -> Path:
    """Finds what a `--model` names.

    Args:
        path: A workdir, an export/saved_model folder, one of its versions, or a
            .keras file.

    Returns:
        The .keras file or the folder of a SavedModel's version, of several the newest.

    Raises:
        UserError: There is none.
    """
    if path.suffix == ".keras" and path.is_file():
        return path
    if (path / "saved_model.pb").is_file():
        return path
    if RunPaths(path).model.is_file():
        return RunPaths(path).model
    versions = [p for p in path.glob("*/") if p.name.isdigit()]
    if versions:
        return max(versions, key=lambda version: int(version.name))
    raise UserError(
        "--model must be a workdir with a model.keras, an export/saved_model folder or "
        f"a .keras file. Received: {path}"
    )


def leave_out_seen(examples: Examples, model: Path) -> Examples:
    """Leaves out examples that a model was trained or selected on.

    Args:
        examples: Labelled images.
        model: What `find_model` found. If it lies in a workdir, that workdir's
            splits.csv says which were train and val; else nothing is left out.

    Raises:
        UserError: Nothing would be left.
    """
    # Of WORKDIR/export/saved_model/1, the workdir is the third parent.
    candidates = (folder / SPLITS for folder in model.absolute().parents[:3])
    recorded = next((path for path in candidates if path.is_file()), None)
    if recorded is None:
        return examples
    seen = {
        canonical_path(row.path)
        for _, row in read_table(str(recorded))
        if row.split in ("train", "val")
    }
    unseen = np.array([canonical_path(path) not in seen for path in examples.paths])
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


def check_output(output: str, overwrite: bool) -> None:
    """Raises a UserError if a file exists already, or can't be written."""
    if not output:
        return
    if os.path.exists(output) and not overwrite:
        raise UserError(
            f"--output must not exist, or give --overwrite. Received: {output}"
        )
    if not os.path.isdir(os.path.dirname(os.path.abspath(output))):
        raise UserError(
            f"--output must lie in a folder that exists. Received: {output}"
        )
