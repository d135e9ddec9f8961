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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from keras_ft.catalog.backbones import TERMS, is_model_name
from keras_ft.catalog.formats import find_format
from keras_ft.catalog.preprocessing import (
    RESIZE_MODES,
    Preprocessing,
    parse_image_size,
)
from keras_ft.host.archives import open_archive, read_document
from keras_ft.host.typed_json import check_type, parse_json
from keras_ft.kinds.task import KINDS, MULTICLASS, MULTILABEL, Task

MODEL = "model.keras"  # the name of the file in a workdir
DESCRIPTION = "keras_ft.json"
FORMAT_VERSION = 1  # to be raised when the content changes its meaning
_CLASS_NAMES = "class_names.json"  # of earlier versions, which had one task


class _TaskContent(TypedDict):
    """A task in keras_ft.json; earlier versions named no `kind`."""

    name: str
    class_names: list[str]
    kind: NotRequired[str]
    is_multilabel: NotRequired[bool]
    thresholds: list[float]


class _Version(TypedDict):
    """What every version of keras_ft.json has."""

    format_version: int


class _Content(_Version):
    """The content of keras_ft.json."""

    tasks: list[_TaskContent]
    resize: str
    image_size: list[int]
    temperatures: NotRequired[dict[str, float]]
    run: NotRequired[dict[str, Any]]
    code: NotRequired[str]


class _Layer(TypedDict):
    """A layer in Keras's config.json."""

    config: dict[str, Any]


class _Layers(TypedDict):
    """A network in Keras's config.json."""

    layers: list[_Layer]


class _Network(TypedDict):
    """As much of Keras's config.json as is read here."""

    config: _Layers


@dataclasses.dataclass(frozen=True)
class Description:
    """What a classifier needs besides its network, and where it comes from."""

    tasks: tuple[Task, ...]  # in the order of their heads
    preprocessing: Preprocessing
    # For each task the divisor of the logits, which is in the network.
    temperatures: Mapping[str, float] = dataclasses.field(default_factory=dict)
    # In an export: the SHA-256 of its model.keras (`model_sha256`), `backbone`,
    # `packages`, the `warnings` of metrics.json and, of each task, metrics on `test`.
    # Of an unfinished run: `backbone`, `packages`, `warnings`, `unfinished`: the
    # epoch.
    run: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # In a model.keras with layers of the user's own, `py:MODULE:NAME` of the backbone,
    # whose module must be imported before the file is read.
    code: str = ""
    origin: str = ""  # of its initial weights, see `Weights`


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
    if description.origin:
        content["weights_origin"] = description.origin
        content["weights_terms"] = TERMS.get(description.origin, "")
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
    with open_archive(path) as archive:
        if DESCRIPTION in archive.namelist():
            return from_json(read_document(archive, DESCRIPTION))
        names = parse_json(read_document(archive, _CLASS_NAMES), list[str])
    size = _read_layers(path)[0]["batch_shape"][1:3]
    return Description((Task(class_names=tuple(names)),), _make_preprocessing(size))


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
    try:
        with open_archive(path) as archive:
            return bool({DESCRIPTION, _CLASS_NAMES} & set(archive.namelist()))
    except zipfile.BadZipFile:
        return False


def read_backbone_name(path: Path) -> str:
    """Reads the name of the backbone in a model.keras; raises as `read_description`."""
    names = [str(layer["name"]) for layer in _read_layers(path)]
    for name in filter(is_model_name, names):
        return name
    raise ValueError(f"no backbone among its layers {', '.join(names)}")


def _read_layers(path: Path) -> list[dict[str, Any]]:
    with open_archive(path) as archive:
        network = parse_json(read_document(archive, "config.json"), _Network)
    return [layer["config"] for layer in network["config"]["layers"]]


def from_json(text: str | bytes) -> Description:
    """Reads what `to_json` or an earlier version of it has written.

    Raises:
        ValueError: It is damaged, or of a newer version of this program.
    """
    content = parse_json(text, _Version)
    if content["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"its format version is {content['format_version']}, of a newer version of "
            "keras_ft"
        )
    check_type(content, _Content, DESCRIPTION)
    names = [task["name"] for task in content["tasks"]]
    if not 0 < len(names) == len(set(names)):
        raise ValueError(f"no tasks with names of their own: {', '.join(names)}")
    return Description(
        tuple(map(_read_task, content["tasks"])),
        _make_preprocessing(content["image_size"], content["resize"]),
        content.get("temperatures", {}),
        content.get("run", {}),
        content.get("code", ""),
        content.get("weights_origin", ""),
    )


def _make_preprocessing(size: Sequence[int], mode: str = "stretch") -> Preprocessing:
    if mode not in RESIZE_MODES or len(size) != 2:
        raise ValueError(f"no preprocessing: resize {mode}, image_size {size}")
    return Preprocessing(*parse_image_size(size), mode)


def _read_task(task: Mapping[str, Any]) -> Task:
    name, class_names = task["name"], tuple(task["class_names"])
    thresholds = tuple(task["thresholds"])
    if "kind" in task:
        kind = KINDS.get(task["kind"])
    else:
        kind = MULTILABEL if task.get("is_multilabel") else MULTICLASS
    if (
        kind is None
        or len(set(class_names)) < max(len(class_names), kind.min_classes)
        or len(thresholds) not in (0, len(class_names))
        or (kind.decides_by_thresholds and not thresholds)
    ):
        raise ValueError(
            f"no task: {name} with {len(class_names)} classes, {len(thresholds)} "
            f"thresholds, kind {task.get('kind')}"
        )
    return Task(name, class_names, kind, thresholds)
