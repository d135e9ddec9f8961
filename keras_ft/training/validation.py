"""What training monitors: metrics of `evaluation` on val, and accuracy on train."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ft.data.examples import Examples
from keras_ft.kinds.calibration import calibrated_loss
from keras_ft.kinds.measure import summarize
from keras_ft.kinds.task import Task
from keras_ft.training.phase_result import Probabilities


def compute_val_logs(
    val: Examples, probabilities: Probabilities, weights: Mapping[str, float]
) -> dict[str, float]:
    """Computes what the logs of an epoch say about val.

    Returns:
        `val_loss`, `val_accuracy`, `val_macro_f1`, `val_balanced_accuracy` and
        `val_calibrated_loss`. Of several tasks these are means with `weights`, and
        there are those of each task, as `val_TASK_loss`. Of a network that has
        diverged, `val_loss` alone, NaN.
    """
    if not all(np.isfinite(of_task).all() for of_task in probabilities.values()):
        return {"val_loss": np.nan}
    by_task: dict[str, dict[str, Any]] = {}
    for task, target in zip(val.tasks, val.targets, strict=True):
        of_task = probabilities[task.name]
        values = summarize(task, target, of_task)
        calibrated = calibrated_loss(task, target, of_task)
        by_task[task.name] = values | {"calibrated_loss": calibrated}
    logs = {
        f"val_{name}": sum(weights[task] * by_task[task][name] for task in by_task)
        for name in next(iter(by_task.values()))
    }
    if len(by_task) > 1:
        logs |= {
            f"val_{task}_{name}": value
            for task, values in by_task.items()
            for name, value in values.items()
        }
    return logs


def make_metrics(tasks: Sequence[Task]) -> dict[str, keras.metrics.Metric]:
    """Makes the metric of each task that Keras computes on training batches."""
    return {task.name: _Accuracy(task) for task in tasks}


class _Accuracy(keras.metrics.Mean):
    """Share of the labelled examples whose answers are all right."""

    _direction = "up"  # what a user's `ReduceLROnPlateau(mode="auto")` asks for

    def __init__(self, task: Task):
        super().__init__(name="accuracy")
        self.task = task

    def update_state(self, labels, logits, sample_weight=None):
        is_right = self.task.kind.are_correct(labels, logits)
        super().update_state(is_right, ops.cast(labels[:, 0] >= 0, self.dtype))
