"""Trained model -> model.keras and SavedModel; check that they agree."""

import importlib
import json
import logging
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_ft.data.examples import Strings
from keras_ft.images.decode import decode_image, resize
from keras_ft.models import presets
from keras_ft.models.classifier import fold_classifier
from keras_ft.system import files

log = logging.getLogger("keras_ft")

# What a signature returns, by name.
Answer = dict[str, tf.Tensor]

# Largest difference of a probability that rounding explains.
TOLERANCE = 1e-4
_CLASS_NAMES = "class_names.json"


def write_model(model: keras.Model, class_names: Sequence[str], path: Path) -> None:
    """Writes model.keras: pixels in [0, 255] to logits, no optimizer.

    The class names lie in the archive as one more file, which Keras passes over, so
    that the model is whole by itself and loads with keras alone.

    Args:
        model: float32 classifier.
        class_names: Its K classes.
        path: Where to; replaced whole.
    """
    with files.replacing(path) as partial:
        # A new, never compiled `Model` around the same layers has no optimizer to save.
        keras.Model(model.inputs, model.outputs, name=model.name).save(partial)
        with zipfile.ZipFile(partial, "a") as archive:
            archive.writestr(_CLASS_NAMES, json.dumps(list(class_names)))


def load_model(path: Path) -> tuple[keras.Model, tuple[str, ...]]:
    """Reads what `write_model` wrote; never runs code from the file.

    Raises:
        OSError: The file can't be read.
        ValueError: The file is not such a model.
        KeyError: The file holds no class names.
        UserError: The model has layers of KerasHub, which is missing.
    """
    with zipfile.ZipFile(path) as archive:
        class_names = json.loads(archive.read(_CLASS_NAMES))
        has_layers_of_hub = b"keras_hub" in archive.read("config.json")
    if has_layers_of_hub:
        presets.check_installed()
        importlib.import_module("keras_hub")  # registers its layers
    return keras.models.load_model(path, safe_mode=True), tuple(class_names)


def make_serving(
    model: keras.Model, class_names: Sequence[str]
) -> tuple[tf.types.experimental.PolymorphicFunction, ...]:
    """The functions behind the signatures `serving_default` and `serving_pixels`.

    Args:
        model: float32 classifier of [N, S, S, 3] pixels.
        class_names: K names.

    Returns:
        Functions of `image_bytes` string [N] and of `image` uint8 [N, H, W, 3].
    """
    names = tf.constant(list(class_names))
    image_size = model.input_shape[1]
    image_shape = [image_size, image_size, 3]

    # A function of its own, so that the network is traced once for both signatures.
    @_function(tf.TensorSpec([None, *image_shape], tf.float32))
    def compute_probabilities(images: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(model(images, training=False))

    def classify(images: tf.Tensor) -> Answer:
        probabilities = compute_probabilities(images)
        return {
            "class_name": tf.gather(names, tf.argmax(probabilities, axis=-1)),
            "probability": tf.reduce_max(probabilities, axis=-1),
            "probabilities": probabilities,
        }

    @_function(tf.TensorSpec([None], tf.string, name="image_bytes"))
    def serving_default(image_bytes: tf.Tensor) -> Answer:
        images = tf.map_fn(
            lambda one: resize(decode_image(one), image_size),
            image_bytes,
            fn_output_signature=tf.TensorSpec(image_shape, tf.float32),
        )
        return classify(images)

    @_function(tf.TensorSpec([None, None, None, 3], tf.uint8, name="image"))
    def serving_pixels(image: tf.Tensor) -> Answer:
        return classify(resize(image, image_size))

    return serving_default, serving_pixels


def _function(*signature: tf.TensorSpec) -> Callable:
    # The functions here contain no Python control flow to convert.
    return tf.function(input_signature=signature, autograph=False)


def write_saved_model(
    model: keras.Model, class_names: Sequence[str], folder: Path
) -> Path:
    """Writes the next version of a SavedModel in TensorFlow Serving's layout.

    Signatures: `serving_default(image_bytes: string [N])` and `serving_pixels(image:
    uint8 [N, H, W, 3])`, any H and W, both give `class_name` string [N],
    `probability` float32 [N] and `probabilities` float32 [N, K]; `class_names()` gives
    `class_names` string [K].

    `keras.export.ExportArchive` of Keras 3.15 is not used: it traces each signature
    several times and stores each weight twice.

    Args:
        model: float32 classifier of [N, S, S, 3] pixels; its BatchNorm is folded.
        class_names: K names.
        folder: Holds the versions 1/, 2/, ...; what is there stays.

    Returns:
        The new version's folder.
    """
    model = fold_classifier(model)
    serving_default, serving_pixels = make_serving(model, class_names)
    names = tf.constant(list(class_names))
    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    signatures = {
        "serving_default": serving_default,
        "serving_pixels": serving_pixels,
        "class_names": _function()(lambda: {"class_names": names}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with files.partial_folder(folder.parent) as partial:
        tf.saved_model.save(module, str(partial), signatures)
        versions = [int(p.name) for p in folder.iterdir() if p.name.isdigit()]
        version = folder / str(max(versions, default=0) + 1)
        partial.chmod(0o755)  # the user who serves it must have access
        partial.rename(version)
    return version


def check_parity(
    saved_model: Path, files: Strings, expected: np.ndarray, batch_size: int = 32
) -> tuple[float, float]:
    """Compares a SavedModel with the Keras model it was made from.

    Args:
        saved_model: Folder of one version.
        files: N image files, sent as bytes.
        expected: float32 [N, K], the Keras model's probabilities.
        batch_size: Examples per request.

    Returns:
        The largest difference of a probability, and how many images it served per
        second, files read and decoded.

    Raises:
        RuntimeError: It is more than rounding explains.
    """
    loaded = tf.saved_model.load(str(saved_model))
    serve = loaded.signatures["serving_default"]

    def answer(batch: Strings) -> np.ndarray:
        images = tf.constant([Path(file).read_bytes() for file in batch])
        return serve(image_bytes=images)["probabilities"].numpy()

    answer(files[:batch_size])  # the first one takes longer
    begin = time.perf_counter()
    served = []
    for start in range(0, len(files), batch_size):
        served.append(answer(files[start : start + batch_size]))
    rate = len(files) / (time.perf_counter() - begin)
    difference = float(np.abs(np.concatenate(served) - expected).max())
    if not difference <= TOLERANCE:
        raise RuntimeError(
            f"The exported model differs from the trained one by {difference:g} in a "
            f"probability, more than {TOLERANCE:g}: {saved_model}"
        )
    log.info(
        "Exported %s; its probabilities equal the Keras model's on %d images "
        "(largest difference %.1e).",
        saved_model,
        len(files),
        difference,
    )
    return difference, rate
