"""Training on several tasks and on multilabel ones."""

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from keras_ft.data.examples import Examples
from keras_ft.images.labels import make_label_reader
from keras_ft.kinds.multilabel import make_weights
from keras_ft.kinds.task import MULTICLASS, MULTILABEL, Task
from keras_ft.training.losses import LabelledLoss, make_losses

SPECIES = Task("species", ("a", "b", "c"))
TAGS = Task("tags", ("x", "y"), kind=MULTILABEL)
OPTIONS = ("none", "class_weights", "focal", "logit_adjustment")


def make_examples(count=40, seed=0):
    """Two tasks, each labelled for some of the examples."""
    rng = np.random.default_rng(seed)
    species = np.where(rng.random(count) < 0.5, -1, rng.integers(0, 3, count))
    tags = rng.integers(0, 2, (count, 2)).astype(np.int8)
    tags[rng.random(count) < 0.3] = -1
    species[:3], tags[:2] = [0, 1, 2], [[0, 1], [1, 0]]  # every class occurs
    names = np.array([f"{i}.png" for i in range(count)], object)
    splits = np.full(count, "train", object)
    empty = np.full(count, "", object)
    return Examples(names, names, (SPECIES, TAGS), (species, tags), splits, empty)


def read_labels(examples, smoothing=0.0):
    labels = make_label_reader(examples, smoothing)(tf.range(len(examples)))
    return {name: of_task.numpy() for name, of_task in labels.items()}


def test_labels_are_smoothed_unless_there_are_none():
    examples = make_examples()
    labels = read_labels(examples, smoothing=0.3)
    species, tags = examples.targets
    expected = np.eye(3)[species] * 0.7 + 0.1
    expected[species < 0] = -1
    np.testing.assert_allclose(labels["species"], expected, atol=1e-6)
    expected = np.where(tags < 0, -1, tags * 0.7 + 0.15)
    np.testing.assert_allclose(labels["tags"], expected, atol=1e-6)


@pytest.mark.parametrize("imbalance", OPTIONS)
def test_the_mean_over_batches_is_that_over_the_labelled_examples(imbalance):
    examples = make_examples()
    losses, labels = make_losses(examples, imbalance), read_labels(examples)
    rng = np.random.default_rng(1)
    for task in examples.tasks:
        logits = rng.normal(0, 2, labels[task.name].shape).astype(np.float32)
        of_task = examples.by_task[task.name]
        counts = of_task.count_classes()
        plain = LabelledLoss(task.kind.losses[imbalance](counts, len(of_task)))
        labelled = labels[task.name][:, 0] >= 0
        expected = float(plain(labels[task.name][labelled], logits[labelled]))
        batches = [slice(0, 8), slice(8, 20), slice(20, 40)]
        found = [
            float(losses[task.name](labels[task.name][b], logits[b])) for b in batches
        ]
        assert np.average(found, weights=[8, 12, 20]) == pytest.approx(
            expected, rel=1e-5
        )


@pytest.mark.parametrize("imbalance", OPTIONS)
def test_examples_without_a_label_give_no_gradient(imbalance):
    examples = make_examples()
    losses, labels = make_losses(examples, imbalance), read_labels(examples)
    for task in examples.tasks:
        logits = tf.Variable(
            tf.random.stateless_normal(labels[task.name].shape, [1, 2])
        )
        with tf.GradientTape() as tape:
            loss = losses[task.name](labels[task.name], logits)
        gradient = np.abs(tape.gradient(loss, logits).numpy()).max(axis=1)
        labelled = labels[task.name][:, 0] >= 0
        assert not labelled.all()
        assert np.all(gradient[~labelled] == 0)
        assert np.all(gradient[labelled] > 0)


def test_losses_of_multilabel_tasks_treat_each_class_by_itself():
    labels = np.array([[1, 0], [0, 0], [1, 1]], np.float32)
    logits = np.array([[2.0, -1.0], [0.5, 0.0], [-1.0, 3.0]], np.float32)
    yes = scipy.special.expit(logits)
    of_label = np.where(labels > 0, yes, 1 - yes)
    found = {
        name: float(LabelledLoss(make_loss(np.array([2, 1]), 3))(labels, logits))
        for name, make_loss in MULTILABEL.losses.items()
    }
    assert found["none"] == pytest.approx(-np.log(of_label).mean(), rel=1e-5)
    focal = -((1 - of_label) ** 2) * np.log(of_label)
    assert found["focal"] == pytest.approx(focal.mean(), rel=1e-5)
    adjusted = scipy.special.expit(logits + np.log([2.0, 0.5]))  # odds of the classes
    adjusted = np.where(labels > 0, adjusted, 1 - adjusted)
    assert found["logit_adjustment"] == pytest.approx(
        -np.log(adjusted).mean(), rel=1e-5
    )
    applies, others = make_weights(np.array([2, 1]), 3)
    assert applies[0] < others[0] and applies[1] > others[1]
    weighted = -np.log(of_label) * np.where(labels > 0, applies, others)
    assert found["class_weights"] == pytest.approx(weighted.mean(), rel=1e-5)


def test_the_plain_losses_are_those_of_keras_to_the_last_digit():
    logits = np.random.default_rng(3).normal(0, 2, (40, 3)).astype(np.float32)
    species = np.eye(3, dtype=np.float32)[np.arange(40) % 3]
    for kind, of_keras in (
        (MULTICLASS, keras.losses.CategoricalCrossentropy(from_logits=True)),
        (MULTILABEL, keras.losses.BinaryCrossentropy(from_logits=True)),
    ):
        loss = LabelledLoss(kind.losses["none"](np.array([14, 13, 13]), 40))
        assert float(loss(species, logits)) == float(of_keras(species, logits))
