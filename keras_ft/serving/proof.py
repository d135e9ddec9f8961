"""Compares an artifact with the Keras model that it was made from."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_ft.data.examples import Strings
from keras_ft.kinds.task import Task, agree
from keras_ft.serving.signatures import get_probabilities
from keras_ft.serving.trained_classifier import Classifier

_CALLS = 20  # at most, to measure a duration


@dataclasses.dataclass(frozen=True)
class Proof:
    """How an artifact compares with the Keras model.

    Attributes:
        probabilities: Its answers: for each task float32 [N, K].
        difference: Largest difference of a probability.
        agreement: Share of the images for which the answers to all tasks are the same.
        files_per_second: Images per second, files read and decoded.
        milliseconds: Median time for one decoded image.
        images_per_second: Decoded images per second in batches.
    """

    probabilities: dict[str, np.ndarray]
    difference: float
    agreement: float
    files_per_second: float
    milliseconds: float
    images_per_second: float


def prove(
    classifier: Classifier,
    files: Strings,
    expected: Mapping[str, np.ndarray],
    pixels: tf.Tensor,
) -> Proof:
    """Compares the answers of an artifact, and measures its speed.

    Args:
        classifier: The artifact in its own runtime.
        files: N image files, sent as bytes.
        expected: For each task float32 [N, K], the Keras model's probabilities.
        pixels: uint8 [B, H, W, 3], decoded images of the size of the network. Files
            are sent in batches of B, too.
    """
    batch_size = len(pixels)
    rate, parts = _send(classifier, files, batch_size)
    answers = {
        name: np.concatenate([part[name] for part in parts]) for name in expected
    }
    difference = max(
        float(np.abs(answers[name] - expected[name]).max()) for name in expected
    )
    batch = _measure_seconds(lambda: classifier.serve_pixels(image=pixels))
    one = _measure_seconds(lambda: classifier.serve_pixels(image=pixels[:1]))
    return Proof(
        probabilities=answers,
        difference=difference,
        agreement=_compute_agreement(classifier.tasks, answers, expected),
        files_per_second=rate,
        milliseconds=1000 * one,
        images_per_second=batch_size / batch,
    )


def _send(
    classifier: Classifier, files: Strings, batch_size: int
) -> tuple[float, list[dict[str, np.ndarray]]]:
    """Sends files; returns how many per second, and the answers to each batch."""
    names = [task.name for task in classifier.tasks]

    def answer(batch: Strings) -> dict[str, np.ndarray]:
        images = tf.constant([Path(file).read_bytes() for file in batch])
        return get_probabilities(classifier.serve(image_bytes=images), names)

    answer(files[:batch_size])  # the first one takes longer
    begin = time.perf_counter()
    parts = [
        answer(files[start : start + batch_size])
        for start in range(0, len(files), batch_size)
    ]
    return len(files) / (time.perf_counter() - begin), parts


def _compute_agreement(
    tasks: Sequence[Task],
    ours: Mapping[str, np.ndarray],
    theirs: Mapping[str, np.ndarray],
) -> float:
    same = [
        agree(*(task.kind.decide(task, of[task.name]) for of in (ours, theirs)))
        for task in tasks
    ]
    return float(np.all(same, axis=0).mean())


def _measure_seconds(run: Callable[[], object]) -> float:
    """The median of several calls, within about half a second, after a first one."""
    run()
    seconds: list[float] = []
    while len(seconds) < _CALLS and sum(seconds) < 0.5:
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)
