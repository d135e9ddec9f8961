"""`--overwrite`: the old run is kept until the new one has a model."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from keras_ft.runs.paths import NAMES, RunPaths

_MOVING = ".moving"


def move_aside(folder: Path, names: Sequence[str] = NAMES) -> None:
    """Moves an old run into `previous`; `move_back` undoes an interrupted move."""
    previous, moving = RunPaths(folder).previous, folder / _MOVING
    old = [name for name in names if (folder / name).exists()]
    if previous.exists():
        # The run in the workdir never got a model, so the run worth keeping is the
        # one that was moved aside before.
        for path in (folder / name for name in old):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    elif old:
        moving.mkdir()
        for name in old:
            os.replace(folder / name, moving / name)
        os.replace(moving, previous)


def move_back(folder: Path) -> None:
    """Undoes a `move_aside` that was interrupted."""
    moving = folder / _MOVING
    if moving.exists():
        for path in moving.iterdir():
            os.replace(path, folder / path.name)
        moving.rmdir()


def remove_previous(folder: Path) -> None:
    """Removes the old run that `--overwrite` moved aside, if there is one."""
    shutil.rmtree(RunPaths(folder).previous, ignore_errors=True)
