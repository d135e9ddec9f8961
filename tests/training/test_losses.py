import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import ROOT, TWO_CPUS

from keras_ft.config.phases import Phase
from keras_ft.config.schema import SelectionConfig
from keras_ft.evaluation.metrics import compute_metrics
from keras_ft.training.callbacks import make_early_stopping
from keras_ft.training.learner import ClassMetrics, Learner
from keras_ft.training.losses import (
    class_weights,
    describe_imbalance,
    make_training_loss,
)

OPTIONS = ("none", "class_weights", "focal", "logit_adjustment")
COUNTS = np.array([700, 40, 260])


def log_softmax(logits):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def loss_in_numpy(imbalance, counts, labels, logits):
    if imbalance == "logit_adjustment":
        logits = logits + np.log(counts / counts.sum())
    log_p = log_softmax(logits)
    if imbalance == "focal":
        return -(labels * (1 - np.exp(log_p)) ** 2 * log_p).sum(axis=1).mean()
    losses = -(labels * log_p).sum(axis=1)
    if imbalance == "class_weights":
        losses *= class_weights(counts)[labels.argmax(axis=1)]
    return losses.mean()


def make_batch(size=32, num_classes=3, smoothing=0.0, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.eye(num_classes)[rng.integers(num_classes, size=size)]
    labels = labels * (1 - smoothing) + smoothing / num_classes
    return labels, rng.normal(0, 3, (size, num_classes))


# --- the losses ----------------------------------------------------------------


def test_weights_go_by_the_effective_number_of_examples():
    counts = np.array([1, 10, 1000, 20000])
    weights = class_weights(counts)
    effective = np.array([sum(0.999**i for i in range(n)) for n in counts])
    np.testing.assert_allclose(weights / weights[0], 1 / effective)
    assert np.average(weights, weights=counts) == pytest.approx(1)
    assert weights.dtype == np.float64
    np.testing.assert_allclose(class_weights(np.array([9, 9])), 1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("imbalance", OPTIONS)
def test_losses_are_their_formulas(imbalance, smoothing):
    labels, logits = make_batch(smoothing=smoothing)
    loss = make_training_loss(imbalance, COUNTS)(labels, logits)
    expected = loss_in_numpy(imbalance, COUNTS, labels, logits)
    assert loss.dtype == "float32"
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_focal_loss_is_the_one_of_keras():
    labels, logits = make_batch()
    of_keras = keras.losses.CategoricalFocalCrossentropy(
        alpha=1.0, gamma=2.0, from_logits=True
    )
    loss = make_training_loss("focal", COUNTS)(labels, logits)
    assert float(loss) == pytest.approx(float(of_keras(labels, logits)), rel=1e-4)


@pytest.mark.parametrize("imbalance", OPTIONS)
def test_what_is_utterly_wrong_still_teaches(imbalance):
    logits = tf.Variable([[0.0, 60.0, 0.0]])
    with tf.GradientTape() as tape:
        label = np.array([[1.0, 0.0, 0.0]])
        loss = make_training_loss(imbalance, COUNTS)(label, logits)
    assert np.isfinite(loss)
    assert tape.gradient(loss, logits)[0, 0] < -0.3


def test_losses_of_equal_classes():
    labels, logits = make_batch()
    losses = [
        float(make_training_loss(imbalance, np.array([50, 50, 50]))(labels, logits))
        for imbalance in OPTIONS
    ]
    plain, weighted, focal, adjusted = losses
    assert weighted == pytest.approx(plain)
    assert focal < plain
    # Adding one number to all logits changes nothing.
    assert adjusted == pytest.approx(plain)


def test_losses_teach_differently():
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


def test_an_unknown_option_is_named():
    with pytest.raises(ValueError, match="Received: imbalance=typo"):
        make_training_loss("typo", COUNTS)


# --- the metrics ---------------------------------------------------------------


def softmax(logits):
    return np.exp(log_softmax(logits))


def test_metrics_are_of_the_whole_set():
    num_classes = 7
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, 4, 5], 90, p=[0.5, 0.3, 0.1, 0.06, 0.04])
    logits = rng.normal(0, 1, (90, num_classes)) + 2 * np.eye(num_classes)[labels]
    logits[:, 6] = -99  # class 3 is predicted and does not occur; class 6 neither
    assert 3 in logits.argmax(axis=1)
    smoothed = np.eye(num_classes)[labels] * 0.9 + 0.1 / num_classes
    metric = ClassMetrics(num_classes)
    of_batches = []
    for at in np.split(np.arange(90), [32, 64, 65]):
        metric.update_state(smoothed[at], logits[at])
        batch = ClassMetrics(num_classes)
        batch.update_state(smoothed[at], logits[at])
        of_batches.append(float(batch.result()["macro_f1"]))
    expected = compute_metrics(labels, softmax(logits), "abcdefg")
    result = {name: float(value) for name, value in metric.result().items()}
    assert result == {
        name: pytest.approx(expected[name], abs=1e-6)
        for name in ("macro_f1", "balanced_accuracy")
    }
    assert abs(np.mean(of_batches) - expected["macro_f1"]) > 0.01

    metric.reset_state()
    assert float(metric.result()["macro_f1"]) == 0
    metric.update_state(np.eye(num_classes), np.eye(num_classes))
    assert float(metric.result()["macro_f1"]) == 1


# --- the model in training -----------------------------------------------------


def make_learner(imbalance, counts, learning_rate, **compiled):
    """A logistic regression of two numbers, from fixed weights."""
    inputs = keras.Input((2,))
    dense = keras.layers.Dense(len(counts), dtype="float32")
    network = keras.Model(inputs, dense(inputs))
    kernel = np.random.default_rng(3).normal(0, 1, (2, len(counts)))
    dense.set_weights([kernel, np.zeros(len(counts))])
    learner = Learner(network, make_training_loss(imbalance, counts))
    learner.compile(
        optimizer=keras.optimizers.SGD(learning_rate),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **compiled,
    )
    return learner, network


def make_examples(counts, seed=0):
    """Clouds that overlap: float32 [N, 2], one-hot float32 [N, K]."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    angle = 2 * np.pi * labels / len(counts)
    centres = 1.2 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points = (centres + rng.normal(0, 1, (len(labels), 2))).astype(np.float32)
    return points, np.eye(len(counts), dtype=np.float32)[labels]


@pytest.mark.parametrize("imbalance", OPTIONS)
def test_validation_takes_the_plain_cross_entropy(imbalance):
    counts = np.array([30, 5, 15])
    train, val = make_examples(counts), make_examples([8, 6, 7], seed=1)
    # It learns nothing, so that the loss of the epoch is that of its network.
    learner, network = make_learner(imbalance, counts, 0.0, jit_compile=True)
    fit = learner.fit(*train, 16, epochs=2, validation_data=val, verbose=0)
    for name, (points, labels) in {"": train, "val_": val}.items():
        logits = network.predict(points, verbose=0).astype(np.float64)
        taken = "none" if name else imbalance
        expected = compute_metrics(labels.argmax(axis=1), softmax(logits), "abc")
        expected["loss"] = loss_in_numpy(taken, counts, labels, logits)
        for metric in ("loss", "accuracy", "macro_f1", "balanced_accuracy"):
            assert fit.history[name + metric] == [pytest.approx(expected[metric])] * 2


def test_the_network_learns_with_the_learner_and_keeps_its_best_epoch():
    counts = np.array([60, 6, 20])
    # Such steps overshoot: neither the last epoch nor that of the least loss is best.
    learner, network = make_learner("class_weights", counts, 8.0)
    before = network.get_weights()[0]
    stopping = make_early_stopping(
        Phase("head", 8, 0.1, ()),
        SelectionConfig(monitor="val_macro_f1", patience=3),
    )
    stopping.verbose = 0
    points, labels = make_examples([20, 20, 20], seed=1)
    fit = learner.fit(
        *make_examples(counts),
        batch_size=4,
        epochs=8,
        validation_data=(points, labels),
        callbacks=[stopping],
        shuffle=False,
        verbose=0,
    )
    by_epoch = fit.history["val_macro_f1"]
    assert stopping.best_epoch == np.argmax(by_epoch)
    assert by_epoch[-1] < max(by_epoch)
    assert np.argmax(by_epoch) != np.argmin(fit.history["val_loss"])
    logits = network.predict(points, verbose=0)
    metrics = compute_metrics(labels.argmax(axis=1), softmax(logits), "abc")
    assert metrics["macro_f1"] == pytest.approx(max(by_epoch))
    assert not np.allclose(network.get_weights()[0], before)


def test_mixed_precision_does_not_round_the_inputs():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        learner, _ = make_learner("focal", np.array([2, 1]), 0.1)
        # Both first numbers are 256 in bfloat16.
        points = np.array([[256.0, 1.0], [256.5, 1.0]], np.float32)
        one, other = learner(points).numpy()
    finally:
        keras.config.set_dtype_policy("float32")
    assert (one != other).all()


def test_a_rare_class_is_found_more_often():
    counts = np.array([950, 50])
    points, labels = make_examples([500, 500], seed=1)
    recall = {}
    for imbalance in OPTIONS:
        learner, network = make_learner(imbalance, counts, 0.5)
        learner.fit(*make_examples(counts), 50, epochs=4, shuffle=False, verbose=0)
        predicted = network.predict(points, verbose=0).argmax(axis=1)
        recall[imbalance] = (predicted[labels[:, 1] == 1] == 1).mean()
    assert recall["class_weights"] > recall["none"] + 0.1
    assert recall["logit_adjustment"] > recall["none"] + 0.1


TWO_DEVICES = (
    TWO_CPUS
    + """import test_losses
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    print(json.dumps(test_losses.fit_weighted()))
"""
)


def fit_weighted():
    """Logs of two epochs and the weights they end in."""
    counts = np.array([30, 6, 12])
    learner, network = make_learner("class_weights", counts, 0.5)
    fit = learner.fit(
        *make_examples(counts),
        batch_size=8,
        epochs=2,
        validation_data=make_examples([4, 4, 4], seed=1),
        shuffle=False,
        verbose=0,
    )
    weights = np.concatenate([weight.ravel() for weight in network.get_weights()])
    return fit.history | {"weights": weights.tolist()}


def test_two_devices_learn_as_one():
    # Another process: devices are fixed when TensorFlow starts.
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES, str(here)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    two = json.loads(done.stdout.splitlines()[-1])
    for name, values in fit_weighted().items():
        assert two[name] == pytest.approx(values, abs=1e-5), name


# --- what is told --------------------------------------------------------------


def test_classes_of_like_size_are_not_worth_a_line():
    assert describe_imbalance(np.array([299, 100]), ["a", "b"], "none") is None
    assert describe_imbalance(np.array([300, 100]), ["a", "b"], "none")


@pytest.mark.parametrize(
    ("imbalance", "done"),
    [
        ("none", "gives every image the same weight. See --imbalance."),
        ("class_weights", "weighs images by class, from 0.6 to 3.1."),
        ("focal", "weighs an image less, the surer its class is predicted."),
        (
            "logit_adjustment",
            "makes predictions take all classes for equally frequent.",
        ),
    ],
)
def test_unequal_classes_are_told_with_what_is_done(imbalance, done):
    counts, names = np.array([112, 300, 795]), ["hat", "shoe", "t-shirt"]
    assert describe_imbalance(counts, names, imbalance) == (
        "Imbalanced: 795 training images of 't-shirt', 112 of 'hat' (7.1 to 1); "
        f"--imbalance={imbalance} {done}"
    )
