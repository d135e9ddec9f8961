"""Labels and probabilities -> metrics. NumPy and scikit-learn only."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import sklearn.metrics


def compute_metrics(
    labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]
) -> dict[str, Any]:
    """Measures a classifier on N examples.

    Args:
        labels: int [N], indices into `class_names`, N > 0.
        probabilities: float [N, K], rows sum to 1.
        class_names: K names.

    Returns:
        Metrics that JSON can hold, fractions in [0, 1]: `accuracy`, `loss` (mean
        cross-entropy, nats), `macro_f1` and `balanced_accuracy` (over the classes
        that occur), `ece`, `per_class`, `confusion_matrix` (rows are labels, columns
        predictions), and with two classes `roc_auc` and `pr_auc` (average precision)
        of the second class, null if only one class occurs.

    Raises:
        ValueError: The shapes do not agree.
    """
    num_classes = len(class_names)
    if probabilities.shape != (len(labels), num_classes):
        raise ValueError(
            "Every example needs one probability per class. Received: "
            f"{probabilities.shape} for {len(labels)} examples, {num_classes} classes"
        )
    ids = np.arange(num_classes)
    predicted = probabilities.argmax(axis=1)
    columns = sklearn.metrics.precision_recall_fscore_support(
        labels, predicted, labels=ids, zero_division=0
    )
    _, recall, f1, support = columns
    occurs = support > 0
    of_label = probabilities[np.arange(len(labels)), labels]
    metrics = {
        "accuracy": float((predicted == labels).mean()),
        "loss": float(-np.log(np.maximum(of_label, 1e-12)).mean()),
        "macro_f1": float(f1[occurs].mean()),
        "balanced_accuracy": float(recall[occurs].mean()),
        "ece": expected_calibration_error(labels, probabilities),
        "per_class": {
            name: {"precision": p, "recall": r, "f1": f, "support": n}
            for name, p, r, f, n in zip(
                class_names, *(column.tolist() for column in columns), strict=True
            )
        },
        "confusion_matrix": sklearn.metrics.confusion_matrix(
            labels, predicted, labels=ids
        ).tolist(),
    }
    if num_classes == 2:
        metrics |= _ranking_metrics(labels, probabilities[:, 1], occurs.all())
    return metrics


def calibration_bins(
    labels: np.ndarray, probabilities: np.ndarray, bins: int = 15
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a reliability diagram shows (Guo et al., arXiv 1706.04599).

    Args:
        labels: int [N].
        probabilities: float [N, K].
        bins: Number of equal bins of confidence, the largest probability.

    Returns:
        float64 [bins] each: examples per bin, their mean confidence, their accuracy
        (both 0 where a bin is empty).
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    counts = np.bincount(bin_of, minlength=bins).astype(float)
    means = (
        np.bincount(bin_of, weights=values, minlength=bins) / np.maximum(counts, 1)
        for values in (confidence, correct)
    )
    return counts, *means


def expected_calibration_error(
    labels: np.ndarray, probabilities: np.ndarray, bins: int = 15
) -> float:
    """Mean gap between confidence and accuracy, weighted by the examples in each bin.

    Args and source: see `calibration_bins`. In [0, 1].
    """
    counts, confidence, accuracy = calibration_bins(labels, probabilities, bins)
    return float(counts @ np.abs(accuracy - confidence) / len(labels))


def _ranking_metrics(
    labels: np.ndarray, scores: np.ndarray, both_occur: bool
) -> dict[str, float | None]:
    if not both_occur:
        return {"roc_auc": None, "pr_auc": None}
    return {
        "roc_auc": float(sklearn.metrics.roc_auc_score(labels, scores)),
        "pr_auc": float(sklearn.metrics.average_precision_score(labels, scores)),
    }
