"""Labels and probabilities of a task with one class per example -> metrics.

Labels are int [N], indices of classes; probabilities are float [N, K], rows sum to 1.

The kinds of tasks import this module, and `--help` them: what takes a while to import
is imported where it is used.
"""

import math
from collections.abc import Sequence

import numpy as np

from keras_ft.evaluation.split_metrics import (
    Averages,
    ClassMetrics,
    Intervals,
    SplitMetrics,
)

_RESAMPLES = 1000


def summarize(labels: np.ndarray, probabilities: np.ndarray) -> Averages:
    """Computes the metrics that `--monitor` may select by, of N > 0 examples."""
    predictions = probabilities.argmax(axis=1)
    scores = score_classes(*_count(labels, predictions, probabilities.shape[1]))
    _, recall, f1, support = scores
    occurs = support > 0
    return {
        "accuracy": float((predictions == labels).mean()),
        "loss": float(cross_entropies(labels, probabilities).mean()),
        "macro_f1": float(f1[occurs].mean()),
        "balanced_accuracy": float(recall[occurs].mean()),
    }


def compute_metrics(
    labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]
) -> SplitMetrics:
    """Computes the metrics of a classifier on N > 0 examples, without intervals.

    `roc_auc` and `pr_auc` only for two classes.

    Raises:
        ValueError: The shapes do not agree.
    """
    num_classes = len(class_names)
    if probabilities.shape != (len(labels), num_classes):
        raise ValueError(
            "Every example needs one probability per class. Received: "
            f"{probabilities.shape} for {len(labels)} examples, {num_classes} classes"
        )
    predictions = probabilities.argmax(axis=1)
    per_class = name_scores(score_classes(*_count(labels, predictions, num_classes)))
    pairs = np.bincount(labels * num_classes + predictions, minlength=num_classes**2)
    metrics: SplitMetrics = {
        **summarize(labels, probabilities),
        "ece": expected_calibration_error(labels, probabilities),
        "per_class": dict(zip(class_names, per_class, strict=True)),
        "confusion_matrix": pairs.reshape(num_classes, num_classes).tolist(),
    }
    if num_classes == 2:
        metrics["roc_auc"] = metrics["pr_auc"] = None
        if len(np.unique(labels)) == 2:
            from sklearn.metrics import average_precision_score, roc_auc_score

            scores = probabilities[:, 1]
            metrics["roc_auc"] = float(roc_auc_score(labels, scores))
            metrics["pr_auc"] = float(average_precision_score(labels, scores))
    return metrics


def cross_entropies(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Cross-entropy in nats of each example, float [N]."""
    of_label = probabilities[np.arange(len(labels)), labels]
    return -np.log(np.maximum(of_label, 1e-12))


def _count(
    labels: np.ndarray, predictions: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Correct predictions, predictions and examples of each class: int [K] each."""
    correct = labels[labels == predictions]
    return (
        np.bincount(correct, minlength=num_classes),
        np.bincount(predictions, minlength=num_classes),
        np.bincount(labels, minlength=num_classes),
    )


def score_classes(
    correct: np.ndarray, predicted: np.ndarray, support: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall, F1 and support, [K] each; 0 where undefined.

    Computed from the numbers of examples that were correctly predicted to be of each
    class, that were predicted to be, and that are.
    """
    precision = _divide(correct, predicted)
    recall = _divide(correct, support)
    return precision, recall, _divide(2 * correct, support + predicted), support


def name_scores(scores: Sequence[np.ndarray]) -> list[ClassMetrics]:
    """What `score_classes` returns, by class."""
    rows = zip(*(column.tolist() for column in scores), strict=True)
    return [
        {"precision": precision, "recall": recall, "f1": f1, "support": support}
        for precision, recall, f1, support in rows
    ]


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    zeros = np.zeros(denominator.shape)
    return np.divide(numerator, denominator, out=zeros, where=denominator > 0)


def confidence_intervals(labels: np.ndarray, probabilities: np.ndarray) -> Intervals:
    """Computes 95 % confidence intervals of accuracy and macro F1.

    Of accuracy it is Wilson's score interval, since the bootstrap's has length 0 if no
    prediction is wrong; of macro F1 the percentile bootstrap (Efron and Tibshirani,
    1993, chapter 13).
    """
    predictions = probabilities.argmax(axis=1)
    correct = int((predictions == labels).sum())
    # Resampling examples means drawing how often each (label, prediction) occurs.
    both = np.stack([labels, predictions])
    pairs, counts = np.unique(both, axis=1, return_counts=True)
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(len(labels), counts / len(labels), size=_RESAMPLES)
    scores = [_macro_f1(pairs, times, probabilities.shape[1]) for times in drawn]
    return {
        "accuracy_interval": accuracy_interval(correct, len(labels)),
        "macro_f1_interval": np.percentile(scores, [2.5, 97.5]).tolist(),
    }


def accuracy_interval(correct: int, num_examples: int) -> list[float]:
    """Wilson's 95 % score interval of an accuracy."""
    import scipy.stats

    test = scipy.stats.binomtest(correct, num_examples)
    return [float(bound) for bound in test.proportion_ci(method="wilson")]


def accuracy_standard_error(accuracy: float, num_examples: int) -> float:
    """Standard error of an accuracy, that of a mean of independent answers."""
    return math.sqrt(accuracy * (1 - accuracy) / num_examples)


def _macro_f1(pairs: np.ndarray, counts: np.ndarray, num_classes: int) -> float:
    """Macro F1 of examples; pair i of (label, prediction) occurs `counts[i]` times."""
    labels, predictions = pairs
    correct = labels == predictions
    true_positives = np.bincount(labels[correct], counts[correct], num_classes)
    support = np.bincount(labels, counts, num_classes)
    predicted = np.bincount(predictions, counts, num_classes)
    _, _, f1, _ = score_classes(true_positives, predicted, support)
    return float(f1[support > 0].mean())


def calibration_bins(
    labels: np.ndarray, probabilities: np.ndarray, bins: int = 15
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Computes the bins of a reliability diagram (Guo et al., arXiv 1706.04599).

    They have equal widths. An example's bin is that of its confidence, the largest
    probability. Returned are number of examples, mean confidence and accuracy of each,
    float64 [bins]; the latter two are 0 in empty bins.
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


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean gap between confidence and accuracy in [0, 1], weighted by bin size."""
    counts, confidence, accuracy = calibration_bins(labels, probabilities)
    return float(counts @ np.abs(accuracy - confidence) / len(labels))
