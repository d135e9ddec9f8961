"""How far a classifier's probabilities can be believed: temperature and threshold."""

import numpy as np
import scipy.optimize
import scipy.special
import sklearn.metrics

# What a few examples say about a temperature is mostly noise.
MIN_EXAMPLES = 100
BOUNDS = (0.5, 5.0)
# Probabilities of 0 are tiny ones that float32 can't hold.
_TINY = float(np.finfo(np.float32).tiny)


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, str]:
    """The temperature that makes probabilities fit the labels best.

    Temperature scaling (Guo et al., arXiv 1706.04599): logits are divided by it, which
    changes no prediction. It minimises the cross-entropy, within [0.5, 5].

    Args:
        labels: int [N], of examples that were not trained on.
        probabilities: float [N, K], rows sum to 1.

    Returns:
        The temperature, and why it is 1 where it was not fitted, else an empty string:
        fewer than 100 examples, or no errors, from which any confidence would follow.
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
    # Logits are log probabilities but for a constant, which softmax forgets.
    logits = np.log(np.maximum(probabilities.astype(np.float64), _TINY))
    return scipy.special.softmax(logits / temperature, axis=1)


def choose_threshold(labels: np.ndarray, scores: np.ndarray) -> float:
    """The threshold with the highest balanced accuracy (Youden's index).

    Args:
        labels: int [N], 0 or 1; both occur.
        scores: float [N], probability of class 1.

    Returns:
        In [0, 1]: from it on, class 1 is predicted. It lies halfway between the lowest
        score of those predicted to be 1 and the next one below.
    """
    false, true, thresholds = sklearn.metrics.roc_curve(
        labels, scores, drop_intermediate=False
    )
    best = int((true - false).argmax())
    # The first threshold is infinite: nothing is predicted to be 1.
    upper, lower = [*np.minimum(thresholds, 1.0), 0.0][best : best + 2]
    return float((upper + lower) / 2)
