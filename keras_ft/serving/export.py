"""Trained model -> model.keras and SavedModel; check that they agree."""

import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_ft.data.examples import Strings
from keras_ft.images.decode import decode_image, resize
from keras_ft.models.archive import (
    DESCRIPTION,
    Description,
    append_description,
    to_json,
)
from keras_ft.models.classifier import fold_classifier
from keras_ft.models.heads import activate
from keras_ft.system import files
from keras_ft.tasks import SEPARATOR, Task, is_plain

log = logging.getLogger("keras_ft")

# What a signature returns, by name.
Answer = dict[str, tf.Tensor]

# Largest difference of a probability that rounding explains.
TOLERANCE = 1e-4


def write_model(model: keras.Model, description: Description, path: Path) -> None:
    """Writes model.keras: pixels in [0, 255] to logits, no optimizer.

    Args:
        model: float32 classifier.
        description: Its tasks, and how images are resized.
        path: Where to; replaced whole.
    """
    with files.replacing(path) as partial:
        # A new, never compiled `Model` around the same layers has no optimizer to save.
        keras.Model(model.input, model.output, name=model.name).save(partial)
        append_description(partial, description)


def make_serving(
    model: keras.Model, description: Description
) -> tuple[tf.types.experimental.PolymorphicFunction, ...]:
    """The functions behind the signatures `serving_default` and `serving_pixels`.

    Args:
        model: float32 model of [N, S, T, 3] pixels, from `fold_classifier`.
        description: Its tasks, and how images are resized.

    Returns:
        Functions of `image_bytes` string [N] and of `image` uint8 [N, H, W, 3].
    """
    tasks = description.tasks
    image_shape = model.input_shape[1:]

    def fit(pixels: tf.Tensor) -> tf.Tensor:
        return resize(pixels, image_shape[:2], description.resize)

    # A function of its own, so that the network is traced once for both signatures.
    @_function(tf.TensorSpec([None, *image_shape], tf.float32))
    def compute_probabilities(images: tf.Tensor) -> Answer:
        logits = model(images, training=False)
        return {task.name: activate(task, logits[task.name]) for task in tasks}

    def classify(images: tf.Tensor) -> Answer:
        probabilities = compute_probabilities(images)
        answers = {task.name: _answer(task, probabilities[task.name]) for task in tasks}
        if is_plain(tasks):
            return answers[tasks[0].name]
        return {
            f"{name}/{key}": value
            for name, answer in answers.items()
            for key, value in answer.items()
        }

    @_function(tf.TensorSpec([None], tf.string, name="image_bytes"))
    def serving_default(image_bytes: tf.Tensor) -> Answer:
        images = tf.map_fn(
            lambda one: fit(decode_image(one)),
            image_bytes,
            fn_output_signature=tf.TensorSpec(image_shape, tf.float32),
        )
        return classify(images)

    @_function(tf.TensorSpec([None, None, None, 3], tf.uint8, name="image"))
    def serving_pixels(image: tf.Tensor) -> Answer:
        return classify(fit(image))

    return serving_default, serving_pixels


def _answer(task: Task, probabilities: tf.Tensor) -> Answer:
    """What the signatures return for a task with probabilities float32 [N, K]."""
    names = tf.constant(list(task.class_names))
    if task.is_multilabel:
        applies = probabilities >= tf.constant(task.thresholds)
        listed = tf.ragged.boolean_mask(
            tf.broadcast_to(names, tf.shape(applies)), applies
        )
        labels = tf.strings.reduce_join(listed, axis=1, separator=SEPARATOR)
        return {"labels": labels, "probabilities": probabilities}
    return {
        "class_name": tf.gather(names, tf.argmax(probabilities, axis=-1)),
        "probability": tf.reduce_max(probabilities, axis=-1),
        "probabilities": probabilities,
    }


def _function(*signature: tf.TensorSpec) -> Callable:
    # The functions here contain no Python control flow to convert.
    return tf.function(input_signature=signature, autograph=False)


def write_saved_model(
    model: keras.Model, description: Description, folder: Path
) -> Path:
    """Writes the next version of a SavedModel in TensorFlow Serving's layout.

    Signatures: `serving_default(image_bytes: string [N])` and `serving_pixels(image:
    uint8 [N, H, W, 3])`, any H and W, both give `class_name` string [N],
    `probability` float32 [N] and `probabilities` float32 [N, K]; `class_names()` gives
    `class_names` string [K].

    With several tasks, the names are `TASK/class_name` and so on. A multilabel task has
    `TASK/labels` string [N], the classes from their thresholds on with `|` between
    them, and `TASK/probabilities`. `tasks()` gives `name` and `kind` of each task,
    string [T], and `TASK/class_names` string [K], if multilabel `TASK/thresholds`
    float32 [K]. keras_ft.json among the assets says the same.

    `keras.export.ExportArchive` of Keras 3.15 is not used: it traces each signature
    several times and stores each weight twice.

    Args:
        model: float32 classifier of [N, S, T, 3] pixels; its BatchNorm is folded.
        description: Its tasks, and how images are resized.
        folder: Holds the versions 1/, 2/, ...; what is there stays.

    Returns:
        The new version's folder.
    """
    tasks = description.tasks
    model = fold_classifier(model, tasks)
    serving_default, serving_pixels = make_serving(model, description)
    signatures = {
        "serving_default": serving_default,
        "serving_pixels": serving_pixels,
        "tasks": _function()(lambda: _describe(tasks)),
    }
    if is_plain(tasks):
        names = tf.constant(list(tasks[0].class_names))
        signatures["class_names"] = _function()(lambda: {"class_names": names})
    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    folder.mkdir(parents=True, exist_ok=True)
    with files.partial_folder(folder.parent) as partial:
        with tempfile.TemporaryDirectory() as scratch:
            asset = Path(scratch) / DESCRIPTION
            asset.write_text(to_json(description), encoding="utf-8")
            module.description = tf.saved_model.Asset(str(asset))
            tf.saved_model.save(module, str(partial), signatures)
        versions = [int(p.name) for p in folder.iterdir() if p.name.isdigit()]
        version = folder / str(max(versions, default=0) + 1)
        partial.chmod(0o755)  # the user who serves it must have access
        partial.rename(version)
    return version


def _describe(tasks: Sequence[Task]) -> Answer:
    """What the signature `tasks` returns."""
    answer = {
        "name": tf.constant([task.name for task in tasks]),
        "kind": tf.constant([task.kind for task in tasks]),
    }
    for task in tasks:
        answer[f"{task.name}/class_names"] = tf.constant(list(task.class_names))
        if task.is_multilabel:
            answer[f"{task.name}/thresholds"] = tf.constant(task.thresholds)
    return answer


def get_probabilities(
    answer: Answer, task_names: Iterable[str]
) -> dict[str, np.ndarray]:
    """The probabilities float32 [N, K] of each task in what a signature returned."""
    return {
        name: answer[
            key if (key := f"{name}/probabilities") in answer else "probabilities"
        ].numpy()
        for name in task_names
    }


def check_parity(
    saved_model: Path,
    files: Strings,
    expected: Mapping[str, np.ndarray],
    batch_size: int = 32,
) -> tuple[float, float]:
    """Compares a SavedModel with the Keras model it was made from.

    Args:
        saved_model: Folder of one version.
        files: N image files, sent as bytes.
        expected: For each task float32 [N, K], the Keras model's probabilities.
        batch_size: Examples per request.

    Returns:
        The largest difference of a probability, and how many images it served per
        second, files read and decoded.

    Raises:
        RuntimeError: It is more than rounding explains.
    """
    loaded = tf.saved_model.load(str(saved_model))
    serve = loaded.signatures["serving_default"]

    def answer(batch: Strings) -> dict[str, np.ndarray]:
        images = tf.constant([Path(file).read_bytes() for file in batch])
        return get_probabilities(serve(image_bytes=images), expected)

    answer(files[:batch_size])  # the first one takes longer
    begin = time.perf_counter()
    served = []
    for start in range(0, len(files), batch_size):
        served.append(answer(files[start : start + batch_size]))
    rate = len(files) / (time.perf_counter() - begin)
    difference = max(
        float(np.abs(np.concatenate([part[task] for part in served]) - of_task).max())
        for task, of_task in expected.items()
    )
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
