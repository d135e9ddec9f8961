"""Trained model -> model.keras and SavedModel."""

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_ft.images.decode import decode_and_resize, resize
from keras_ft.models.archive import (
    DESCRIPTION,
    Description,
    append_description,
    to_json,
)
from keras_ft.models.heads import activate
from keras_ft.system import files
from keras_ft.tasks import SEPARATOR, Task, is_plain

# What a signature returns, by name.
Answer = dict[str, tf.Tensor]


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
    fit = image_shape[:2], description.resize

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
        return classify(decode_and_resize(image_bytes, *fit))

    @_function(tf.TensorSpec([None, None, None, 3], tf.uint8, name="image"))
    def serving_pixels(image: tf.Tensor) -> Answer:
        return classify(resize(image, *fit))

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
) -> None:
    """Writes a SavedModel.

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
        model: float32 model of [N, S, T, 3] pixels, from `fold_classifier`.
        description: Its tasks, and how images are resized.
        folder: Where to; empty, or made.
    """
    tasks = description.tasks
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
    with tempfile.TemporaryDirectory() as scratch:
        asset = Path(scratch) / DESCRIPTION
        asset.write_text(to_json(description), encoding="utf-8")
        module.description = tf.saved_model.Asset(str(asset))
        tf.saved_model.save(module, str(folder), signatures)


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
    answer: Mapping[str, Any], task_names: Iterable[str]
) -> dict[str, np.ndarray]:
    """The probabilities float32 [N, K] of each task in what a model returned."""
    keys = {name: f"{name}/probabilities" for name in task_names}
    return {
        name: np.asarray(answer[key if key in answer else "probabilities"])
        for name, key in keys.items()
    }
