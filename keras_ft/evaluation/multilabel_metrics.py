"""Labels and probabilities of a multilabel task -> metrics.

Labels are int [N, K], 1 for the classes that apply to an example and 0 for the others,
N > 0. Thresholds are K numbers, or empty for one half.
"""

from collections.abc import Sequence

import numpy as np

from keras_ft.evaluation.multiclass_metrics import (
    accuracy_interval,
    expected_calibration_error,
    name_scores,
    score_classes,
)
from keras_ft.evaluation.split_metrics import (
    Averages,
    Intervals,
    MultilabelMetrics,
)

_RESAMPLES = 1000
_CHUNK = 100


def summarize(
    labels: np.ndarray, probabilities: np.ndarray, thresholds: Sequence[float] = ()
) -> Averages:
    """Computes the metrics that `--monitor` may select by."""
    applies, decided = labels > 0, decide(probabilities, thresholds)
    _, recall, f1, support = score_classes(*_count(applies, decided))
    occurs, occurs_not = support > 0, support < len(labels)
    _, specificity, _, _ = score_classes(*_count(~applies, ~decided))
    recalls = (recall + specificity) / (occurs.astype(int) + occurs_not)
    return {
        # As scikit-learn's `accuracy_score`: all classes of an image are right.
        "accuracy": float((decided == applies).all(axis=1).mean()),
        "loss": float(cross_entropies(labels, probabilities).mean()),
        "macro_f1": float(f1[occurs].mean()) if occurs.any() else 0.0,
        "balanced_accuracy": float(recalls.mean()),
    }


def compute_metrics(
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    thresholds: Sequence[float] = (),
) -> MultilabelMetrics:
    """Computes the metrics of a multilabel task, without intervals."""
    from sklearn.metrics import average_precision_score  # see `multiclass_metrics`

    counts = _count(labels > 0, decide(probabilities, thresholds))
    average_precision = [
        float(average_precision_score(truth, scores)) if truth.any() else None
        for truth, scores in zip(labels.T, probabilities.T, strict=True)
    ]
    defined = [value for value in average_precision if value is not None]
    _, _, [micro_f1], _ = score_classes(*(count.sum(keepdims=True) for count in counts))
    per_class = name_scores(score_classes(*counts))
    cut_offs = thresholds or [0.5] * len(class_names)
    rows = zip(class_names, average_precision, cut_offs, per_class, strict=True)
    return {
        **summarize(labels, probabilities, thresholds),
        "mean_average_precision": float(np.mean(defined)) if defined else None,
        "micro_f1": float(micro_f1),
        "ece": expected_calibration_error(*to_choices(labels, probabilities)),
        "per_class": {
            name: {"average_precision": average, "threshold": threshold, **scores}
            for name, average, threshold, scores in rows
        },
    }


def _count(
    applies: np.ndarray, decided: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Correct decisions for, decisions for and examples of each class: int [K] each."""
    correct = (applies & decided).sum(axis=0)
    return correct, decided.sum(axis=0), applies.sum(axis=0)


def decide(probabilities: np.ndarray, thresholds: Sequence[float] = ()) -> np.ndarray:
    """The classes that apply: bool, of the shape of the probabilities [..., K].

    It compares in float32, as the exported networks do.
    """
    return probabilities.astype(np.float32) >= np.array(thresholds or 0.5, np.float32)


def confidence_intervals(
    labels: np.ndarray, probabilities: np.ndarray, thresholds: Sequence[float] = ()
) -> Intervals:
    """As `multiclass_metrics.confidence_intervals`."""
    decided = decide(probabilities, thresholds)
    all_right = (decided == labels).all(axis=1)
    counts = [labels * decided, decided, labels]
    correct, predicted, support = (c.astype(np.float32) for c in counts)
    rng = np.random.default_rng(0)
    scores = []
    for _ in range(0, _RESAMPLES, _CHUNK):
        fractions = np.full(len(labels), 1 / len(labels))
        drawn = rng.multinomial(len(labels), fractions, size=_CHUNK).astype(np.float32)
        occurs = drawn @ support > 0
        f1 = 2 * (drawn @ correct) / np.maximum(drawn @ (predicted + support), 1)
        scores += (f1.sum(axis=1) / np.maximum(occurs.sum(axis=1), 1)).tolist()
    return {
        "accuracy_interval": accuracy_interval(int(all_right.sum()), len(labels)),
        "macro_f1_interval": np.percentile(scores, [2.5, 97.5]).tolist(),
    }


def cross_entropies(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Binary cross-entropy in nats of each answer, float [N, K]."""
    of_label = np.where(labels > 0, probabilities, 1 - probabilities)
    return -np.log(np.maximum(of_label, 1e-12))


def to_choices(
    labels: np.ndarray, probabilities: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """All answers as a choice of no and yes: int [N * K] and float [N * K, 2]."""
    yes = probabilities.ravel()
    return labels.ravel(), np.stack([1 - yes, yes], axis=1)
