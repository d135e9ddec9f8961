"""What a SavedModel answers: the functions behind its signatures."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_ft.catalog.archive import Description
from keras_ft.host.keras_settings import own_keras_settings
from keras_ft.images.decode import decode_and_resize, resize
from keras_ft.kinds.task import Task, is_plain, name_field
from keras_ft.models.classifier import get_folded_parts

# What a signature returns, by name.
Answer = dict[str, tf.Tensor]
Function = Callable[..., Answer]

_NOT_AN_IMAGE = (
    "image_bytes must be whole JPEG, PNG, BMP, GIF or WebP files, in JSON as base64 "
    "under the key b64. Received: others at these positions of the request:"
)


class Serving(NamedTuple):
    """Functions of a classifier."""

    classify: Function  # from `image_bytes` string [N] to the answer
    classify_pixels: Function  # from `image` uint8 [N, H, W, 3], any H and W
    features: Function  # to `features` float32 [N, D], the pooled ones before the heads
    describe: Function  # to the answer and `features`


def make_serving(model: keras.Model, description: Description) -> Serving:
    """Makes the functions of a float32 classifier from `fold_classifier`."""
    tasks, preprocessing = description.tasks, description.preprocessing
    network, heads = get_folded_parts(model)

    def read(image_bytes: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies([_check_formats(image_bytes)]):
            return decode_and_resize(image_bytes, preprocessing)

    # A function of its own, so that the network is traced once for all signatures.
    @_function(tf.TensorSpec([None, *preprocessing.size, 3], tf.float32))
    def compute_features(images: tf.Tensor) -> tf.Tensor:
        return network(images, training=False)

    def answer(features: tf.Tensor) -> Answer:
        logits = heads(features, training=False)
        return {
            name_field(name, task, tasks): value
            for task in tasks
            for name, value in task.kind.answer_in_graph(
                task, task.kind.activate(logits[task.name])
            ).items()
        }

    of_bytes = _function(tf.TensorSpec([None], tf.string, name="image_bytes"))

    @of_bytes
    def classify(image_bytes: tf.Tensor) -> Answer:
        return answer(compute_features(read(image_bytes)))

    @_function(tf.TensorSpec([None, None, None, 3], tf.uint8, name="image"))
    def classify_pixels(image: tf.Tensor) -> Answer:
        return answer(compute_features(resize(image, preprocessing)))

    @of_bytes
    def features(image_bytes: tf.Tensor) -> Answer:
        return {"features": compute_features(read(image_bytes))}

    @of_bytes
    def describe(image_bytes: tf.Tensor) -> Answer:
        computed = compute_features(read(image_bytes))
        return {**answer(computed), "features": computed}

    return Serving(classify, classify_pixels, features, describe)


def make_signatures(
    model: keras.Model, description: Description
) -> dict[str, Function]:
    """The functions of a SavedModel by the name of their signature.

    `serving_default(image_bytes: string [N])` and `serving_pixels(image: uint8
    [N, H, W, 3])`, any H and W, both give `class_name` string [N], `probability`
    float32 [N] and `probabilities` float32 [N, K]; `features(image_bytes)` gives
    `features` float32 [N, D]; `class_names()` gives `class_names` string [K].

    With several tasks, the names are `TASK/class_name` and so on. A multilabel task has
    `TASK/labels` string [N], the classes from their thresholds on with `|` between
    them, and `TASK/probabilities`. `tasks()` gives `name` and `kind` of each task,
    string [T], and `TASK/class_names` string [K], if multilabel `TASK/thresholds`
    float32 [K].
    """
    tasks = description.tasks
    serving = make_serving(model, description)
    signatures = {
        "serving_default": serving.classify,
        "serving_pixels": serving.classify_pixels,
        "features": serving.features,
        "tasks": _function()(lambda: _describe_tasks(tasks)),
    }
    if is_plain(tasks):
        names = tf.constant(list(tasks[0].class_names))
        signatures["class_names"] = _function()(lambda: {"class_names": names})
    return signatures


def get_probabilities(
    answer: Mapping[str, Any], tasks: Sequence[Task]
) -> dict[str, np.ndarray]:
    """The probabilities of each task in what a signature returned.

    They are float32 [N, K], or [K] if the answer is that for one image.
    """
    return {
        task.name: np.asarray(answer[name_field("probabilities", task, tasks)])
        for task in tasks
    }


def check_sizes(sizes: Mapping[str, int | None], tasks: Sequence[Task]) -> None:
    """Raises a ValueError unless a network answers to the tasks of its description.

    `sizes` are the numbers of columns of its answers, None where it is not known.
    """
    for task in tasks:
        name = name_field("probabilities", task, tasks)
        size = sizes.get(name, 0)
        if size not in (len(task.class_names), None):
            raise ValueError(
                f"keras_ft.json in it describes another network: {task.name} has "
                f"{len(task.class_names)} classes, and there are {size} {name}"
            )


def _check_formats(image_bytes: tf.Tensor) -> tf.Operation:
    """Asserts that files begin as images do: the decoder names too few formats."""
    with tf.device("CPU"):
        starts = tf.io.decode_raw(image_bytes, tf.uint8, fixed_length=12)

        def have(position: int, expected: bytes) -> tf.Tensor:
            part = starts[:, position : position + len(expected)]
            return tf.reduce_all(part == tf.constant(list(expected), tf.uint8), axis=1)

        is_image = have(0, b"\xff\xd8\xff") | have(0, b"\x89PNG\r\n\x1a\n")
        is_image |= have(0, b"BM") | have(0, b"GIF8")
        is_image |= have(0, b"RIFF") & have(8, b"WEBP")
        others = tf.reshape(tf.where(~is_image), [-1])
        return tf.debugging.Assert(
            tf.reduce_all(is_image), [_NOT_AN_IMAGE, others], summarize=10
        )


def _describe_tasks(tasks: Sequence[Task]) -> Answer:
    """What the signature `tasks` returns."""
    answer = {
        "name": tf.constant([task.name for task in tasks]),
        "kind": tf.constant([task.kind.name for task in tasks]),
    }
    for task in tasks:
        answer[f"{task.name}/class_names"] = tf.constant(list(task.class_names))
        if task.thresholds:
            answer[f"{task.name}/thresholds"] = tf.constant(task.thresholds)
    return answer


def _function(*signature: tf.TensorSpec) -> Callable:
    def decorate(function: Callable) -> Callable:
        # It is traced when it is first called, which may be in the user's code. The
        # functions here contain no Python control flow to convert.
        traced = own_keras_settings()(function)
        return tf.function(traced, input_signature=signature, autograph=False)

    return decorate
