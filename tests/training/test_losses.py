import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax

from keras_ft.kinds.class_weights import class_weights, describe_imbalance
from keras_ft.kinds.task import MULTICLASS
from keras_ft.training.losses import LabelledLoss

OPTIONS = ("none", "class_weights", "focal", "logit_adjustment")
COUNTS = np.array([700, 40, 260])


def make_training_loss(imbalance, counts):
    return LabelledLoss(MULTICLASS.losses[imbalance](counts, sum(counts)))


def loss_in_numpy(imbalance, counts, labels, logits):
    if imbalance == "logit_adjustment":
        logits = logits + np.log(counts / counts.sum())
    log_p = log_softmax(logits, axis=1)
    if imbalance == "focal":
        return -(labels * (1 - np.exp(log_p)) ** 2 * log_p).sum(axis=1).mean()
    losses = -(labels * log_p).sum(axis=1)
    if imbalance == "class_weights":
        losses *= class_weights(counts)[labels.argmax(axis=1)]
    return losses.mean()


def make_batch(smoothing=0.0):
    rng = np.random.default_rng(0)
    labels = np.eye(3)[rng.integers(3, size=32)]
    return labels * (1 - smoothing) + smoothing / 3, rng.normal(0, 3, (32, 3))


def test_class_weights_follow_the_effective_number_of_examples():
    counts = np.array([1, 10, 1000, 20000])
    weights = class_weights(counts)
    effective = np.array([sum(0.999**i for i in range(n)) for n in counts])
    np.testing.assert_allclose(weights / weights[0], 1 / effective)
    assert np.average(weights, weights=counts) == pytest.approx(1)
    assert weights.dtype == np.float64
    np.testing.assert_allclose(class_weights(np.array([9, 9])), 1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("imbalance", OPTIONS)
def test_losses_equal_their_formulas(imbalance, smoothing):
    labels, logits = make_batch(smoothing=smoothing)
    loss = make_training_loss(imbalance, COUNTS)(labels, logits)
    expected = loss_in_numpy(imbalance, COUNTS, labels, logits)
    assert loss.dtype == "float32"
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_focal_loss_equals_that_of_keras():
    labels, logits = make_batch()
    of_keras = keras.losses.CategoricalFocalCrossentropy(
        alpha=1.0, gamma=2.0, from_logits=True
    )
    loss = make_training_loss("focal", COUNTS)(labels, logits)
    assert float(loss) == pytest.approx(float(of_keras(labels, logits)), rel=1e-4)


@pytest.mark.parametrize("imbalance", OPTIONS)
def test_a_very_wrong_prediction_has_a_gradient(imbalance):
    logits = tf.Variable([[0.0, 60.0, 0.0]])
    with tf.GradientTape() as tape:
        label = np.array([[1.0, 0.0, 0.0]])
        loss = make_training_loss(imbalance, COUNTS)(label, logits)
    assert np.isfinite(loss)
    assert tape.gradient(loss, logits)[0, 0] < -0.3


def test_losses_of_classes_of_equal_size():
    labels, logits = make_batch()
    plain, weighted, focal, adjusted = (
        float(make_training_loss(imbalance, np.array([50, 50, 50]))(labels, logits))
        for imbalance in OPTIONS
    )
    assert weighted == pytest.approx(plain)
    assert focal < plain
    # Adding one number to all logits changes nothing.
    assert adjusted == pytest.approx(plain)


def test_losses_have_different_gradients():
    labels, values = make_batch()
    gradients = []
    for imbalance in OPTIONS:
        logits = tf.Variable(values)
        with tf.GradientTape() as tape:
            loss = make_training_loss(imbalance, COUNTS)(labels, logits)
        gradients.append(tape.gradient(loss, logits).numpy())
    for i, one in enumerate(gradients):
        for other in gradients[:i]:
            assert np.abs(one - other).max() > 1e-3


def test_classes_of_similar_size_are_not_mentioned():
    assert describe_imbalance(np.array([299, 100]), ["a", "b"], "none") is None
    assert describe_imbalance(np.array([300, 100]), ["a", "b"], "none")


REMEDIES = {
    "none": "gives every image the same weight. See --imbalance.",
    "class_weights": "weighs images by class, from 0.6 to 3.1.",
    "focal": "weighs an image less, the more confident its correct prediction is.",
    "logit_adjustment": "makes predictions treat all classes as equally frequent.",
}


@pytest.mark.parametrize("imbalance", REMEDIES)
def test_imbalance_is_described_with_its_remedy(imbalance):
    counts, names = np.array([112, 300, 795]), ["hat", "shoe", "t-shirt"]
    assert describe_imbalance(counts, names, imbalance) == (
        "Imbalanced: 795 training images of 't-shirt', 112 of 'hat' (7.1 to 1); "
        f"--imbalance={imbalance} {REMEDIES[imbalance]}"
    )
