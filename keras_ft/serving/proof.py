"""Compares an export with the Keras model that it was made from."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from keras_ft.data.examples import Strings
from keras_ft.host.files import read_bytes
from keras_ft.kinds.task import agree
from keras_ft.serving.signatures import get_probabilities
from keras_ft.serving.trained_classifier import Classifier

_CALLS = 20  # at most, to measure a duration


@dataclasses.dataclass(frozen=True)
class Proof:
    """How an export compares with the Keras model."""

    probabilities: dict[str, np.ndarray]  # its answers: for each task float32 [N, K]
    difference: float  # largest one of a probability
    agreement: float  # share of images for which the answers to all tasks are the same
    files_per_second: float  # files read and decoded
    milliseconds: float  # median for one decoded image
    images_per_second: float  # decoded images, in batches

    @property
    def counts(self) -> tuple[int, int]:
        """Number of images with the same answers, and of all images."""
        num_images = len(next(iter(self.probabilities.values())))
        return round(self.agreement * num_images), num_images

    def reaches(self, share: float) -> bool:
        """Whether a share of images with the same answers is within noise, or exceeded.

        That is, not above the exact 95 % interval (Clopper and Pearson): one of 30
        images with another answer does not contradict a share of 0.99.
        """
        import scipy.stats

        interval = scipy.stats.binomtest(*self.counts).proportion_ci(method="exact")
        return bool(interval.high >= share)


def prove(
    classifier: Classifier,
    files: Strings,
    expected: Mapping[str, np.ndarray],
    pixels: tf.Tensor,
) -> Proof:
    """Compares the answers of an export, and measures its speed.

    Args:
        expected: For each task float32 [N, K], the Keras model's probabilities.
        pixels: uint8 [B, H, W, 3], decoded images of the size of the network. Files
            are sent in batches of B, too.
    """
    batch_size = len(pixels)
    rate, answers = _send(classifier, files, batch_size)
    differences = [np.abs(answers[name] - expected[name]) for name in expected]
    agreements = [
        agree(*(task.kind.decide(task, of[task.name]) for of in (answers, expected)))
        for task in classifier.tasks
    ]
    batch = _measure_seconds(lambda: classifier.serve_pixels(image=pixels))
    one = _measure_seconds(lambda: classifier.serve_pixels(image=pixels[:1]))
    return Proof(
        probabilities=answers,
        difference=max(float(values.max()) for values in differences),
        agreement=float(np.all(agreements, axis=0).mean()),
        files_per_second=rate,
        milliseconds=1000 * one,
        images_per_second=batch_size / batch,
    )


def _send(
    classifier: Classifier, files: Strings, batch_size: int
) -> tuple[float, dict[str, np.ndarray]]:
    """Sends files; returns how many per second, and the answers."""

    def answer(batch: Strings) -> dict[str, np.ndarray]:
        images = tf.constant([read_bytes(file) for file in batch])
        return get_probabilities(classifier.serve(image_bytes=images), classifier.tasks)

    answer(files[:batch_size])  # the first one takes longer
    begin = time.perf_counter()
    parts = [
        answer(files[start : start + batch_size])
        for start in range(0, len(files), batch_size)
    ]
    rate = len(files) / (time.perf_counter() - begin)
    return rate, {
        name: np.concatenate([part[name] for part in parts]) for name in parts[0]
    }


def _measure_seconds(run: Callable[[], object]) -> float:
    """The median of several calls, within about half a second, after a first one."""
    run()
    seconds: list[float] = []
    while len(seconds) < _CALLS and sum(seconds) < 0.5:
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)
