"""A trained classifier and image files -> probabilities."""

import collections
import concurrent.futures
import dataclasses
import itertools
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_ft.data.conversion import needs_conversion, to_png
from keras_ft.data.dataset import advise, list_bad
from keras_ft.data.file_facts import (
    ADVICE,
    FACTS,
    FORMAT_NAMES,
    MAX_PIXELS,
    PROBLEMS,
    read_header,
)
from keras_ft.errors import UserError
from keras_ft.models.archive import find_description
from keras_ft.models.classifier import fold_classifier
from keras_ft.models.trained import load_trained
from keras_ft.serving import export
from keras_ft.tasks import Task, is_plain

Prediction = tuple[dict[str, np.ndarray] | None, str]

# While one is classified, another is decoded and a third is read.
_BATCHES_AT_A_TIME = 3
_NO_IMAGE = f"not a readable {FORMAT_NAMES} image"


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A trained classifier.

    Attributes:
        tasks: Its tasks.
        serve: From encoded images, string [N], to what `serving_default` returns.
    """

    tasks: tuple[Task, ...]
    serve: Callable[..., dict[str, tf.Tensor]]

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
    """Reads a model.keras or one version of a SavedModel.

    Raises:
        UserError: It can't be read.
    """
    try:
        if path.suffix == ".keras":
            model, description = load_trained(path)
            tasks = description.tasks
            serve, _ = export.make_serving(fold_classifier(model, tasks), description)
            return Classifier(tasks, serve)
        loaded = tf.saved_model.load(str(path))
        found = find_description(path)
        tasks = found.tasks if found else _ask_class_names(loaded)
        return Classifier(tasks, loaded.signatures["serving_default"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, tf.errors.OpError) as e:
        raise UserError(
            f"--model can't be read as a model of keras_ft: {path}: "
            f"{str(e).partition(chr(10))[0]}"
        ) from e


def _ask_class_names(loaded: Any) -> tuple[Task, ...]:
    """The task of a SavedModel of an earlier version."""
    names = loaded.signatures["class_names"]()["class_names"].numpy()
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
    remaining = iter(files)
    batches = iter(lambda: list(itertools.islice(remaining, batch_size)), [])
    in_work: collections.deque[concurrent.futures.Future] = collections.deque()
    pool = concurrent.futures.ThreadPoolExecutor(_BATCHES_AT_A_TIME)
    try:
        for batch in batches:
            in_work.append(pool.submit(_classify_batch, classifier, batch))
            if len(in_work) > _BATCHES_AT_A_TIME:
                yield from in_work.popleft().result()
        while in_work:
            yield from in_work.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _classify_batch(classifier: Classifier, files: Sequence[str]) -> list[Prediction]:
    images = [_read(file) for file in files]
    answers = iter(_serve(classifier, [image for image, error in images if not error]))
    predictions: list[Prediction] = []
    for _, error in images:
        answer = None if error else next(answers)
        predictions.append((answer, error if answer or error else _NO_IMAGE))
    return predictions


def _read(file: str) -> tuple[bytes, str]:
    """A file's bytes as TensorFlow decodes them, or the reason why there are none."""
    [facts] = np.zeros(1, FACTS)
    read_header(file, facts)
    problem = PROBLEMS[facts["problem"]]
    content = b""
    if needs_conversion(facts):
        content, problem = to_png(file, facts)
    elif problem in ("", "missing_file"):  # of which the system knows the reason
        try:
            content = Path(file).read_bytes()
        except OSError as error:
            return b"", error.strerror or str(error)
        except ValueError as error:  # a name with a null byte
            return b"", str(error)
    if problem == "too_large":
        return b"", f"more than {MAX_PIXELS} pixels"
    return content, ADVICE.get(problem, _NO_IMAGE) if problem else ""


def _serve(
    classifier: Classifier, images: Sequence[bytes]
) -> list[dict[str, np.ndarray] | None]:
    """The probabilities float32 [K] of each image, by task; None if it is damaged."""
    if not images:
        return []
    names = [task.name for task in classifier.tasks]
    try:
        answer = classifier.serve(image_bytes=tf.constant(images))
    except tf.errors.OpError:  # at least one can't be decoded: find out which
        if len(images) == 1:
            return [None]
        half = len(images) // 2
        return _serve(classifier, images[:half]) + _serve(classifier, images[half:])
    by_task = export.get_probabilities(answer, names)
    return [{n: by_task[n][i] for n in names} for i in range(len(images))]
