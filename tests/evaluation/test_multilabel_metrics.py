import numpy as np
import pytest
import sklearn.metrics

from keras_ft.evaluation import multilabel_metrics
from keras_ft.evaluation.calibration import calibrate
from keras_ft.tasks import Task

TASK = Task("tags", ("a", "b", "c"), is_multilabel=True)


def make(count=400, seed=0, sharpness=1.0):
    """Labels, and their true probabilities made sharper."""
    rng = np.random.default_rng(seed)
    logits = rng.normal([0, -1, -2], 1.5, (count, 3))
    labels = (rng.random((count, 3)) < 1 / (1 + np.exp(-logits))).astype(np.int8)
    return labels, 1 / (1 + np.exp(-sharpness * logits))


def test_metrics_are_those_of_scikit_learn():
    labels, probabilities = make()
    metrics = multilabel_metrics.compute_metrics(TASK, labels, probabilities)
    predictions = probabilities >= 0.5
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(labels, predictions),
        "macro_f1": sklearn.metrics.f1_score(labels, predictions, average="macro"),
        "micro_f1": sklearn.metrics.f1_score(labels, predictions, average="micro"),
        "mean_average_precision": sklearn.metrics.average_precision_score(
            labels, probabilities
        ),
        "balanced_accuracy": np.mean(
            [
                sklearn.metrics.balanced_accuracy_score(labels[:, i], predictions[:, i])
                for i in range(3)
            ]
        ),
        "loss": np.mean(
            [
                sklearn.metrics.log_loss(labels[:, i], probabilities[:, i])
                for i in range(3)
            ]
        ),
    }
    assert {key: metrics[key] for key in expected} == pytest.approx(expected)
    assert metrics["per_class"]["c"]["support"] == labels[:, 2].sum()
    assert metrics["ece"] < 0.06  # these are the true probabilities
    sharp = multilabel_metrics.compute_metrics(TASK, *make(sharpness=4.0))
    assert sharp["ece"] > 2 * metrics["ece"]


def test_a_class_without_examples_has_no_average_precision():
    labels, probabilities = make(20)
    labels[:, 1] = 0
    metrics = multilabel_metrics.compute_metrics(TASK, labels, probabilities)
    assert metrics["per_class"]["b"]["average_precision"] is None
    others = [metrics["per_class"][n]["average_precision"] for n in "ac"]
    assert metrics["mean_average_precision"] == pytest.approx(np.mean(others))


@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_has_a_higher_f1(seed):
    labels, probabilities = make(60, seed)
    probabilities = probabilities.round(1)  # with ties
    thresholds = multilabel_metrics.choose_thresholds(labels, probabilities)
    for truth, scores, threshold in zip(
        labels.T, probabilities.T, thresholds, strict=True
    ):
        best = max(
            sklearn.metrics.f1_score(truth, scores >= other)
            for other in np.linspace(0, 1, 101)
        )
        found = sklearn.metrics.f1_score(truth, scores >= threshold)
        assert found == pytest.approx(best)


def test_a_class_that_never_applies_keeps_the_threshold_of_one_half():
    labels, probabilities = make(20)
    labels[:, 1] = 0
    assert multilabel_metrics.choose_thresholds(labels, probabilities)[1] == 0.5


def test_the_temperature_undoes_overconfidence_and_thresholds_follow():
    labels, sharp = make(3000, sharpness=3.0)
    target = labels.copy()
    target[::4] = -1  # not labelled
    calibrated = calibrate(TASK, target, {"val": sharp, "test": sharp[:9]})
    assert calibrated.temperature == pytest.approx(3.0, rel=0.1)
    _, fair = make(3000)
    np.testing.assert_allclose(calibrated.probabilities["val"], fair, atol=0.05)
    assert len(calibrated.task.thresholds) == 3
    chosen = multilabel_metrics.compute_metrics(
        calibrated.task, labels, calibrated.probabilities["val"]
    )
    plain = multilabel_metrics.compute_metrics(
        TASK, labels, calibrated.probabilities["val"]
    )
    assert chosen["macro_f1"] > plain["macro_f1"]


def test_the_interval_of_macro_f1_covers_resampled_sets():
    labels, probabilities = make(300)
    low, high = multilabel_metrics.macro_f1_interval(TASK, labels, probabilities)
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(200):
        drawn = rng.integers(0, 300, 300)
        f1 = sklearn.metrics.f1_score(
            labels[drawn], probabilities[drawn] >= 0.5, average="macro"
        )
        inside += low <= f1 <= high
    assert 0.9 < inside / 200 < 0.99
