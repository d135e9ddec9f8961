import numpy as np
import pytest
import sklearn.metrics

from keras_ft.evaluation import multilabel_metrics


def make(count=400, seed=0, sharpness=1.0):
    """Labels, and their true probabilities made sharper."""
    rng = np.random.default_rng(seed)
    logits = rng.normal([0, -1, -2], 1.5, (count, 3))
    labels = (rng.random((count, 3)) < 1 / (1 + np.exp(-logits))).astype(np.int8)
    return labels, 1 / (1 + np.exp(-sharpness * logits))


def test_metrics_are_those_of_scikit_learn():
    labels, probabilities = make()
    metrics = multilabel_metrics.compute_metrics(labels, probabilities, "abc")
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
    sharp = multilabel_metrics.compute_metrics(*make(sharpness=4.0), "abc")
    assert sharp["ece"] > 2 * metrics["ece"]


def test_a_class_without_examples_has_no_average_precision():
    labels, probabilities = make(20)
    labels[:, 1] = 0
    metrics = multilabel_metrics.compute_metrics(labels, probabilities, "abc")
    assert metrics["per_class"]["b"]["average_precision"] is None
    others = [metrics["per_class"][n]["average_precision"] for n in "ac"]
    assert metrics["mean_average_precision"] == pytest.approx(np.mean(others))


def test_the_interval_of_macro_f1_covers_resampled_sets():
    labels, probabilities = make(300)
    intervals = multilabel_metrics.confidence_intervals(labels, probabilities)
    low, high = intervals["macro_f1_interval"]
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(200):
        drawn = rng.integers(0, 300, 300)
        f1 = sklearn.metrics.f1_score(
            labels[drawn], probabilities[drawn] >= 0.5, average="macro"
        )
        inside += low <= f1 <= high
    assert 0.9 < inside / 200 < 0.99
