"""Trained model -> model.keras and SavedModel."""

import tempfile
from pathlib import Path

import keras
import tensorflow as tf

from keras_ft.catalog import archive
from keras_ft.catalog.archive import Description
from keras_ft.host import files
from keras_ft.serving.signatures import make_signatures


def write_model(model: keras.Model, description: Description, path: Path) -> None:
    """Writes model.keras, replaced whole: float32, pixels in [0, 255] to logits."""
    with files.replacing(path) as partial:
        # A new, never compiled `Model` around the same layers has no optimizer to save.
        keras.Model(model.input, model.output, name=model.name).save(partial)
        archive.append_description(partial, description)


def write_saved_model(
    model: keras.Model, description: Description, folder: Path
) -> None:
    """Writes a SavedModel with the signatures of `make_signatures`.

    keras_ft.json among the assets describes the tasks.

    `keras.export.ExportArchive` of Keras 3.15 is not used: it traces each signature
    several times and stores each weight twice.

    The model is float32, from `fold_classifier`; the folder is empty, or made.
    """
    signatures = make_signatures(model, description)
    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    with tempfile.TemporaryDirectory() as scratch:
        asset = Path(scratch) / archive.DESCRIPTION
        asset.write_text(archive.to_json(description), encoding="utf-8")
        module.description = tf.saved_model.Asset(str(asset))
        tf.saved_model.save(module, str(folder), signatures)
