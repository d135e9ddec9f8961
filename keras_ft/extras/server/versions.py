"""Which models there are to serve, and in which version. Nothing is loaded here."""

import dataclasses
from pathlib import Path

from keras_ft.catalog.archive import MODEL
from keras_ft.catalog.formats import FORMATS, SAVED_MODEL
from keras_ft.errors import UserError
from keras_ft.runs.find_model import find_model
from keras_ft.runs.paths import RunPaths
from keras_ft.runs.record import load_record

# Parts of a path that do not name a model.
_UNNAMED = {"export", MODEL, *FORMATS, *(row.file for row in FORMATS.values())}


@dataclasses.dataclass(frozen=True)
class Version:
    """A version of a model on the disk."""

    number: int  # of its export; of a model.keras that of the SavedModel, or else 1
    model: Path  # what `find_model` finds
    changed: int  # in nanoseconds: a new training has the number 1 again


def find_versions(path: Path) -> dict[str, Version]:
    """Finds the models to serve, by the name of their folder, in their newest version.

    The path is that of a model, as `find_model` takes it, or a folder of several.

    Raises:
        UserError: There is none, or `path` is a run without an export.
    """
    if RunPaths(path).record.exists() or _is_model(path):
        return {_name(path): find_version(path)}
    folders = sorted(p for p in path.glob("*/") if _is_released(p) and _is_model(p))
    if not folders:
        raise UserError(
            "--model must be a workdir, a folder of its export/, a model file, or a "
            f"folder of finished workdirs. Received: {path}"
        )
    return {folder.name: find_version(folder) for folder in folders}


def find_version(path: Path) -> Version:
    """Finds the newest version of a model; UserError if it has no export."""
    if not _is_released(path):
        raise UserError(
            f"--model must be a finished run with an export. Received: {path}; if it "
            "is finished, --mode=export exports it"
        )
    model = find_model(path)
    file = model / FORMATS[SAVED_MODEL].file if model.is_dir() else model
    folder = file.parent
    if folder.name.isdigit():
        number = int(folder.name)
    else:
        number = max(RunPaths(folder).exported_versions(SAVED_MODEL), default=1)
    return Version(number, model, file.stat().st_mtime_ns)


def _is_model(path: Path) -> bool:
    try:
        find_model(path)
    except UserError:
        return False
    return True


def _is_released(path: Path) -> bool:
    """Whether a path is no workdir, or that of a finished run with an export."""
    paths = RunPaths(path)  # below `--assert_accuracy_at_least`, it has none
    if not paths.record.exists():
        return True
    is_finished = load_record(paths).state == "finished"
    return is_finished and any(paths.export.glob("*/*/"))


def _name(path: Path) -> str:
    """Of runs/mine/export/onnx/1/model.onnx and runs/mine/model.keras it is `mine`."""
    path = path.resolve()
    while path.name in _UNNAMED or path.name.isdigit():
        path = path.parent
    return path.stem or "model"
