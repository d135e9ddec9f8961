"""Reads a trained classifier from its model.keras, and describes one."""

import importlib
import zipfile
from collections.abc import Sequence
from pathlib import Path

import keras

from keras_ft.catalog import presets
from keras_ft.catalog.archive import Description, read_description
from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.models.heads import get_temperatures
from keras_ft.tasks import Task


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


def describe_network(
    model: keras.Model, tasks: Sequence[Task], preprocessing: Preprocessing
) -> Description:
    """The description of a classifier, without the run that it comes from.

    Args:
        model: A model of `make_classifier` or `set_temperatures`.
        tasks: Its tasks.
        preprocessing: How images become its input.
    """
    return Description(tuple(tasks), preprocessing, get_temperatures(model, tasks))
