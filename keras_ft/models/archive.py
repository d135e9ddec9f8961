"""What a model.keras contains besides the network; it needs no TensorFlow.

The archive has two more files, which Keras passes over, so that the model is whole by
itself and loads with keras alone.
"""

import dataclasses
import json
import zipfile
from pathlib import Path

from keras_ft.models.backbones import BACKBONES

MODEL = "model.keras"  # the name of the file in a workdir
_CLASS_NAMES = "class_names.json"
_PREPROCESSING = "preprocessing.json"


@dataclasses.dataclass(frozen=True)
class Description:
    """What a classifier needs besides its network.

    Attributes:
        class_names: The K classes.
        resize: How images get the size of the network, see `decode.resize`.
    """

    class_names: tuple[str, ...]
    resize: str = "stretch"


def append_description(path: Path, description: Description) -> None:
    """Adds a description to a file that Keras has written."""
    preprocessing = {"resize": description.resize}
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(_CLASS_NAMES, json.dumps(description.class_names))
        archive.writestr(_PREPROCESSING, json.dumps(preprocessing))


def read_description(path: Path) -> Description:
    """Reads the description in a model.keras.

    Raises:
        OSError: The file can't be read.
        ValueError: It is damaged.
        zipfile.BadZipFile: It is damaged.
        KeyError: It is another Keras model, without class names.
    """
    with zipfile.ZipFile(path) as archive:
        class_names = tuple(json.loads(archive.read(_CLASS_NAMES)))
        if _PREPROCESSING not in archive.namelist():  # of an earlier version
            return Description(class_names)
        preprocessing = json.loads(archive.read(_PREPROCESSING))
        return Description(class_names, preprocessing["resize"])


def is_classifier(path: Path) -> bool:
    """Whether a file is a model.keras with a description."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return _CLASS_NAMES in archive.namelist()


def read_backbone_name(path: Path) -> str:
    """Reads the name of the backbone of a model.keras, a key of `BACKBONES`.

    Raises:
        OSError, ValueError, KeyError, zipfile.BadZipFile: See `read_description`.
    """
    with zipfile.ZipFile(path) as archive:
        layers = json.loads(archive.read("config.json"))["config"]["layers"]
    names = [layer["config"]["name"] for layer in layers]
    found = [name for name in names if name in BACKBONES]
    if not found:
        raise ValueError(f"no backbone among its layers {', '.join(names)}")
    return found[0]
