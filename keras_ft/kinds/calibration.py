"""Temperature scaling of probabilities, and thresholds, both set on val."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import scipy.optimize

from keras_ft.evaluation.thresholds import MIN_EXAMPLES
from keras_ft.host.text import counted
from keras_ft.kinds.kind import Thresholds
from keras_ft.kinds.task import Task

BOUNDS = (0.5, 5.0)
# A step of 9 % finds the lowest loss to within a thousandth of it.
_LOWER = [2 ** (-k / 8) for k in range(1, 9)]  # to 0.5
_HIGHER = [2 ** (k / 8) for k in range(1, 19)]  # to nearly 5


@dataclasses.dataclass(frozen=True)
class Calibrated:
    """Probabilities of a task by split, float [N, K], and what was set on val.

    Logits are divided by the temperature; the reason says why none was fitted, if so.
    The task has the thresholds if its answers use them.
    """

    task: Task
    temperature: float
    reason: str
    probabilities: dict[str, np.ndarray]
    thresholds: Thresholds = Thresholds()


def calibrate(
    task: Task, val_target: np.ndarray, probabilities: Mapping[str, np.ndarray]
) -> Calibrated:
    """Fits a temperature on val and applies it to all splits, of which val is one."""
    labelled = task.kind.is_labelled(val_target)
    labels = val_target[labelled]
    temperature, reason = fit_temperature(task, labels, probabilities["val"][labelled])
    calibrated = {
        name: task.kind.rescale(of_split, temperature)
        for name, of_split in probabilities.items()
    }
    chosen = task.kind.choose_thresholds(task, labels, calibrated["val"][labelled])
    if task.kind.decides_by_thresholds:
        task = dataclasses.replace(task, thresholds=chosen.values)
    return Calibrated(task, temperature, reason, calibrated, chosen)


def fit_temperature(
    task: Task, labels: np.ndarray, probabilities: np.ndarray
) -> tuple[float, str]:
    """Fits the temperature of temperature scaling (Guo et al., arXiv 1706.04599).

    Logits are divided by the temperature, which changes no prediction. The fitted one
    minimises the cross-entropy, of examples not trained on, within [0.5, 5]. It is 1,
    and the second result says why, with fewer than 100 examples; or without errors, as
    then the more confident is always the better.
    """
    if len(labels) < MIN_EXAMPLES:
        images = counted(len(labels), "image")
        return 1.0, f"val has {images}, fewer than {MIN_EXAMPLES}"
    if np.array_equal(task.kind.decide(task, probabilities), labels):
        return 1.0, "there is no error on val"
    found = scipy.optimize.minimize_scalar(
        lambda log: _compute_loss(task, labels, probabilities, np.exp(log)),
        bounds=np.log(BOUNDS),
        method="bounded",
    )
    return float(np.exp(found.x)), ""


def calibrated_loss(task: Task, target: np.ndarray, probabilities: np.ndarray) -> float:
    """The loss at the best of 27 temperatures, where a fit finds nearly the same.

    Fine-tuning soon makes a network overconfident, which raises the plain loss while it
    still learns. The plain one is returned where no temperature would be fitted, with
    fewer than 100 labelled examples.
    """
    labelled = task.kind.is_labelled(target)
    labels, probabilities = target[labelled], probabilities[labelled]
    if len(labels) < MIN_EXAMPLES:
        return float(task.kind.compute_losses(labels, probabilities).mean())
    lowest = _compute_loss(task, labels, probabilities, 1.0)
    for temperatures in (_HIGHER, _LOWER):
        for temperature in temperatures:
            loss = _compute_loss(task, labels, probabilities, temperature)
            if loss >= lowest:  # then it rises further: it is convex in 1 / temperature
                break
            lowest = loss
    return lowest


def _compute_loss(
    task: Task, labels: np.ndarray, probabilities: np.ndarray, temperature: float
) -> float:
    rescaled = task.kind.rescale(probabilities, temperature)
    return float(task.kind.compute_losses(labels, rescaled).mean())
