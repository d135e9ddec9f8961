"""Labels and probabilities of a multilabel task -> metrics and thresholds."""

import numpy as np
import scipy.special
import sklearn.metrics

from keras_ft.evaluation.multiclass_metrics import (
    accuracy_interval,
    expected_calibration_error,
)
from keras_ft.evaluation.split_metrics import MultilabelMetrics, TagMetrics
from keras_ft.tasks import Task

_RESAMPLES = 1000
_CHUNK = 100
# Nearest to 0 and 1 that a probability in float32 can tell from them.
_EPSILON = float(np.finfo(np.float32).eps)


def compute_metrics(
    task: Task, labels: np.ndarray, probabilities: np.ndarray
) -> MultilabelMetrics:
    """Computes the metrics of a multilabel task on N examples.

    Args:
        task: With K classes and thresholds; without thresholds they are one half.
        labels: int [N, K], 1 for the classes that apply and 0 for the others, N > 0.
        probabilities: float [N, K].
    """
    predictions = decide(task, probabilities)
    precision, recall, f1, support = sklearn.metrics.precision_recall_fscore_support(
        labels, predictions, average=None, zero_division=0
    )
    occurs = support > 0
    average_precision = [
        _average_precision(truth, scores)
        for truth, scores in zip(labels.T, probabilities.T, strict=True)
    ]
    micro_f1 = sklearn.metrics.f1_score(
        labels, predictions, average="micro", zero_division=0
    )
    defined = [value for value in average_precision if value is not None]
    rows = zip(
        task.class_names,
        average_precision,
        task.thresholds or [0.5] * len(task.class_names),
        *(column.tolist() for column in (precision, recall, f1, support)),
        strict=True,
    )
    return {
        # As scikit-learn's `accuracy_score`: all classes of an image are right.
        "accuracy": float((predictions == labels).all(axis=1).mean()),
        "loss": float(cross_entropies(labels, probabilities).mean()),
        "mean_average_precision": float(np.mean(defined)) if defined else None,
        "macro_f1": float(f1[occurs].mean()) if occurs.any() else 0.0,
        "micro_f1": float(micro_f1),
        "balanced_accuracy": _balanced_accuracy(labels, predictions),
        "ece": _calibration_error(labels, probabilities),
        "per_class": {name: _tag_metrics(*values) for name, *values in rows},
    }


def _tag_metrics(
    average_precision: float | None,
    threshold: float,
    precision: float,
    recall: float,
    f1: float,
    support: int,
) -> TagMetrics:
    return {
        "average_precision": average_precision,
        "threshold": threshold,
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "support": support,
    }


def decide(task: Task, probabilities: np.ndarray) -> np.ndarray:
    """The classes that apply: int [N, K], 1 from the thresholds on."""
    thresholds = np.array(task.thresholds or 0.5)
    return (probabilities >= thresholds).astype(int)


def find_applying(task: Task, probabilities: np.ndarray) -> np.ndarray:
    """The classes that apply, bool of the shape of the probabilities float32 [..., K].

    It compares in float32, as the exported networks do.
    """
    return probabilities >= np.array(task.thresholds, np.float32)


def choose_thresholds(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Chooses for each class the threshold with the highest F1.

    Args:
        labels: int [N, K], 0 or 1.
        probabilities: float [N, K].

    Returns:
        float64 [K] in [0, 1], halfway between the lowest probability that is accepted
        and the next lower one; one half for a class that applies to no example.
    """
    return np.array(
        [
            _choose_threshold(truth, scores) if truth.any() else 0.5
            for truth, scores in zip(labels.T, probabilities.T, strict=True)
        ]
    )


def _choose_threshold(truth: np.ndarray, scores: np.ndarray) -> float:
    order = np.argsort(-scores, kind="stable")
    ordered, correct = scores[order], np.cumsum(truth[order])
    # Of equal scores all are accepted or none.
    last = np.flatnonzero(np.append(ordered[1:] < ordered[:-1], True))
    f1 = 2 * correct[last] / (last + 1 + truth.sum())
    best = last[f1.argmax()]
    lower = ordered[best + 1] if best + 1 < len(ordered) else 0.0
    return float((ordered[best] + lower) / 2)


def macro_f1_interval(
    task: Task, labels: np.ndarray, probabilities: np.ndarray, seed: int = 0
) -> list[float]:
    """95 % percentile bootstrap interval of macro F1 (Efron and Tibshirani, 1993)."""
    predictions = decide(task, probabilities)
    counts = [labels * predictions, predictions, labels]
    correct, predicted, support = (c.astype(np.float32) for c in counts)
    rng = np.random.default_rng(seed)
    scores = []
    for _ in range(0, _RESAMPLES, _CHUNK):
        fractions = np.full(len(labels), 1 / len(labels))
        drawn = rng.multinomial(len(labels), fractions, size=_CHUNK).astype(np.float32)
        occurs = drawn @ support > 0
        f1 = 2 * (drawn @ correct) / np.maximum(drawn @ (predicted + support), 1)
        scores += (f1.sum(axis=1) / np.maximum(occurs.sum(axis=1), 1)).tolist()
    return np.percentile(scores, [2.5, 97.5]).tolist()


def confidence_intervals(
    task: Task, labels: np.ndarray, probabilities: np.ndarray
) -> dict[str, list[float]]:
    """95 % confidence intervals of accuracy and macro F1, see `metrics`."""
    correct = (decide(task, probabilities) == labels).all(axis=1)
    return {
        "accuracy_interval": accuracy_interval(int(correct.sum()), len(labels)),
        "macro_f1_interval": macro_f1_interval(task, labels, probabilities),
    }


def cross_entropies(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Binary cross-entropy in nats of each answer, float64 [N, K]."""
    of_label = np.where(labels > 0, probabilities, 1 - probabilities)
    return -np.log(np.maximum(of_label, 1e-12))


def to_logits(probabilities: np.ndarray) -> np.ndarray:
    """The logits of probabilities, which are at most some 16."""
    return scipy.special.logit(np.clip(probabilities, _EPSILON, 1 - _EPSILON))


def _average_precision(truth: np.ndarray, scores: np.ndarray) -> float | None:
    if not truth.any():
        return None
    return float(sklearn.metrics.average_precision_score(truth, scores))


def _balanced_accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Mean over the classes of the mean recall of the class and of its absence."""
    recalls = []
    for truth, predicted in zip(labels.T, predictions.T, strict=True):
        correct = truth == predicted
        recalls.append(np.mean([correct[truth == v].mean() for v in np.unique(truth)]))
    return float(np.mean(recalls))


def _calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The expected calibration error of all answers, yes or no."""
    yes = probabilities.ravel()
    answers = np.stack([1 - yes, yes], axis=1)
    return expected_calibration_error(labels.ravel(), answers)
