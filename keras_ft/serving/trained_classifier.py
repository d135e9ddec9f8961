"""A trained classifier and image files -> probabilities."""

import collections
import concurrent.futures
import dataclasses
import functools
import itertools
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import keras
import numpy as np
import tensorflow as tf

from keras_ft.catalog.archive import Description, find_description
from keras_ft.catalog.formats import SUFFIXES
from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.data.dataset import advise, list_bad
from keras_ft.errors import UserError
from keras_ft.images.decode import decode_and_resize, resize
from keras_ft.models.classifier import fold_classifier, get_folded_parts
from keras_ft.models.trained import load_trained
from keras_ft.serving.encoded import NO_IMAGE, read_image
from keras_ft.serving.runtimes import load_network
from keras_ft.serving.signatures import get_probabilities, make_serving
from keras_ft.tasks import Task, is_plain

Prediction = tuple[dict[str, np.ndarray] | None, str]
_Result = TypeVar("_Result")

# While one is classified, another is decoded and a third is read.
_BATCHES_AT_A_TIME = 3


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A trained classifier.

    Attributes:
        tasks: Its tasks.
        serve: From `image_bytes`, encoded images, string [N], to the answers by name;
            among them the probabilities, see `get_probabilities`.
        serve_pixels: The same from `image`, uint8 [N, H, W, 3] of any size.
        network: From `make_classifier` or `fold_classifier`, for Grad-CAM; None of an
            export, which has no gradients.
        preprocessing: How images become its input; None of a SavedModel.
        describe: Like `serve`, and `features` float32 [N, D], the pooled ones before
            the heads; None of an export that can't compute them.
        num_features: D.
    """

    tasks: tuple[Task, ...]
    serve: Callable[..., Mapping[str, Any]]
    serve_pixels: Callable[..., Mapping[str, Any]]
    network: keras.Model | None = None
    preprocessing: Preprocessing | None = None
    describe: Callable[..., Mapping[str, Any]] | None = None
    num_features: int = 0

    @property
    def class_names(self) -> tuple[str, ...]:
        """The K classes of the only task."""
        [task] = self.tasks
        return task.class_names

    def predict(
        self, files: Sequence[str | Path], batch_size: int = 32
    ) -> np.ndarray | dict[str, np.ndarray]:
        """Class probabilities of image files.

        Args:
            files: Paths of N files.
            batch_size: Examples per step.

        Returns:
            float32 [N, K]; with several tasks, or a multilabel one, a dict of them by
            the task's name.

        Raises:
            UserError: A file is no image that can be read.
        """
        names = list(map(str, files))
        answers = list(classify(self, names, batch_size))
        errors = [error for _, error in answers]
        bad = [name for name, error in zip(names, errors, strict=True) if error]
        if bad:
            raise UserError(
                "Every file must be a readable image. Received: "
                f"{list_bad(bad, len(names))}{advise(errors)}"
            )
        rows = [probabilities for probabilities, _ in answers if probabilities]
        by_task = {
            task.name: np.array([row[task.name] for row in rows]) for task in self.tasks
        }
        return by_task[self.tasks[0].name] if is_plain(self.tasks) else by_task


def load_classifier(path: Path) -> Classifier:
    """Reads a model in any format, to run in the format's own runtime.

    Args:
        path: What `find_model` returns.

    Raises:
        UserError: It can't be read, or its runtime is not installed.
    """
    try:
        if path.suffix == ".keras":
            return _load_keras(path)
        found = find_description(path)
        if found and path.suffix in SUFFIXES:
            return _load_network(path, found)
        return _load_saved_model(path, found)
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


def _load_network(path: Path, description: Description) -> Classifier:
    """Loads a network that takes pixels of one size.

    Decoding and resizing before it are those of training.
    """
    compute, preprocessing = load_network(path), description.preprocessing

    decode = tf.function(
        lambda images: decode_and_resize(images, preprocessing), autograph=False
    ).get_concrete_function(tf.TensorSpec([None], tf.string))

    def serve(image_bytes: tf.Tensor) -> Mapping[str, np.ndarray]:
        return compute(decode(image_bytes).numpy())

    def serve_pixels(image: np.ndarray) -> Mapping[str, np.ndarray]:
        if image.shape[1:3] == preprocessing.size:
            return compute(np.asarray(image, np.float32))
        return compute(resize(image, preprocessing).numpy())

    return Classifier(description.tasks, serve, serve_pixels, None, preprocessing)


def _load_saved_model(path: Path, description: Description | None) -> Classifier:
    signatures = tf.saved_model.load(str(path)).signatures
    tasks = description.tasks if description else _ask_class_names(signatures)
    serve, serve_pixels = signatures["serving_default"], signatures["serving_pixels"]
    if "features" not in signatures:  # of an earlier version
        return Classifier(tasks, serve, serve_pixels)
    features = signatures["features"]

    def describe(image_bytes: tf.Tensor) -> Mapping[str, Any]:
        # The network runs twice: no signature returns both.
        return {**serve(image_bytes=image_bytes), **features(image_bytes=image_bytes)}

    size = features.structured_outputs["features"].shape[-1]
    return Classifier(tasks, serve, serve_pixels, describe=describe, num_features=size)


def _ask_class_names(signatures: Any) -> tuple[Task, ...]:
    """The task of a SavedModel of an earlier version."""
    names = signatures["class_names"]()["class_names"].numpy()
    return (Task(class_names=tuple(name.decode() for name in names)),)


def classify(
    classifier: Classifier, files: Iterable[str], batch_size: int
) -> Iterator[Prediction]:
    """Classifies image files.

    Batches are read, decoded and classified in several threads, so that the processor
    or the GPU need not wait; a few are in memory at a time.

    Args:
        classifier: The classifier.
        files: Paths of N files; taken a few batches ahead of what is yielded.
        batch_size: Examples per step.

    Yields:
        For each file, in order, float32 [K] probabilities by task and an empty string,
        or None and why the file can't be read.
    """
    return process_batches(
        functools.partial(_classify_batch, classifier), files, batch_size
    )


def process_batches(
    process: Callable[[Sequence[str]], Sequence[_Result]],
    files: Iterable[str],
    batch_size: int,
) -> Iterator[_Result]:
    """Applies a function to batches of files, a few at a time in several threads.

    Args:
        process: From the files of a batch to their results.
        files: Paths of N files; taken a few batches ahead of what is yielded.
        batch_size: Files per batch.

    Yields:
        The N results, in order.
    """
    remaining = iter(files)
    batches = iter(lambda: list(itertools.islice(remaining, batch_size)), [])
    in_work: collections.deque[concurrent.futures.Future] = collections.deque()
    pool = concurrent.futures.ThreadPoolExecutor(_BATCHES_AT_A_TIME)
    try:
        for batch in batches:
            in_work.append(pool.submit(process, batch))
            if len(in_work) > _BATCHES_AT_A_TIME:
                yield from in_work.popleft().result()
        while in_work:
            yield from in_work.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _classify_batch(classifier: Classifier, files: Sequence[str]) -> list[Prediction]:
    images = [read_image(file) for file in files]
    readable = [image.content for image in images if not image.error]
    answers = iter(classify_images(classifier, readable))
    predictions: list[Prediction] = []
    for image in images:
        answer = None if image.error else next(answers)
        error = image.error or ("" if answer else NO_IMAGE)
        predictions.append((answer, error))
    return predictions


def classify_images(
    classifier: Classifier, images: Sequence[bytes]
) -> list[dict[str, np.ndarray] | None]:
    """Classifies encoded images as one batch.

    Args:
        classifier: The classifier.
        images: N files as TensorFlow decodes them, see `Encoded`.

    Returns:
        For each image float32 [K] probabilities by task; None if it is damaged.
    """
    names = [task.name for task in classifier.tasks]
    return [
        get_probabilities(answer, names) if answer else None
        for answer in answer_images(classifier.serve, images)
    ]


def answer_images(
    serve: Callable[..., Mapping[str, Any]], images: Sequence[bytes]
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
        return [
            *answer_images(serve, images[:half]),
            *answer_images(serve, images[half:]),
        ]
    arrays = {name: np.asarray(values) for name, values in answer.items()}
    return [{name: a[i] for name, a in arrays.items()} for i in range(len(images))]
