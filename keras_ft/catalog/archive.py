"""What a model file contains besides the network; it needs no TensorFlow.

It is a JSON document: one more file in the archive model.keras, which Keras passes
over, so that the model is whole by itself and loads with keras alone; an asset of a
SavedModel; a zip archive at the end of a LiteRT model, as LiteRT's own metadata are; an
entry in the metadata of an ONNX or OpenVINO model.
"""

import dataclasses
import json
import pkgutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_ft.catalog.backbones import is_model_name
from keras_ft.catalog.formats import find_format
from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.kinds.task import KINDS, MULTICLASS, MULTILABEL, Task

MODEL = "model.keras"  # the name of the file in a workdir
DESCRIPTION = "keras_ft.json"
FORMAT_VERSION = 1  # to be raised when the content changes its meaning
_CLASS_NAMES = "class_names.json"  # of earlier versions, which had one task


@dataclasses.dataclass(frozen=True)
class Description:
    """What a classifier needs besides its network, and where it comes from."""

    tasks: tuple[Task, ...]  # in the order of their heads
    preprocessing: Preprocessing
    # For each task the divisor of the logits, which is in the network.
    temperatures: Mapping[str, float] = dataclasses.field(default_factory=dict)
    # In an export: the SHA-256 of its model.keras (`model_sha256`), `backbone`,
    # `packages`, the `warnings` of metrics.json and, of each task, metrics on `test`.
    # Of an unfinished run: `backbone`, `packages` and the epoch, `unfinished`.
    run: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # In a model.keras with layers of the user's own, `py:MODULE:NAME` of the backbone,
    # whose module must be imported before the file is read.
    code: str = ""


def to_json(description: Description) -> str:
    """The content of keras_ft.json."""
    content = {
        "format_version": FORMAT_VERSION,
        "tasks": [
            {
                "name": task.name,
                "class_names": task.class_names,
                "kind": task.kind.name,
                # Earlier versions of this program read whether it is multilabel.
                "is_multilabel": task.kind == MULTILABEL,
                "thresholds": task.thresholds,
            }
            for task in description.tasks
        ],
        "resize": description.preprocessing.mode,
        "image_size": description.preprocessing.size,
        "temperatures": dict(description.temperatures),
        "run": dict(description.run),
    }
    if description.code:
        content["code"] = description.code
    return json.dumps(content, indent=2)


def append_description(path: Path, description: Description) -> None:
    """Adds a description to a file that Keras has written, or the LiteRT converter."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(DESCRIPTION, to_json(description))


def read_description(path: Path) -> Description:
    """Reads the description in a model.keras or a LiteRT model.

    Raises:
        OSError: The file can't be read.
        ValueError: It is damaged, or of a newer version of this program.
        zipfile.BadZipFile: It is damaged.
        KeyError: It is another Keras model, without classes.
    """
    with zipfile.ZipFile(path) as archive:
        if DESCRIPTION in archive.namelist():
            return from_json(archive.read(DESCRIPTION))
        class_names = tuple(json.loads(archive.read(_CLASS_NAMES)))
    _, height, width, _ = _read_layers(path)[0]["batch_shape"]
    return Description((Task(class_names=class_names),), Preprocessing(height, width))


def read_asset(path: Path) -> Description | None:
    """Reads the description of a SavedModel; None of one of an earlier version."""
    asset = path / "assets" / DESCRIPTION
    return from_json(asset.read_bytes()) if asset.exists() else None


def find_description(path: Path) -> Description | None:
    """Reads the description of a model file, or of one version of a SavedModel.

    It is None for a SavedModel of an earlier version of the program, with one task.
    Raises as `read_description`, and a UserError if the package that reads the format
    is missing.
    """
    if path.suffix == ".keras":
        return read_description(path)
    return pkgutil.resolve_name(find_format(path).describe)(path)


def is_classifier(path: Path) -> bool:
    """Whether a file is a model.keras with a description."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return bool({DESCRIPTION, _CLASS_NAMES} & set(archive.namelist()))


def read_backbone_name(path: Path) -> str:
    """Reads the name of the backbone in a model.keras; raises as `read_description`."""
    names = [layer["name"] for layer in _read_layers(path)]
    for name in filter(is_model_name, names):
        return name
    raise ValueError(f"no backbone among its layers {', '.join(names)}")


def _read_layers(path: Path) -> list[dict[str, Any]]:
    with zipfile.ZipFile(path) as archive:
        layers = json.loads(archive.read("config.json"))["config"]["layers"]
    return [layer["config"] for layer in layers]


def from_json(text: str | bytes) -> Description:
    """Reads what `to_json` or an earlier version of it has written.

    Raises:
        ValueError, KeyError: It is damaged, or of a newer version of this program.
    """
    content = json.loads(text)
    if content["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"its format version is {content['format_version']}, of a newer version of "
            "keras_ft"
        )
    height, width = content["image_size"]
    return Description(
        tuple(map(_read_task, content["tasks"])),
        Preprocessing(height, width, content["resize"]),
        content.get("temperatures", {}),
        content.get("run", {}),
        content.get("code", ""),
    )


def _read_task(task: Mapping[str, Any]) -> Task:
    if "kind" in task:
        kind = KINDS[task["kind"]]
    else:
        kind = MULTILABEL if task["is_multilabel"] else MULTICLASS
    class_names, thresholds = tuple(task["class_names"]), tuple(task["thresholds"])
    return Task(task["name"], class_names, kind, thresholds)
