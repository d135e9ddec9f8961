"""Temperature scaling of probabilities, and the threshold between two classes."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import scipy.optimize
import scipy.special
import sklearn.metrics

from keras_ft.evaluation.multilabel_metrics import (
    choose_thresholds,
    cross_entropies,
    to_logits,
)
from keras_ft.tasks import Task, is_labelled

# A temperature fitted on fewer examples is mostly noise.
MIN_EXAMPLES = 100
BOUNDS = (0.5, 5.0)
# A probability of 0 was one too small for float32.
_TINY = float(np.finfo(np.float32).tiny)


@dataclasses.dataclass(frozen=True)
class Calibrated:
    """A model's probabilities for a task, calibrated on val.

    Attributes:
        task: The task; if it is multilabel, with thresholds chosen on val.
        temperature: The divisor of the logits.
        reason: Why it is 1 where none was fitted, else empty.
        probabilities: float [N, K] by split: val and test.
    """

    task: Task
    temperature: float
    reason: str
    probabilities: dict[str, np.ndarray]


def calibrate(
    task: Task, val_target: np.ndarray, probabilities: Mapping[str, np.ndarray]
) -> Calibrated:
    """Fits a temperature on val and applies it to all splits.

    Args:
        task: The task.
        val_target: The labels of val, see `is_labelled`.
        probabilities: float [N, K] by split, of which `val` is one.
    """
    labelled = is_labelled(val_target)
    labels = val_target[labelled]
    temperature, reason = fit_temperature(task, labels, probabilities["val"][labelled])
    calibrated = {
        name: apply_temperature(task, of_split, temperature)
        for name, of_split in probabilities.items()
    }
    if task.is_multilabel:
        thresholds = choose_thresholds(labels, calibrated["val"][labelled])
        task = dataclasses.replace(task, thresholds=tuple(thresholds.tolist()))
    return Calibrated(task, temperature, reason, calibrated)


def fit_temperature(
    task: Task, labels: np.ndarray, probabilities: np.ndarray
) -> tuple[float, str]:
    """Fits the temperature of temperature scaling (Guo et al., arXiv 1706.04599).

    Logits are divided by the temperature, which changes no prediction. The fitted one
    minimises the cross-entropy within [0.5, 5].

    Args:
        task: The task.
        labels: int [N], or [N, K] if it is multilabel; of examples that were not
            trained on.
        probabilities: float [N, K]; rows sum to 1, unless it is multilabel.

    Returns:
        The temperature, and an empty string if it was fitted. Otherwise the temperature
        is 1 and the string is the reason: there are fewer than 100 examples, or no
        errors, and then the more confident is always the better.
    """
    if len(labels) < MIN_EXAMPLES:
        return 1.0, f"val has {len(labels)} images, fewer than {MIN_EXAMPLES}"
    decide = (probabilities >= 0.5) if task.is_multilabel else probabilities.argmax(1)
    if np.array_equal(decide, labels):
        return 1.0, "there is no error on val"

    def loss(log_temperature: float) -> float:
        fitted = apply_temperature(task, probabilities, np.exp(log_temperature))
        if task.is_multilabel:
            return cross_entropies(labels, fitted).mean()
        return sklearn.metrics.log_loss(
            labels, fitted, labels=np.arange(probabilities.shape[1])
        )

    found = scipy.optimize.minimize_scalar(
        loss, bounds=np.log(BOUNDS), method="bounded"
    )
    return float(np.exp(found.x)), ""


def apply_temperature(
    task: Task, probabilities: np.ndarray, temperature: float
) -> np.ndarray:
    """Probabilities of the logits divided by a temperature.

    Args:
        task: The task.
        probabilities: float [N, K], softmax of the logits, or their sigmoid if it is
            multilabel.
        temperature: > 0.

    Returns:
        float64 [N, K].
    """
    exact = probabilities.astype(np.float64)
    if task.is_multilabel:
        return scipy.special.expit(to_logits(exact) / temperature)
    # Logits are log probabilities plus a constant, which softmax cancels.
    logits = np.log(np.maximum(exact, _TINY))
    return scipy.special.softmax(logits / temperature, axis=1)


def choose_threshold(labels: np.ndarray, scores: np.ndarray) -> float:
    """Chooses the threshold with the highest balanced accuracy (Youden's index).

    Args:
        labels: int [N], 0 or 1; both occur.
        scores: float [N], probability of class 1.

    Returns:
        In [0, 1]. Class 1 is predicted where the score is at least the threshold, which
        lies halfway between the lowest such score and the next lower one.
    """
    false_positive_rate, true_positive_rate, thresholds = sklearn.metrics.roc_curve(
        labels, scores, drop_intermediate=False
    )
    best = int((true_positive_rate - false_positive_rate).argmax())
    # The first threshold is infinite: class 1 is never predicted.
    upper, lower = [*np.minimum(thresholds, 1.0), 0.0][best : best + 2]
    return float((upper + lower) / 2)
