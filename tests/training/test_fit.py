"""What a phase compiles and fits: losses, weights of the tasks, metrics of training."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import make_examples, make_task

from keras_ft.data.examples import Examples
from keras_ft.images.labels import make_label_reader
from keras_ft.kinds.task import Task
from keras_ft.system.devices import precision
from keras_ft.system.distribution import make_model_to_fit
from keras_ft.training.losses import make_losses
from keras_ft.training.validation import make_metrics

OPTIONS = ("none", "class_weights", "focal", "logit_adjustment")


def make_clouds(counts, seed=0):
    """Clouds that overlap: float32 [N, 2], and examples of their classes."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    angle = 2 * np.pi * labels / len(counts)
    centres = 1.2 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points = (centres + rng.normal(0, 1, (len(labels), 2))).astype(np.float32)
    names = make_task(len(counts)).class_names
    return points, make_examples(list(map(str, labels)), None, labels, names)


def read_labels(examples):
    return make_label_reader(examples, 0.0)(tf.range(len(examples)))


def compile_model(examples, imbalance, learning_rate, weights, seed=3):
    """A linear model of two numbers, from fixed weights, compiled as a phase is."""
    inputs, rng = keras.Input((2,)), np.random.default_rng(seed)
    outputs = {}
    for task in examples.tasks:
        head = keras.layers.Dense(len(task.class_names), dtype="float32")
        outputs[task.name] = head(inputs)
        head.kernel.assign(rng.normal(0, 1, head.kernel.shape))
    model = make_model_to_fit(keras.Model(inputs, outputs))
    model.compile(
        optimizer=keras.optimizers.SGD(learning_rate),
        loss=make_losses(examples, imbalance),
        loss_weights=weights,
        metrics=make_metrics(examples.tasks),
    )
    return model


def predict(model, points):
    return model.predict(points, verbose=0)


@pytest.mark.parametrize("imbalance", OPTIONS)
def test_logs_have_the_training_loss_and_the_accuracy(imbalance):
    points, examples = make_clouds([30, 5, 15])
    # It learns nothing, so that the logs of the epoch are those of its network.
    model = compile_model(examples, imbalance, 0.0, {"label": 1.0})
    labels = read_labels(examples)
    logs = model.fit(points, labels, 16, verbose=0).history
    logits = predict(model, points)["label"]
    loss = make_losses(examples, imbalance)["label"]
    assert logs.keys() == {"loss", "accuracy"}
    [found] = logs["loss"]
    assert found == pytest.approx(float(loss(labels["label"], logits)), rel=1e-5)
    accuracy = (logits.argmax(1) == examples.labels).mean()
    assert logs["accuracy"] == [pytest.approx(accuracy)]


def test_a_rare_class_is_predicted_more_often():
    points, val = make_clouds([500, 500], seed=1)
    train_points, train = make_clouds([950, 50])
    recall = {}
    for imbalance in OPTIONS:
        model = compile_model(train, imbalance, 0.5, {"label": 1.0})
        labels = read_labels(train)
        model.fit(train_points, labels, 50, epochs=4, shuffle=False, verbose=0)
        predicted = predict(model, points)["label"].argmax(axis=1)
        recall[imbalance] = (predicted[val.labels == 1] == 1).mean()
    assert recall["class_weights"] > recall["none"] + 0.1
    assert recall["logit_adjustment"] > recall["none"] + 0.1


def make_two_tasks(count=40):
    """Points and examples of two tasks, each labelled for some of them."""
    rng = np.random.default_rng(0)
    tasks = (Task("colour", ("a", "b", "c")), Task("light", ("x", "y")))
    targets = [rng.integers(0, len(t.class_names), count) for t in tasks]
    for target, fraction in zip(targets, (0.5, 0.2), strict=True):
        target[rng.random(count) < fraction] = -1
    names = np.array([f"{i}.png" for i in range(count)], object)
    splits, empty = np.full(count, "train", object), np.full(count, "", object)
    points = rng.normal(0, 1, (count, 2)).astype(np.float32)
    return points, Examples(names, names, tasks, tuple(targets), splits, empty)


def test_tasks_are_averaged_by_weight_over_their_labelled_examples():
    points, examples = make_two_tasks()
    weights = {"colour": 0.75, "light": 0.25}
    model = compile_model(examples, "none", 0.0, weights)
    logs = model.fit(points, read_labels(examples), 10, verbose=0).history
    predicted = predict(model, points)
    of_tasks = []
    for task, target in zip(examples.tasks, examples.targets, strict=True):
        labelled = target >= 0
        logits = predicted[task.name][labelled]
        right = logits.argmax(1) == target[labelled]
        assert logs[f"{task.name}_accuracy"] == [pytest.approx(right.mean())]
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        of_tasks.append(-log_p[np.arange(len(logits)), target[labelled]].mean())
        assert logs[f"{task.name}_loss"] == [pytest.approx(of_tasks[-1], rel=1e-5)]
    expected = 0.75 * of_tasks[0] + 0.25 * of_tasks[1]
    assert logs["loss"] == [pytest.approx(expected, rel=1e-5)]


def test_a_task_learns_by_its_weight_and_nothing_from_examples_without_a_label():
    points, examples = make_two_tasks()
    changed = np.where((examples.targets[0] >= 0)[:, None], points, 9.0)
    steps = []
    for weights, inputs in (
        ({"colour": 1.0, "light": 0.0}, points),
        ({"colour": 1.0, "light": 0.0}, changed),
        ({"colour": 0.5, "light": 0.0}, points),
    ):
        model = compile_model(examples, "none", 0.1, weights)
        before = model.get_weights()
        model.fit(inputs, read_labels(examples), 40, verbose=0)
        steps.append(
            [new - old for old, new in zip(before, model.get_weights(), strict=True)]
        )
    for first, of_changed, half in zip(*steps, strict=True):
        np.testing.assert_allclose(of_changed, first, atol=1e-6)
        np.testing.assert_allclose(2 * half, first, atol=1e-6)
    assert np.abs(steps[0][0]).max() > 1e-3
    assert not steps[0][2].any() and not steps[0][3].any()


def test_mixed_precision_does_not_round_the_inputs():
    _, examples = make_clouds([2, 1])
    with precision("mixed_bfloat16"):
        model = compile_model(examples, "focal", 0.1, {"label": 1.0})
    # Both first numbers are 256 in bfloat16.
    points = np.array([[256.0, 1.0], [256.5, 1.0]], np.float32)
    one, other = model(points)["label"].numpy()
    assert (one != other).all()
