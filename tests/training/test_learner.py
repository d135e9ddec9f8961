import keras
import numpy as np
import pytest
from helpers import make_task
from keras_ft.training.learner import Learner
from keras_ft.training.task_metrics import TaskMetrics
from scipy.special import log_softmax, softmax

from keras_ft.config.recipe import Phase
from keras_ft.config.schema import SelectionConfig
from keras_ft.evaluation.multiclass_metrics import compute_metrics
from keras_ft.kinds.calibration import calibrate
from keras_ft.kinds.task import MULTICLASS
from keras_ft.training.callbacks import make_early_stopping
from keras_ft.training.losses import LabelledLoss

OPTIONS = ("none", "class_weights", "focal", "logit_adjustment")


def make_loss(imbalance, counts):
    return LabelledLoss(MULTICLASS.losses[imbalance](counts, sum(counts)))


def test_metrics_are_those_of_all_batches_together():
    num_classes = 7
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, 4, 5], 90, p=[0.5, 0.3, 0.1, 0.06, 0.04])
    logits = rng.normal(0, 1, (90, num_classes)) + 2 * np.eye(num_classes)[labels]
    logits[:, 6] = -99  # class 3 is predicted and does not occur; class 6 neither
    assert 3 in logits.argmax(axis=1)
    smoothed = np.eye(num_classes)[labels] * 0.9 + 0.1 / num_classes
    task = make_task(num_classes)
    metric = TaskMetrics(task, [task])
    of_batches = []
    for at in np.split(np.arange(90), [32, 64, 65]):
        metric.update_state(smoothed[at], logits[at])
        batch = TaskMetrics(task, [task])
        batch.update_state(smoothed[at], logits[at])
        of_batches.append(float(batch.result()["macro_f1"]))
    expected = compute_metrics(labels, softmax(logits, axis=1), "abcdefg")
    result = {name: float(value) for name, value in metric.result().items()}
    loss = -(smoothed * log_softmax(logits, axis=1)).sum(axis=1).mean()
    assert result == {
        name: pytest.approx(expected[name], abs=1e-6)
        for name in ("accuracy", "macro_f1", "balanced_accuracy")
    } | {"calibrated_loss": pytest.approx(loss, abs=1e-5)}  # of fewer than 100
    assert abs(np.mean(of_batches) - expected["macro_f1"]) > 0.01

    metric.reset_state()
    assert float(metric.result()["macro_f1"]) == 0
    metric.update_state(np.eye(num_classes), np.eye(num_classes))
    assert float(metric.result()["macro_f1"]) == 1


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("num_examples", [99, 100])
def test_the_calibrated_loss_is_that_of_the_model_that_calibration_makes(
    num_examples, scale
):
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, num_examples)
    logits = scale * (rng.normal(0, 1, (num_examples, 4)) + np.eye(4)[labels])
    task = make_task(4)
    metric = TaskMetrics(task, [task])
    for at in np.array_split(np.arange(num_examples), 3):
        metric.update_state(np.eye(4)[labels[at]], logits[at])
    calibrated = calibrate(task, labels, {"val": softmax(logits, axis=1)})
    assert (calibrated.temperature == 1) == (num_examples < 100)
    expected = compute_metrics(labels, calibrated.probabilities["val"], "abcd")["loss"]
    assert float(metric.result()["calibrated_loss"]) == pytest.approx(
        expected, abs=1e-3
    )


def make_learner(imbalance, counts, learning_rate, **compiled):
    """A logistic regression of two numbers, from fixed weights."""
    inputs = keras.Input((2,))
    dense = keras.layers.Dense(len(counts), dtype="float32")
    network = keras.Model(inputs, {"label": dense(inputs)})
    kernel = np.random.default_rng(3).normal(0, 1, (2, len(counts)))
    dense.set_weights([kernel, np.zeros(len(counts))])
    task = make_task(len(counts))
    learner = Learner(
        network,
        {"label": make_loss(imbalance, counts)},
        {"label": make_loss("none", counts)},
        {"label": 1.0},
        [TaskMetrics(task, [task])],
    )
    learner.compile(optimizer=keras.optimizers.SGD(learning_rate), **compiled)
    return learner, network


def predict(network, points):
    """The logits of a network of one task."""
    return network.predict(points, verbose=0)["label"]


def make_examples(counts, seed=0):
    """Clouds that overlap: float32 [N, 2], and by task one-hot float32 [N, K]."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    angle = 2 * np.pi * labels / len(counts)
    centres = 1.2 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points = (centres + rng.normal(0, 1, (len(labels), 2))).astype(np.float32)
    return points, {"label": np.eye(len(counts), dtype=np.float32)[labels]}


@pytest.mark.parametrize("imbalance", OPTIONS)
def test_validation_loss_is_the_cross_entropy(imbalance):
    counts = np.array([30, 5, 15])
    train, val = make_examples(counts), make_examples([8, 6, 7], seed=1)
    # It learns nothing, so that the loss of the epoch is that of its network.
    learner, network = make_learner(imbalance, counts, 0.0, jit_compile=True)
    fit = learner.fit(*train, 16, epochs=2, validation_data=val, verbose=0)
    for name, (points, targets) in {"": train, "val_": val}.items():
        labels, logits = targets["label"], predict(network, points)
        expected = compute_metrics(
            labels.argmax(axis=1), softmax(logits, axis=1), "abc"
        )
        if not name:  # only the training loss takes the classes into account
            loss = make_loss(imbalance, counts)
            expected["loss"] = float(loss(labels, logits))
        for metric in ("loss", "accuracy", "macro_f1", "balanced_accuracy"):
            np.testing.assert_allclose(
                fit.history[name + metric], expected[metric], rtol=1e-5
            )


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
    points, targets = make_examples([20, 20, 20], seed=1)
    fit = learner.fit(
        *make_examples(counts),
        batch_size=4,
        epochs=8,
        validation_data=(points, targets),
        callbacks=[stopping],
        shuffle=False,
        verbose=0,
    )
    by_epoch = fit.history["val_macro_f1"]
    assert stopping.best_epoch == np.argmax(by_epoch)
    assert by_epoch[-1] < max(by_epoch)
    assert np.argmax(by_epoch) != np.argmin(fit.history["val_loss"])
    labels, logits = targets["label"].argmax(axis=1), predict(network, points)
    metrics = compute_metrics(labels, softmax(logits, axis=1), "abc")
    assert metrics["macro_f1"] == pytest.approx(max(by_epoch))
    assert not np.allclose(network.get_weights()[0], before)


def test_mixed_precision_does_not_round_the_inputs():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        learner, _ = make_learner("focal", np.array([2, 1]), 0.1)
        # Both first numbers are 256 in bfloat16.
        points = np.array([[256.0, 1.0], [256.5, 1.0]], np.float32)
        one, other = learner(points)["label"].numpy()
    finally:
        keras.config.set_dtype_policy("float32")
    assert (one != other).all()


def test_a_rare_class_is_predicted_more_often():
    counts = np.array([950, 50])
    points, targets = make_examples([500, 500], seed=1)
    recall = {}
    for imbalance in OPTIONS:
        learner, network = make_learner(imbalance, counts, 0.5)
        learner.fit(*make_examples(counts), 50, epochs=4, shuffle=False, verbose=0)
        predicted = predict(network, points).argmax(axis=1)
        recall[imbalance] = (predicted[targets["label"][:, 1] == 1] == 1).mean()
    assert recall["class_weights"] > recall["none"] + 0.1
    assert recall["logit_adjustment"] > recall["none"] + 0.1
