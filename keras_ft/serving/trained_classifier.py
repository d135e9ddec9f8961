"""A trained classifier and image files -> probabilities."""

import dataclasses
import functools
import os
import pkgutil
import zipfile
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_ft.catalog.archive import read_asset
from keras_ft.catalog.formats import find_format
from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.data.dataset import advise, list_bad
from keras_ft.data.layout import list_some
from keras_ft.errors import UserError
from keras_ft.host.text import counted
from keras_ft.kinds.task import Task, is_plain
from keras_ft.models.classifier import fold_classifier, get_folded_parts
from keras_ft.models.trained import load_trained
from keras_ft.serving.batches import process_batches
from keras_ft.serving.encoded import (
    NO_IMAGE,
    Encoded,
    check_images,
    is_one_image,
    name_image,
    read_image,
)
from keras_ft.serving.signatures import check_sizes, get_probabilities, make_serving

Serve = Callable[..., Mapping[str, Any]]
Prediction = tuple[dict[str, np.ndarray] | None, str]


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A trained classifier.

    Attributes:
        serve: From `image_bytes`, encoded images, string [N], to the answers by name.
        serve_pixels: The same from `image`, uint8 [N, H, W, 3] of any size.
        network: For Grad-CAM; None of an export, which has no gradients.
        preprocessing: How images become its input; None of a SavedModel.
        describe: Like `serve`, and `features` float32 [N, D], the pooled ones before
            the heads; None of an export that can't compute them.
        num_features: D.
    """

    tasks: tuple[Task, ...]
    serve: Serve
    serve_pixels: Serve
    network: keras.Model | None = None
    preprocessing: Preprocessing | None = None
    describe: Serve | None = None
    num_features: int = 0
    process: int = dataclasses.field(default_factory=os.getpid, init=False)

    def __repr__(self) -> str:
        described = (
            f"{counted(len(task.class_names), 'class')}: {list_some(task.class_names)}"
            for task in self.tasks
        )
        return f"Classifier({'; '.join(described)})"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The K classes of the only task."""
        [task] = self.tasks
        return task.class_names

    def predict(
        self, files: Any, batch_size: int = 32
    ) -> np.ndarray | dict[str, np.ndarray]:
        """Class probabilities of images.

        Args:
            files: N images, each a path, the bytes of a file, a PIL image or an array
                uint8 [H, W, 3], RGB; or one of these.

        Returns:
            float32 [N, K], of one image [K]; with several tasks, or a multilabel one, a
            dict of them by the task's name.

        Raises:
            UserError: One is something else, or no image that can be read; or another
                process has loaded the classifier.
        """
        is_one = is_one_image(files)
        rows = self._predict_rows([files] if is_one else files, batch_size)
        by_task = {
            task.name: np.array([row[task.name] for row in rows], np.float32).reshape(
                -1, len(task.class_names)
            )[0 if is_one else slice(None)]
            for task in self.tasks
        }
        return by_task[self.tasks[0].name] if is_plain(self.tasks) else by_task

    def predict_classes(
        self, files: Any, batch_size: int = 32
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Names of classes with their probabilities, the highest first.

        Args:
            files: As in `predict`.

        Returns:
            A dict for each image, of one image the dict: from the name of a class to
            its probability. With several tasks, or a multilabel one, a dict of such
            dicts by the task's name.
        """
        is_one = is_one_image(files)
        rows = self._predict_rows([files] if is_one else files, batch_size)
        named: list[dict[str, Any]] = [
            {task.name: task.name_all(row[task.name]) for task in self.tasks}
            for row in rows
        ]
        if is_plain(self.tasks):
            named = [row[self.tasks[0].name] for row in named]
        return named[0] if is_one else named

    def _predict_rows(
        self, files: Sequence[Any], batch_size: int
    ) -> list[dict[str, np.ndarray]]:
        """For each image float32 [K] probabilities by task."""
        if os.getpid() != self.process:  # TensorFlow would wait for ever
            raise UserError(
                "A classifier must be used in the process that has loaded it. "
                "Received: one from before a fork; load it in each process"
            )
        check_images(files)
        answers = list(classify(self, files, batch_size))
        errors = [error for _, error in answers]
        bad = [name_image(file, i) for i, file in enumerate(files) if errors[i]]
        if bad:
            raise UserError(
                "Every file must be a readable image. Received: "
                f"{list_bad(bad, len(errors))}{advise(errors)}"
            )
        return [probabilities for probabilities, _ in answers if probabilities]


def load_classifier(path: Path) -> Classifier:
    """Loads what `find_model` returns, to run in the format's own runtime.

    Raises:
        UserError: It can't be read, or its runtime is not installed.
    """
    try:
        if path.suffix == ".keras":
            return _load_keras(path)
        return pkgutil.resolve_name(find_format(path).load)(path)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, tf.errors.OpError) as e:
        raise UserError(
            f"--model can't be read as a model of keras_ft: {path}: "
            f"{str(e).partition(chr(10))[0]}"
        ) from e


def _load_keras(path: Path) -> Classifier:
    model, description = load_trained(path)
    tasks = description.tasks
    network = fold_classifier(model, tasks)
    serving = make_serving(network, description)
    return Classifier(
        tasks,
        serving.classify,
        serving.classify_pixels,
        network,
        description.preprocessing,
        serving.describe,
        num_features=get_folded_parts(network)[1].input_shape[-1],
    )


def load_saved_model(path: Path) -> Classifier:
    """Loads the folder of a version of a SavedModel; see `load_classifier`."""
    description = read_asset(path)
    signatures = tf.saved_model.load(str(path)).signatures
    if description:
        tasks = description.tasks
    else:  # of an earlier version
        names = signatures["class_names"]()["class_names"].numpy()
        tasks = (Task(class_names=tuple(name.decode() for name in names)),)
    serve, serve_pixels = signatures["serving_default"], signatures["serving_pixels"]
    outputs = serve.structured_outputs.items()
    check_sizes({name: o.shape[-1] for name, o in outputs if o.shape.rank}, tasks)
    if "features" not in signatures:  # of an earlier version
        return Classifier(tasks, serve, serve_pixels)
    features = signatures["features"]

    def describe(image_bytes: tf.Tensor) -> Mapping[str, Any]:
        # The network runs twice: no signature returns both.
        return {**serve(image_bytes=image_bytes), **features(image_bytes=image_bytes)}

    size = features.structured_outputs["features"].shape[-1]
    return Classifier(tasks, serve, serve_pixels, describe=describe, num_features=size)


def classify(
    classifier: Classifier, files: Iterable[Any], batch_size: int
) -> Generator[Prediction, None, None]:
    """Classifies images.

    Batches of files, see `read_image`, are read, decoded and classified in several
    threads, so that the processor or the GPU need not wait; a few are in memory.

    Yields:
        For each file, in order, float32 [K] probabilities by task and an empty string,
        or None and why the file can't be read.
    """
    return process_batches(
        functools.partial(_classify_batch, classifier), files, batch_size
    )


def _classify_batch(classifier: Classifier, files: Sequence[Any]) -> list[Prediction]:
    return [
        (get_probabilities(answer, classifier.tasks), "")
        if answer
        else (None, image.error or NO_IMAGE)
        for image, answer in answer_files(classifier.serve, files)
    ]


def answer_files(
    serve: Serve, files: Sequence[Any]
) -> list[tuple[Encoded, dict[str, np.ndarray] | None]]:
    """Each image, and what a signature returns for it; None if it can't be read."""
    images = [read_image(file) for file in files]
    answers = iter(answer_images(serve, [i.content for i in images if not i.error]))
    return [(image, None if image.error else next(answers)) for image in images]


def classify_images(
    classifier: Classifier, images: Sequence[bytes]
) -> list[dict[str, np.ndarray] | None]:
    """Classifies N files as TensorFlow decodes them, see `Encoded`, as one batch.

    Returns:
        For each image float32 [K] probabilities by task; None if it is damaged.
    """
    return [
        get_probabilities(answer, classifier.tasks) if answer else None
        for answer in answer_images(classifier.serve, images)
    ]


def answer_images(
    serve: Serve, images: Sequence[bytes]
) -> list[dict[str, np.ndarray] | None]:
    """What a signature returns for each of N encoded images; None if it is damaged."""
    if not images:
        return []
    try:
        answer = serve(image_bytes=tf.constant(images))
    except tf.errors.OpError:  # at least one can't be decoded: find out which
        if len(images) == 1:
            return [None]
        half = len(images) // 2
        return answer_images(serve, images[:half]) + answer_images(serve, images[half:])
    arrays = {name: np.asarray(values) for name, values in answer.items()}
    return [{name: a[i] for name, a in arrays.items()} for i in range(len(images))]
