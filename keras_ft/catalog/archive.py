"""What an artifact contains besides the network; it needs no TensorFlow.

It is a JSON document: one more file in the archive model.keras, which Keras passes
over, so that the model is whole by itself and loads with keras alone; an asset of a
SavedModel; a zip archive at the end of a LiteRT model, as LiteRT's own metadata are; an
entry in the metadata of an ONNX or OpenVINO model.
"""

import dataclasses
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from keras_ft.catalog.backbones import is_model_name
from keras_ft.catalog.formats import missing
from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.tasks import Task

MODEL = "model.keras"  # the name of the file in a workdir
DESCRIPTION = "keras_ft.json"
# The name of the document in the metadata of ONNX and OpenVINO.
KEY = "keras_ft"
# To be raised when the content changes its meaning.
FORMAT_VERSION = 1
# In a model.keras of earlier versions, which had one task.
_CLASS_NAMES = "class_names.json"


@dataclasses.dataclass(frozen=True)
class Description:
    """What a classifier needs besides its network, and where it comes from.

    Attributes:
        tasks: The tasks, in the order of their heads.
        preprocessing: How images become the input of the network.
        temperatures: For each task the divisor of the logits, which is in the network.
        run: In an export: the SHA-256 of its model.keras (`model_sha256`), `backbone`,
            `packages` and, of each task, the metrics on `test`.
    """

    tasks: tuple[Task, ...]
    preprocessing: Preprocessing
    temperatures: Mapping[str, float] = dataclasses.field(default_factory=dict)
    run: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def to_json(description: Description) -> str:
    """The content of keras_ft.json."""
    content = {
        "format_version": FORMAT_VERSION,
        "tasks": [dataclasses.asdict(task) for task in description.tasks],
        "resize": description.preprocessing.mode,
        "image_size": description.preprocessing.size,
        "temperatures": dict(description.temperatures),
        "run": dict(description.run),
    }
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


def find_description(path: Path) -> Description | None:
    """Reads the description of a model in any format.

    Args:
        path: A model file, or the folder of one version of a SavedModel.

    Returns:
        The description; None for a SavedModel of an earlier version, which has one
        task.

    Raises:
        OSError, ValueError, KeyError, zipfile.BadZipFile: See `read_description`.
        UserError: The package that reads the format is missing.
    """
    if path.suffix in (".keras", ".tflite"):
        return read_description(path)
    if path.suffix == ".onnx":
        return _read_onnx(path)
    if path.suffix == ".xml":
        return _read_openvino(path)
    asset = path / "assets" / DESCRIPTION
    return from_json(asset.read_bytes()) if asset.exists() else None


def _read_onnx(path: Path) -> Description:
    try:
        import onnxruntime
    except ImportError as error:
        raise missing(str(path), "onnxruntime", "onnx") from error
    options = onnxruntime.SessionOptions()
    level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.graph_optimization_level = level
    try:
        session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # it has a class of its own for each kind of damage
        raise ValueError(str(error)) from error
    return from_json(session.get_modelmeta().custom_metadata_map[KEY])


def _read_openvino(path: Path) -> Description:
    try:
        found = ElementTree.parse(path).find(f"rt_info/{KEY}")
    except ElementTree.ParseError as error:
        raise ValueError(str(error)) from error
    if found is None:
        raise KeyError(KEY)
    return from_json(found.attrib["value"])


def is_classifier(path: Path) -> bool:
    """Whether a file is a model.keras with a description."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return bool({DESCRIPTION, _CLASS_NAMES} & set(archive.namelist()))


def read_backbone_name(path: Path) -> str:
    """Reads the name of the backbone in a model.keras, see `find_model_name`.

    Raises:
        OSError, ValueError, KeyError, zipfile.BadZipFile: See `read_description`.
    """
    names = [layer["name"] for layer in _read_layers(path)]
    found = [name for name in names if is_model_name(name)]
    if not found:
        raise ValueError(f"no backbone among its layers {', '.join(names)}")
    return found[0]


def _read_layers(path: Path) -> list[dict[str, Any]]:
    """The configuration of each layer of a model.keras."""
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
    tasks = tuple(
        Task(
            task["name"],
            tuple(task["class_names"]),
            task["is_multilabel"],
            tuple(task["thresholds"]),
        )
        for task in content["tasks"]
    )
    height, width = content["image_size"]
    return Description(
        tasks,
        Preprocessing(height, width, content["resize"]),
        content.get("temperatures", {}),
        content.get("run", {}),
    )
