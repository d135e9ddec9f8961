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


def expected_calibration_error(
    labels: np.ndarray, probabilities: np.ndarray, bins: int = 15
) -> float:
    """Mean gap between confidence and accuracy (Guo et al., arXiv 1706.04599).

    Args:
        labels: int [N].
        probabilities: float [N, K].
        bins: Number of equal bins of confidence.

    Returns:
        The gap, in [0, 1], weighted by the examples in each bin.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    gap = np.bincount(bin_of, weights=correct - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(labels))


def _ranking_metrics(
    labels: np.ndarray, scores: np.ndarray, both_occur: bool
) -> dict[str, float | None]:
    if not both_occur:
        return {"roc_auc": None, "pr_auc": None}
    return {
        "roc_auc": float(sklearn.metrics.roc_auc_score(labels, scores)),
        "pr_auc": float(sklearn.metrics.average_precision_score(labels, scores)),
    }
