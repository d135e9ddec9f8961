import numpy as np
import pytest
import tensorflow as tf

from keras_ft.kinds.task import MULTILABEL, Task
from keras_ft.serving.proof import Proof, prove
from keras_ft.serving.trained_classifier import Classifier

TASKS = (
    Task("colour", ("red", "green")),
    Task("tags", ("a", "b"), MULTILABEL, (0.3, 0.7)),
)
EXPECTED = {
    "colour": np.float32([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.5001, 0.4999]]),
    "tags": np.float32([[0.5, 0.5], [0.1, 0.9], [0.31, 0.69], [0.0, 0.0]]),
}
PIXELS = tf.zeros([3, 8, 8, 3], tf.uint8)


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / str(i) for i in range(4)]
    for i, path in enumerate(paths):
        path.write_bytes(bytes([i]))
    return np.array(list(map(str, paths)), object)


def answer_with(changes):
    """A classifier that returns the expected probabilities of files, but for some."""
    answers = {name: of_task.copy() for name, of_task in EXPECTED.items()}
    for (name, *index), value in changes.items():
        answers[name][tuple(index)] = value

    def serve(image_bytes):
        rows = [image[0] for image in image_bytes.numpy()]
        return {f"{n}/probabilities": tf.constant(a[rows]) for n, a in answers.items()}

    return Classifier(TASKS, serve, lambda image: None)


@pytest.mark.parametrize(
    ("changes", "difference", "agreement"),
    [
        ({}, 0, 1),
        ({("colour", 0, 0): 0.85}, 0.05, 1),
        ({("colour", 3, 1): 0.5002}, 3e-4, 0.75),  # the other class
        ({("tags", 2, 1): 0.71}, 0.02, 0.75),  # one label more
        ({("tags", 2, 0): 0.29}, 0.02, 0.75),  # one less, though above one half before
        ({("tags", 0, 1): 0.69}, 0.19, 1),  # below its threshold, as before
        ({("colour", 3, 1): 0.6, ("tags", 3, 0): 0.4}, 0.4, 0.75),  # of one image
        ({("colour", 3, 1): 0.6, ("tags", 2, 1): 0.8}, 0.11, 0.5),
    ],
)
def test_probabilities_and_answers_are_compared(files, changes, difference, agreement):
    proof = prove(answer_with(changes), files, EXPECTED, PIXELS)
    assert proof.difference == pytest.approx(difference, abs=1e-6)
    assert proof.agreement == agreement
    assert proof.files_per_second > 0
    assert proof.images_per_second > 3 * 1000 / proof.milliseconds * 0.01


def test_a_number_that_is_none_is_a_difference(files):
    proof = prove(answer_with({("colour", 0, 0): np.nan}), files, EXPECTED, PIXELS)
    assert not proof.difference <= 1


@pytest.mark.parametrize(
    ("others", "num_images", "share", "reached"),
    [
        (1, 30, 0.99, True),
        (2, 30, 0.99, True),
        (3, 30, 0.99, False),
        (7, 300, 0.99, True),
        (8, 300, 0.99, False),
        (1, 3, 0.99, True),
        (3, 3, 0.99, False),
        (0, 30, 1, True),
        (1, 300, 1, False),
        (30, 30, 0, True),
    ],
)
def test_other_answers_count_if_they_are_more_than_chance(
    others, num_images, share, reached
):
    probabilities = {"label": np.zeros((num_images, 2), np.float32)}
    proof = Proof(probabilities, 0.1, 1 - others / num_images, 1.0, 1.0, 1.0)
    assert proof.counts == (num_images - others, num_images)
    assert proof.reaches(share) == reached
