"""What an export without decoding needs beside it: how to make its pixels."""

import inspect
from pathlib import Path

from keras_ft.catalog.image_size import ImageSize
from keras_ft.extras.formats import preprocess
from keras_ft.host import files

SETTINGS = "preprocessing.json"
CODE = "preprocess.py"


def write_preprocessing(image_size: ImageSize, resize: str, folder: Path) -> None:
    """Writes preprocessing.json, and preprocess.py, which carries it out.

    Args:
        image_size: Height and width of the network's images.
        resize: How images get this size, see `decode.resize`.
        folder: An existing folder.
    """
    settings = preprocess.Settings(*image_size, resize)
    files.write_json(folder / SETTINGS, settings._asdict() | preprocess.STEPS)
    files.write_text(folder / CODE, inspect.getsource(preprocess))
