"""Thresholds of probabilities, chosen on val where they are better than one half.

A threshold is for one class, which is predicted from it on. `truth`, bool [N], says of
which examples that would be right; `scores`, float [N], are their probabilities.
"""

from collections.abc import Callable

import numpy as np

from keras_ft.host.text import counted

# What is fitted on fewer examples is mostly noise.
MIN_EXAMPLES = 100
# Examples of the class, and others, that a threshold needs.
_MIN_OF_EACH = 10
_FOLDS, _RESAMPLES = 5, 1000

# From the numbers of true positives, false positives, positives and negatives.
Criterion = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def balanced_accuracy(
    true: np.ndarray, false: np.ndarray, positives: np.ndarray, negatives: np.ndarray
) -> np.ndarray:
    """Mean recall of the class and of the others."""
    specificity = 1 - false / np.maximum(negatives, 1)
    return (true / np.maximum(positives, 1) + specificity) / 2


def f1(
    true: np.ndarray, false: np.ndarray, positives: np.ndarray, negatives: np.ndarray
) -> np.ndarray:
    """F1 of the class."""
    return 2 * true / np.maximum(true + false + positives, 1)


def choose_threshold(
    truth: np.ndarray, scores: np.ndarray, criterion: Criterion
) -> tuple[float, str]:
    """Chooses the threshold with the highest criterion, if it can be trusted.

    It is one half, and the second result says why, with too few examples, or if it is
    not better than one half by more than the standard error of the gain. The gain is
    that of 5-fold cross-validation: on the examples that it was chosen on, the best of
    many thresholds is always better.
    """
    if len(truth) < MIN_EXAMPLES:
        return 0.5, f"val has {counted(len(truth), 'image')}, fewer than {MIN_EXAMPLES}"
    if min(truth.sum(), (~truth).sum()) < _MIN_OF_EACH:
        return 0.5, f"val has fewer than {_MIN_OF_EACH} images with or without it"
    decided = _cross_validate(truth, scores, criterion)
    if not _is_better(truth, decided, scores >= 0.5, criterion):
        return 0.5, "on val it is not better than one half by more than the noise"
    return find_best(truth, scores, criterion), ""


def find_best(truth: np.ndarray, scores: np.ndarray, criterion: Criterion) -> float:
    """The threshold with the highest criterion on these examples, in [0, 1].

    It is halfway from the lowest score that is accepted to the next lower one.
    """
    order = np.argsort(-scores, kind="stable")
    ordered, true = scores[order], np.cumsum(truth[order])
    # Of equal scores all are accepted or none.
    last = np.flatnonzero(np.append(ordered[1:] < ordered[:-1], True))
    true, false = true[last], last + 1 - true[last]
    best = last[criterion(true, false, truth.sum(), (~truth).sum()).argmax()]
    lower = ordered[best + 1] if best + 1 < len(ordered) else 0.0
    return float((ordered[best] + lower) / 2)


def _cross_validate(
    truth: np.ndarray, scores: np.ndarray, criterion: Criterion
) -> np.ndarray:
    """Decisions, bool [N], each by a threshold chosen on other examples."""
    from sklearn.model_selection import StratifiedKFold  # takes a while to import

    decided = np.empty(len(truth), bool)
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
    for others, fold in folds.split(scores, truth):
        threshold = find_best(truth[others], scores[others], criterion)
        decided[fold] = scores[fold] >= threshold
    return decided


def _is_better(
    truth: np.ndarray, decided: np.ndarray, plain: np.ndarray, criterion: Criterion
) -> bool:
    """Whether decisions gain more over plain ones than the standard error of that.

    It is the bootstrap's: resampling examples means drawing how often each combination
    of truth and both decisions occurs.
    """
    counts = np.bincount(truth * 4 + decided * 2 + plain, minlength=8)
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(len(truth), counts / len(truth), size=_RESAMPLES)
    others, positives = np.moveaxis(
        np.concatenate([[counts], drawn]).reshape(-1, 2, 2, 2), 1, 0
    )
    totals = positives.sum(axis=(1, 2)), others.sum(axis=(1, 2))
    with_, without = (
        criterion(positives.sum(axis)[:, 1], others.sum(axis)[:, 1], *totals)
        for axis in (2, 1)
    )
    gain, *resampled = with_ - without
    return gain > np.std(resampled)
