"""Reads a trained classifier from its model.keras."""

import importlib
import zipfile
from pathlib import Path

import keras

from keras_ft.models import presets
from keras_ft.models.archive import Description, read_description


def load_trained(path: Path) -> tuple[keras.Model, Description]:
    """Reads a model.keras; never runs code from the file.

    Raises:
        OSError, ValueError, KeyError, zipfile.BadZipFile: See `read_description`.
        UserError: The model has layers of KerasHub, which is missing.
    """
    description = read_description(path)
    with zipfile.ZipFile(path) as archive:
        has_layers_of_hub = b"keras_hub" in archive.read("config.json")
    if has_layers_of_hub:
        presets.check_installed()
        importlib.import_module("keras_hub")  # registers its layers
    return keras.models.load_model(path, safe_mode=True), description
