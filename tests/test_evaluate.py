import json

import numpy as np
import pytest
import sklearn.metrics

from keras_ft.evaluate import compute_metrics, expected_calibration_error


def test_metrics_of_a_small_example_by_hand():
    labels = np.array([0, 0, 0, 1])
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]])
    metrics = compute_metrics(labels, probabilities, ("cat", "dog"))
    assert metrics["accuracy"] == 0.75
    assert metrics["confusion_matrix"] == [[2, 1], [0, 1]]
    assert metrics["per_class"]["cat"] == {
        "precision": 1.0,
        "recall": pytest.approx(2 / 3),
        "f1": pytest.approx(0.8),
        "support": 3,
    }
    assert metrics["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert metrics["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    expected = -np.log([0.9, 0.8, 0.4, 0.7]).mean()
    assert metrics["loss"] == pytest.approx(expected)
    assert metrics["roc_auc"] == 1.0
    assert metrics["pr_auc"] == 1.0
    json.dumps(metrics, allow_nan=False)


def test_metrics_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 200)
    probabilities = rng.dirichlet(np.ones(4), 200)
    metrics = compute_metrics(labels, probabilities, tuple("abcd"))
    predicted = probabilities.argmax(1)
    assert metrics["macro_f1"] == pytest.approx(
        sklearn.metrics.f1_score(labels, predicted, average="macro")
    )
    assert metrics["balanced_accuracy"] == pytest.approx(
        sklearn.metrics.balanced_accuracy_score(labels, predicted)
    )
    assert metrics["loss"] == pytest.approx(
        sklearn.metrics.log_loss(labels, probabilities)
    )
    assert "roc_auc" not in metrics


def test_a_class_that_does_not_occur_is_not_averaged():
    probabilities = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]])
    metrics = compute_metrics(np.array([0, 1]), probabilities, ("a", "b", "c"))
    assert metrics["macro_f1"] == metrics["balanced_accuracy"] == 1.0
    assert metrics["per_class"]["c"]["support"] == 0


def test_one_of_two_classes_has_no_ranking():
    metrics = compute_metrics(np.array([0]), np.array([[1.0, 0.0]]), ("a", "b"))
    assert metrics["roc_auc"] is None
    assert metrics["pr_auc"] is None


def test_a_certain_mistake_has_a_finite_loss():
    metrics = compute_metrics(np.array([1]), np.array([[1.0, 0.0]]), ("a", "b"))
    json.dumps(metrics, allow_nan=False)
    assert metrics["loss"] > 20


def test_calibration_error_is_the_gap_between_confidence_and_accuracy():
    confident = np.tile([0.8, 0.2], (10, 1))
    labels = np.array([0] * 8 + [1] * 2)
    assert expected_calibration_error(labels, confident) == pytest.approx(0)
    assert expected_calibration_error(labels * 0, confident) == pytest.approx(0.2)
    certain = np.tile([1.0, 0.0], (4, 1))
    assert expected_calibration_error(np.ones(4, int), certain) == 1.0


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="one probability per class"):
        compute_metrics(np.array([0, 1]), np.ones((1, 2)), ("a", "b"))
