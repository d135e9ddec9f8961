"""Reads a trained classifier from its model.keras, and describes one."""

import importlib
from collections.abc import Sequence
from pathlib import Path

import keras
import tensorflow as tf

from keras_ft.catalog.archive import Description, read_description
from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.host import user_code
from keras_ft.host.archives import open_archive, read_document
from keras_ft.host.packages import require
from keras_ft.kinds.task import Task
from keras_ft.models.classifier import get_backbone
from keras_ft.models.heads import get_temperatures
from keras_ft.models.published import shorten
from keras_ft.models.user_backbone import find_code


def load_trained(path: Path) -> tuple[keras.Model, Description]:
    """Reads a model.keras; never runs code from the file.

    If its network has layers of the user's own, their module is imported, which must be
    in the working directory or installed.

    Raises:
        OSError, ValueError, KeyError, zipfile.BadZipFile: See `read_description`.
        UserError: KerasHub or the user's module, of which it has layers, is missing.
    """
    description = read_description(path)
    with open_archive(path) as archive:
        has_layers_of_hub = b"keras_hub" in read_document(archive, "config.json")
    if has_layers_of_hub:
        require("--backbone=hub:", "keras_hub", "hub")
        importlib.import_module("keras_hub")  # registers its layers
    if description.code:
        user_code.load("backbone", description.code)
    try:
        model = keras.models.load_model(path, safe_mode=True)
        _check_fit(model, description)
    except (MemoryError, tf.errors.ResourceExhaustedError):  # the file may be whole
        raise
    except Exception as error:  # Keras raises all kinds
        raise ValueError(shorten(str(error) or repr(error))) from error
    return model, description


def _check_fit(model: keras.Model, description: Description) -> None:
    """Raises a ValueError if a network is not the one that is described."""
    outputs = model.output
    if not isinstance(outputs, dict):
        [output] = model.outputs
        outputs = {description.tasks[0].name: output}
    found = {name: output.shape[-1] for name, output in outputs.items()}
    tasks = {task.name: len(task.class_names) for task in description.tasks}
    height, width = model.input_shape[1:3]
    if found != tasks or (height, width) != description.preprocessing.size:
        raise ValueError(
            f"keras_ft.json in it describes another network: number of classes {tasks} "
            f"and images of {description.preprocessing.size} pixels, not {found} and "
            f"{height}x{width}"
        )
    get_backbone(model)


def describe_network(
    model: keras.Model,
    tasks: Sequence[Task],
    preprocessing: Preprocessing,
    origin: str = "",
) -> Description:
    """The description of a classifier, without the run that it comes from.

    `origin` is that of its initial `Weights`.
    """
    temperatures = get_temperatures(model, tasks)
    code = find_code(get_backbone(model))
    return Description(tuple(tasks), preprocessing, temperatures, {}, code, origin)
