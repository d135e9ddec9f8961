"""What `--features` and `--heatmaps` write beside the rows of predictions."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_ft.config.modes import ApplyConfig
from keras_ft.errors import UserError
from keras_ft.host.files import replacing
from keras_ft.runs.find_model import check_output
from keras_ft.serving.parts import explaining_failure


def check_extras(config: ApplyConfig, model: Path, overwrite: bool) -> None:
    """Checks that a model has what is asked for, and that it is not there already.

    It may be there if the parts of the output say that the prediction resumes.
    """
    overwrite = overwrite or os.path.exists(f"{config.output}.parts")
    check_output(config.features, overwrite, "features")
    if not config.heatmaps:
        return
    if model.suffix != ".keras":
        raise UserError(
            "--heatmaps needs a workdir or a model.keras as --model: exports have no "
            f"gradients. Received: {model}"
        )
    folder = Path(config.heatmaps)
    is_empty = folder.is_dir() and not any(folder.iterdir())
    if not overwrite and folder.exists() and not is_empty:
        raise UserError(
            "--heatmaps must be a new or empty folder, or give --overwrite, which "
            f"replaces files of the same name. Received: {folder}"
        )


def stack_features(described: Sequence[Any], size: int) -> np.ndarray:
    """The features of images, float32 [N, D]; a row of NaN if it can't be read."""
    missing = np.full(size, np.nan, "<f4")
    rows = [missing if d.features is None else d.features for d in described]
    return np.array(rows, "<f4")


def write_heatmaps(
    folder: Path, answered: Iterable[tuple[str, Any]], first: int
) -> Iterator[tuple[str, Any]]:
    """Writes heatmaps as images pass by, and yields the rest of their `Described`."""
    with explaining_failure("heatmaps"):
        folder.mkdir(parents=True, exist_ok=True)
    for row, (path, described) in enumerate(answered, first):
        for k, (task, image) in enumerate(described.heatmaps.items(), 1):
            name = f"{row:08d}_{_clean(Path(path).stem)}"
            if len(described.heatmaps) > 1:
                name += f"_{k}_{_clean(task)}"
            file = folder / f"{name}.jpg"
            with explaining_failure("heatmaps"), replacing(file) as partial:
                image.save(partial, quality=90)
        yield path, described._replace(heatmaps={})


def _clean(name: str) -> str:
    """A part of a file name that is short and plain; the numbers make it unique."""
    return re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII)[:60]
