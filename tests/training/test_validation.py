"""What is monitored on val."""

import numpy as np
import pytest
from helpers import make_examples, make_task
from scipy.special import expit, softmax

from keras_ft.data.examples import Examples
from keras_ft.evaluation.multiclass_metrics import compute_metrics
from keras_ft.kinds.calibration import calibrate
from keras_ft.kinds.measure import measure
from keras_ft.kinds.task import MULTILABEL, Task
from keras_ft.training.validation import compute_val_logs

NAMES = ("loss", "accuracy", "macro_f1", "balanced_accuracy")


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("num_examples", [99, 100])
def test_the_calibrated_loss_is_that_of_the_model_that_calibration_makes(
    num_examples, scale
):
    rng = np.random.default_rng(1)
    labels, task = rng.integers(0, 4, num_examples), make_task(4)
    logits = scale * (rng.normal(0, 1, (num_examples, 4)) + np.eye(4)[labels])
    predicted = softmax(logits.astype(np.float32), axis=1)
    val = make_examples(list(map(str, labels)), None, labels, task.class_names)
    logs = compute_val_logs(val, {"label": predicted}, {"label": 1.0})
    expected = compute_metrics(labels, predicted, "abcd")
    found = {name: logs.pop(f"val_{name}") for name in NAMES}
    assert found == {name: expected[name] for name in NAMES}

    calibrated = calibrate(task, labels, {"val": predicted})
    assert (calibrated.temperature == 1) == (num_examples < 100)
    expected = compute_metrics(labels, calibrated.probabilities["val"], "abcd")["loss"]
    assert logs == {"val_calibrated_loss": pytest.approx(expected, abs=1e-3)}


def test_logs_are_means_over_the_labelled_examples_of_the_tasks_by_weight():
    rng = np.random.default_rng(0)
    tasks = Task("species", ("a", "b", "c")), Task("tags", ("x", "y"), MULTILABEL)
    species = np.where(rng.random(40) < 0.5, -1, rng.integers(0, 3, 40))
    tags = rng.integers(0, 2, (40, 2)).astype(np.int8)
    tags[rng.random(40) < 0.3] = -1
    names, empty = np.arange(40).astype(str).astype(object), np.full(40, "", object)
    val = Examples(names, names, tasks, (species, tags), empty, empty)
    predicted = {
        "species": softmax(rng.normal(0, 1, (40, 3)), axis=1).astype(np.float32),
        "tags": expit(rng.normal(0, 1, (40, 2))).astype(np.float32),
    }
    logs = compute_val_logs(val, predicted, {"species": 0.75, "tags": 0.25})
    assert len(logs) == 3 * 5
    by_task = {}
    for task, target in zip(tasks, val.targets, strict=True):
        kept = target.reshape(40, -1)[:, 0] >= 0
        assert 0 < kept.sum() < 40
        by_task[task.name] = measure(task, target[kept], predicted[task.name][kept])
        for name in NAMES:
            expected = pytest.approx(by_task[task.name][name])
            assert logs[f"val_{task.name}_{name}"] == expected
    for name in NAMES:
        mean = 0.75 * by_task["species"][name] + 0.25 * by_task["tags"][name]
        assert logs[f"val_{name}"] == pytest.approx(mean)


def test_of_a_network_that_has_diverged_the_loss_is_no_number():
    """So that `EarlyStopping` ends the phase, and not an error of a metric."""
    predicted = np.float32([[0.5, 0.5], [np.nan, np.nan], [1, 0]])
    val = make_examples(["x", "y", "z"], None, [0, 1, 1], "ab")
    logs = compute_val_logs(val, {"label": predicted}, {"label": 1.0})
    assert logs == {"val_loss": pytest.approx(np.nan, nan_ok=True)}
