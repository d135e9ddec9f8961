"""Labels and probabilities -> metrics."""

from collections.abc import Sequence

import numpy as np
import scipy.stats
import sklearn.metrics

from keras_ft.evaluation.split_metrics import ClassMetrics, Intervals, SplitMetrics

_RESAMPLES = 1000


def compute_metrics(
    labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]
) -> SplitMetrics:
    """Computes the metrics of a classifier on N examples.

    Args:
        labels: int [N], indices into `class_names`, N > 0.
        probabilities: float [N, K], rows sum to 1.
        class_names: K names.

    Returns:
        The metrics without intervals; `roc_auc` and `pr_auc` only for two classes.

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
    predictions = probabilities.argmax(axis=1)
    per_class = sklearn.metrics.precision_recall_fscore_support(
        labels, predictions, labels=ids, zero_division=0
    )
    _, recall, f1, support = per_class
    occurs = support > 0
    of_label = probabilities[np.arange(len(labels)), labels]
    metrics: SplitMetrics = {
        "accuracy": float((predictions == labels).mean()),
        "loss": float(-np.log(np.maximum(of_label, 1e-12)).mean()),
        "macro_f1": float(f1[occurs].mean()),
        "balanced_accuracy": float(recall[occurs].mean()),
        "ece": expected_calibration_error(labels, probabilities),
        "per_class": _name_classes(class_names, per_class),
        "confusion_matrix": sklearn.metrics.confusion_matrix(
            labels, predictions, labels=ids
        ).tolist(),
    }
    if num_classes == 2:
        metrics["roc_auc"] = metrics["pr_auc"] = None
        if occurs.all():
            truth = labels, probabilities[:, 1]
            metrics["roc_auc"] = float(sklearn.metrics.roc_auc_score(*truth))
            metrics["pr_auc"] = float(sklearn.metrics.average_precision_score(*truth))
    return metrics


def _name_classes(
    class_names: Sequence[str], columns: Sequence[np.ndarray]
) -> dict[str, ClassMetrics]:
    rows = zip(class_names, *(column.tolist() for column in columns), strict=True)
    return {
        name: {"precision": precision, "recall": recall, "f1": f1, "support": support}
        for name, precision, recall, f1, support in rows
    }


def confidence_intervals(
    labels: np.ndarray, probabilities: np.ndarray, seed: int = 0
) -> Intervals:
    """Computes 95 % confidence intervals of accuracy and macro F1.

    Args:
        labels: int [N], N > 0.
        probabilities: float [N, K].
        seed: Seed of the bootstrap. Defaults to 0.

    Returns:
        `accuracy_interval`, Wilson's score interval, and `macro_f1_interval`, the
        percentile bootstrap (Efron and Tibshirani, 1993, chapter 13). For accuracy
        the bootstrap would be an interval of length 0 if no prediction is wrong.
    """
    predictions = probabilities.argmax(axis=1)
    correct = int((predictions == labels).sum())
    # Resampling examples means drawing how often each (label, prediction) occurs.
    pairs, counts = np.unique(
        np.stack([labels, predictions]), axis=1, return_counts=True
    )
    rng = np.random.default_rng(seed)
    num_classes = probabilities.shape[1]
    scores = [
        _macro_f1(pairs, resampled, num_classes)
        for resampled in rng.multinomial(
            len(labels), counts / len(labels), size=_RESAMPLES
        )
    ]
    return {
        "accuracy_interval": accuracy_interval(correct, len(labels)),
        "macro_f1_interval": np.percentile(scores, [2.5, 97.5]).tolist(),
    }


def accuracy_interval(correct: int, num_examples: int) -> list[float]:
    """Wilson's 95 % score interval of an accuracy."""
    test = scipy.stats.binomtest(correct, num_examples)
    interval = test.proportion_ci(method="wilson")
    return [float(interval.low), float(interval.high)]


def _macro_f1(pairs: np.ndarray, counts: np.ndarray, num_classes: int) -> float:
    """Macro F1 of examples; pair i of (label, prediction) occurs `counts[i]` times."""
    labels, predictions = pairs
    correct = labels == predictions
    true_positives = np.bincount(labels[correct], counts[correct], num_classes)
    support = np.bincount(labels, counts, num_classes)
    predicted = np.bincount(predictions, counts, num_classes)
    occurs = support > 0
    return float((2 * true_positives[occurs] / (support + predicted)[occurs]).mean())


def calibration_bins(
    labels: np.ndarray, probabilities: np.ndarray, bins: int = 15
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Computes the bins of a reliability diagram (Guo et al., arXiv 1706.04599).

    Args:
        labels: int [N].
        probabilities: float [N, K].
        bins: Number of bins of equal width. An example's bin is that of its confidence,
            the largest probability.

    Returns:
        float64 [bins] each: number of examples, mean confidence and accuracy per bin;
        the latter two are 0 in empty bins.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    counts = np.bincount(bin_of, minlength=bins).astype(float)
    mean_confidence, accuracy = (
        np.bincount(bin_of, weights=values, minlength=bins) / np.maximum(counts, 1)
        for values in (confidence, correct)
    )
    return counts, mean_confidence, accuracy


def expected_calibration_error(
    labels: np.ndarray, probabilities: np.ndarray, bins: int = 15
) -> float:
    """Mean gap between confidence and accuracy, weighted by the examples in each bin.

    In [0, 1]; for the arguments see `calibration_bins`.
    """
    counts, confidence, accuracy = calibration_bins(labels, probabilities, bins)
    return float(counts @ np.abs(accuracy - confidence) / len(labels))
