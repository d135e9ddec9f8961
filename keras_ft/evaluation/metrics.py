"""Labels and probabilities -> metrics. NumPy and scikit-learn only."""

from collections.abc import Sequence
from typing import NotRequired, TypedDict

import numpy as np
import scipy.stats
import sklearn.metrics

_RESAMPLES = 1000


class ClassMetrics(TypedDict):
    """Metrics of one class, in [0, 1], and its number of examples."""

    precision: float
    recall: float
    f1: float
    support: int


class Intervals(TypedDict):
    """Lower and upper bounds at 95 %."""

    accuracy_interval: list[float]
    macro_f1_interval: list[float]


class SplitMetrics(TypedDict):
    """Metrics on one split, see `compute_metrics`."""

    accuracy: float
    loss: float
    macro_f1: float
    balanced_accuracy: float
    ece: float
    per_class: dict[str, ClassMetrics]
    confusion_matrix: list[list[int]]
    roc_auc: NotRequired[float | None]
    pr_auc: NotRequired[float | None]
    accuracy_interval: NotRequired[list[float]]
    macro_f1_interval: NotRequired[list[float]]


def compute_metrics(
    labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]
) -> SplitMetrics:
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
    per_class = sklearn.metrics.precision_recall_fscore_support(
        labels, predicted, labels=ids, zero_division=0
    )
    _, recall, f1, support = per_class
    occurs = support > 0
    of_label = probabilities[np.arange(len(labels)), labels]
    metrics = {
        "accuracy": float((predicted == labels).mean()),
        "loss": float(-np.log(np.maximum(of_label, 1e-12)).mean()),
        "macro_f1": float(f1[occurs].mean()),
        "balanced_accuracy": float(recall[occurs].mean()),
        "ece": expected_calibration_error(labels, probabilities),
        "per_class": _name_classes(class_names, per_class),
        "confusion_matrix": sklearn.metrics.confusion_matrix(
            labels, predicted, labels=ids
        ).tolist(),
    }
    if num_classes == 2:
        metrics |= _ranking_metrics(labels, probabilities[:, 1], occurs.all())
    return metrics


def _name_classes(
    class_names: Sequence[str], columns: Sequence[np.ndarray]
) -> dict[str, dict[str, float]]:
    rows = zip(*(column.tolist() for column in columns), strict=True)
    keys = ("precision", "recall", "f1", "support")
    return {
        name: dict(zip(keys, row, strict=True))
        for name, row in zip(class_names, rows, strict=True)
    }


def confidence_intervals(
    labels: np.ndarray, probabilities: np.ndarray, seed: int = 0
) -> Intervals:
    """How far accuracy and macro F1 may be off, by the number of examples.

    Args:
        labels: int [N], N > 0.
        probabilities: float [N, K].
        seed: Of the drawing. Defaults to 0.

    Returns:
        `accuracy_interval`, Wilson's score interval, and `macro_f1_interval`, the
        percentile bootstrap (Efron and Tibshirani, 1993, chapter 13): lower and upper
        bound at 95 %. For accuracy the bootstrap would claim certainty where all
        examples are right.
    """
    predicted = probabilities.argmax(axis=1)
    right = scipy.stats.binomtest(int((predicted == labels).sum()), len(labels))
    # Drawing examples anew is drawing how often each (label, prediction) occurs.
    pairs, counts = np.unique(np.stack([labels, predicted]), axis=1, return_counts=True)
    rng = np.random.default_rng(seed)
    size = probabilities.shape[1]
    scores = [
        _macro_f1(*pairs, rng.multinomial(len(labels), counts / len(labels)), size)
        for _ in range(_RESAMPLES)
    ]
    return {
        "accuracy_interval": list(map(float, right.proportion_ci(method="wilson"))),
        "macro_f1_interval": np.percentile(scores, [2.5, 97.5]).tolist(),
    }


def _macro_f1(
    labels: np.ndarray, predicted: np.ndarray, counts: np.ndarray, num_classes: int
) -> float:
    """Macro F1 where (label, prediction) number i occurs `counts[i]` times."""
    right = labels == predicted
    true = np.bincount(labels[right], counts[right], num_classes)
    support = np.bincount(labels, counts, num_classes)
    claimed = np.bincount(predicted, counts, num_classes)
    occurs = support > 0
    return float((2 * true[occurs] / (support + claimed)[occurs]).mean())


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
