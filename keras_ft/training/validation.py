"""What training monitors: metrics of `evaluation` on val, and accuracy on train."""

from collections.abc import Mapping, Sequence

import keras
import numpy as np
from keras import ops

from keras_ft.data.examples import Examples
from keras_ft.evaluation.calibration import apply_temperature
from keras_ft.evaluation.measure import measure
from keras_ft.tasks import Task, is_labelled
from keras_ft.training.phase_result import Probabilities


def compute_val_logs(
    val: Examples, probabilities: Probabilities, weights: Mapping[str, float]
) -> dict[str, float]:
    """Computes what the logs of an epoch say about val.

    Args:
        val: N examples.
        probabilities: float32 [N, K] by task.
        weights: The weight of each task in the means.

    Returns:
        `val_loss`, `val_accuracy`, `val_macro_f1`, `val_balanced_accuracy` and
        `val_calibrated_loss`, the cross-entropy at the best temperature: fine-tuning
        soon makes a network overconfident, which raises the plain loss while it still
        learns. Of several tasks they are means, and there are those of each task. Of
        a network that has diverged, `val_loss` alone, NaN.
    """
    if not all(np.isfinite(of_task).all() for of_task in probabilities.values()):
        return {"val_loss": np.nan}
    by_task = {}
    for task, target in zip(val.tasks, val.targets, strict=True):
        by_task[task.name] = _summarize(task, target, probabilities[task.name])
    names = next(iter(by_task.values()))
    logs = {
        f"val_{name}": sum(weights[task] * by_task[task][name] for task in by_task)
        for name in names
    }
    if len(by_task) > 1:
        logs |= {
            f"val_{task}_{name}": value
            for task, values in by_task.items()
            for name, value in values.items()
        }
    return logs


def _summarize(task, target, probabilities):
    labelled = is_labelled(target)
    metrics = measure(task, target, probabilities)
    found = {
        k: metrics[k] for k in ("loss", "accuracy", "macro_f1", "balanced_accuracy")
    }
    losses = [found["loss"]]
    if labelled.sum() >= 100:
        losses += [
            measure(task, target, apply_temperature(task, probabilities, 2 ** (k / 8)))[
                "loss"
            ]
            for k in range(-8, 19)
        ]
    found["calibrated_loss"] = min(losses)
    return found


def make_metrics(tasks: Sequence[Task]) -> dict[str, keras.metrics.Metric]:
    """Makes the metric of each task that Keras computes on training batches."""
    return {task.name: _Accuracy(task) for task in tasks}


class _Accuracy(keras.metrics.Mean):
    """Share of the labelled examples whose answers are all right.

    Args:
        task: Its labels are float [B, K], -1 for an example without a label.
    """

    def __init__(self, task: Task):
        super().__init__(name="accuracy")
        self.task = task

    def update_state(self, labels, logits, sample_weight=None):
        truth = ops.argmax(labels, axis=-1)
        is_right = ops.cast(truth == ops.argmax(logits, axis=-1), self.dtype)
        super().update_state(is_right, ops.cast(labels[:, 0] >= 0, self.dtype))
