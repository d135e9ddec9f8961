"""Writes tests/fixtures/exports_1: one small network in every format of the export.

Run once for each format version of keras_ft.json, with a new number; what is there must
load and answer the same for ever after (tests/integration/test_export_formats.py).

    python tools/make_export_fixtures.py tests/fixtures/exports_1
"""

import json
import shutil
import sys
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from keras_ft.catalog.archive import Description
from keras_ft.catalog.formats import FORMATS, SAVED_MODEL
from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.serving.conversion import WRITERS, trace
from keras_ft.serving.model_files import write_saved_model
from keras_ft.serving.trained_classifier import load_classifier
from keras_ft.tasks import Task

PREPROCESSING = Preprocessing(32, 24, "crop")
TASKS = (
    Task("colour", ("blau", "grün", "rot")),
    Task("tags", ("bright", "warm"), True, (0.5, 0.25)),
)


def make_model() -> keras.Model:
    """A convolution, pooling and two heads, from images to a dict of logits."""
    keras.utils.set_random_seed(0)
    images = keras.Input((*PREPROCESSING.size, 3), name="image")
    x = keras.layers.Rescaling(1 / 127.5, -1.0)(images)
    x = keras.layers.Conv2D(40, 3, 4, "same", activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    heads = {
        task.name: keras.layers.Dense(
            len(task.class_names), kernel_initializer=keras.initializers.Orthogonal(4)
        )(x)
        for task in TASKS
    }
    return keras.Model(images, heads)


def write_images(folder: Path) -> list[str]:
    """Three images in three formats, of other sizes than the network's."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    names = []
    for name, colour in (
        ("a.png", (220, 40, 30)),
        ("b.bmp", (20, 200, 40)),
        ("c.gif", (20, 30, 220)),
    ):
        pixels = np.clip(rng.normal(colour, 40, (12, 20, 3)), 0, 255).astype("uint8")
        Image.fromarray(pixels).save(folder / name)
        names.append(name)
    return names


def main() -> None:
    """Writes the artifacts, images and answers."""
    folder = Path(sys.argv[1])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    model = make_model()
    run = {"model_sha256": "0" * 64, "backbone": "tiny", "packages": {}, "test": {}}
    temperatures = {"colour": 1.25, "tags": 1.0}
    description = Description(TASKS, PREPROCESSING, temperatures, run)
    network = trace(model, TASKS)
    for name in FORMATS:
        (folder / name).mkdir()
        if name == SAVED_MODEL:
            write_saved_model(model, description, folder / name)
        else:
            WRITERS[name](network, description, folder / name)
    names = write_images(folder / "images")
    classifier = load_classifier(folder / SAVED_MODEL)
    answers = classifier.predict([folder / "images" / name for name in names])
    content = {
        "images": names,
        "description": json.loads(
            (folder / SAVED_MODEL / "assets" / "keras_ft.json").read_text()
        ),
        "probabilities": {name: p.tolist() for name, p in answers.items()},
    }
    (folder / "expected.json").write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
