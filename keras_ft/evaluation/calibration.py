"""Temperature scaling of probabilities, and the threshold between two classes."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import scipy.optimize
import scipy.special
import sklearn.metrics

# A temperature fitted on fewer examples is mostly noise.
MIN_EXAMPLES = 100
BOUNDS = (0.5, 5.0)
# A probability of 0 was one too small for float32.
_TINY = float(np.finfo(np.float32).tiny)


@dataclasses.dataclass(frozen=True)
class Calibrated:
    """A model's probabilities, calibrated on val.

    Attributes:
        temperature: The divisor of the logits.
        reason: Why it is 1 where none was fitted, else empty.
        probabilities: float [N, K] by split: val and test.
    """

    temperature: float
    reason: str
    probabilities: dict[str, np.ndarray]


def calibrate(
    val_labels: np.ndarray, probabilities: Mapping[str, np.ndarray]
) -> Calibrated:
    """Fits a temperature on val and applies it to all splits.

    Args:
        val_labels: int [N].
        probabilities: float [N, K] by split, of which `val` is one.
    """
    temperature, reason = fit_temperature(val_labels, probabilities["val"])
    calibrated = {
        name: apply_temperature(of_split, temperature)
        for name, of_split in probabilities.items()
    }
    return Calibrated(temperature, reason, calibrated)


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, str]:
    """Fits the temperature of temperature scaling (Guo et al., arXiv 1706.04599).

    Logits are divided by the temperature, which changes no prediction. The fitted one
    minimises the cross-entropy within [0.5, 5].

    Args:
        labels: int [N], labels of examples that were not trained on.
        probabilities: float [N, K], rows sum to 1.

    Returns:
        The temperature, and an empty string if it was fitted. Otherwise the temperature
        is 1 and the string is the reason: there are fewer than 100 examples, or no
        errors, and then the more confident is always the better.
    """
    if len(labels) < MIN_EXAMPLES:
        return 1.0, f"val has {len(labels)} images, fewer than {MIN_EXAMPLES}"
    if np.array_equal(probabilities.argmax(axis=1), labels):
        return 1.0, "there is no error on val"

    def loss(log_temperature: float) -> float:
        fitted = apply_temperature(probabilities, np.exp(log_temperature))
        return sklearn.metrics.log_loss(
            labels, fitted, labels=np.arange(probabilities.shape[1])
        )

    found = scipy.optimize.minimize_scalar(
        loss, bounds=np.log(BOUNDS), method="bounded"
    )
    return float(np.exp(found.x)), ""


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax of the logits divided by a temperature.

    Args:
        probabilities: float [N, K], softmax of the logits.
        temperature: > 0.

    Returns:
        float64 [N, K].
    """
    # Logits are log probabilities plus a constant, which softmax cancels.
    logits = np.log(np.maximum(probabilities.astype(np.float64), _TINY))
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
