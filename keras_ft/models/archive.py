"""What a model.keras contains besides the network; it needs no TensorFlow.

The archive has two more files, which Keras passes over, so that the model is whole by
itself and loads with keras alone.
"""

import dataclasses
import json
import zipfile
from pathlib import Path

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
