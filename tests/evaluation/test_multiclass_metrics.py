import json

import numpy as np
import pytest
import sklearn.metrics

from keras_ft.evaluation.multiclass_metrics import (
    calibration_bins,
    compute_metrics,
    confidence_intervals,
    expected_calibration_error,
)


def test_metrics_agree_with_a_small_example_computed_by_hand():
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


def test_averages_leave_out_classes_that_do_not_occur():
    probabilities = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]])
    metrics = compute_metrics(np.array([0, 1]), probabilities, ("a", "b", "c"))
    assert metrics["macro_f1"] == metrics["balanced_accuracy"] == 1.0
    assert metrics["per_class"]["c"]["support"] == 0


def test_labels_of_one_class_have_no_roc_and_pr_auc():
    metrics = compute_metrics(np.array([0]), np.array([[1.0, 0.0]]), ("a", "b"))
    assert metrics["roc_auc"] is None
    assert metrics["pr_auc"] is None


def test_an_error_of_confidence_1_has_a_finite_loss():
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


def test_bins_contain_counts_mean_confidence_and_accuracy():
    probabilities = np.array([[0.55, 0.45], [0.6, 0.4], [0.05, 0.95]])
    counts, confidence, accuracy = calibration_bins(
        np.array([0, 1, 1]), probabilities, bins=2
    )
    np.testing.assert_array_equal(counts, [0, 3])
    np.testing.assert_allclose(confidence, [0, 0.7])
    np.testing.assert_allclose(accuracy, [0, 2 / 3])


def test_intervals_contain_the_value_and_shrink_with_more_examples():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 50)
    probabilities = np.eye(3)[labels]
    probabilities[:10] = np.eye(3)[(labels[:10] + 1) % 3]
    widths = []
    for times in (1, 16):
        many = np.tile(labels, times), np.tile(probabilities, (times, 1))
        intervals = confidence_intervals(*many)
        low, high = intervals["accuracy_interval"]
        assert low < 0.8 < high
        f1_low, f1_high = intervals["macro_f1_interval"]
        assert f1_low < compute_metrics(*many, tuple("abc"))["macro_f1"] < f1_high
        widths.append((high - low, f1_high - f1_low))
    # In proportion to the root of the number of examples: to a fourth.
    np.testing.assert_allclose(np.divide(*widths), 4, rtol=0.15)


def test_the_accuracy_interval_without_errors_is_not_empty():
    labels = np.array([0, 1] * 15)
    low, high = confidence_intervals(labels, np.eye(2)[labels])["accuracy_interval"]
    assert high == pytest.approx(1)
    assert low == pytest.approx(30 / (30 + 1.959964**2))  # Wilson's, without errors


def test_the_bootstrap_agrees_with_macro_f1_of_resampled_examples():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, 60)
    predicted = np.where(rng.random(60) < 0.6, labels, rng.integers(0, 4, 60))
    resampled = rng.integers(0, 60, (1000, 60))
    scores = [
        sklearn.metrics.f1_score(labels[i], predicted[i], average="macro")
        for i in resampled
    ]
    interval = confidence_intervals(labels, np.eye(4)[predicted])["macro_f1_interval"]
    np.testing.assert_allclose(interval, np.percentile(scores, [2.5, 97.5]), atol=0.02)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="one probability per class"):
        compute_metrics(np.array([0, 1]), np.ones((1, 2)), ("a", "b"))
