"""What an artifact says about itself; can be read without TensorFlow."""

import dataclasses
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_ft.tasks import Task

# Not metadata.json, which Keras writes into a model.keras.
METADATA = "keras_ft.json"
# To be raised when the content changes its meaning.
FORMAT_VERSION = 1
# In a model.keras of earlier versions, which had one task.
_CLASS_NAMES = "class_names.json"


def to_json(tasks: Sequence[Task]) -> str:
    """The content of keras_ft.json."""
    content = {
        "format_version": FORMAT_VERSION,
        "tasks": [dataclasses.asdict(task) for task in tasks],
    }
    return json.dumps(content, indent=2)


def read_archive(path: Path) -> tuple[Task, ...]:
    """Reads the tasks of a model.keras.

    Raises:
        OSError, ValueError, KeyError, zipfile.BadZipFile: It can't be read.
    """
    with zipfile.ZipFile(path) as archive:
        if METADATA in archive.namelist():
            return _from_json(json.loads(archive.read(METADATA)))
        return (Task(class_names=tuple(json.loads(archive.read(_CLASS_NAMES)))),)


def read_tasks(path: Path) -> tuple[Task, ...] | None:
    """Reads the tasks of a model.keras or one version of a SavedModel.

    Returns:
        The tasks; None for a SavedModel of an earlier version, which has one task.

    Raises:
        OSError, ValueError, KeyError, zipfile.BadZipFile: It can't be read.
    """
    if path.suffix == ".keras":
        return read_archive(path)
    metadata = path / "assets" / METADATA
    return _from_json(json.loads(metadata.read_bytes())) if metadata.exists() else None


def _from_json(content: dict[str, Any]) -> tuple[Task, ...]:
    if content["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"its format version is {content['format_version']}, of a newer version of "
            "keras_ft"
        )
    return tuple(
        Task(
            task["name"],
            tuple(task["class_names"]),
            task["is_multilabel"],
            tuple(task["thresholds"]),
        )
        for task in content["tasks"]
    )
