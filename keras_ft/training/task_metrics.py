"""Metrics of a task during training, of all examples since the epoch began."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_ft.kinds.calibration import BOUNDS, MIN_EXAMPLES
from keras_ft.kinds.task import MULTILABEL, Task

NAMES = ("accuracy", "macro_f1", "balanced_accuracy", "calibrated_loss")
# A step of 9 % finds the lowest loss to within a thousandth of it. 1 is among them.
_EXPONENTS = np.arange(8 * np.log2(BOUNDS[0]), 8 * np.log2(BOUNDS[1]))
_TEMPERATURES = (2 ** (_EXPONENTS / 8)).astype("float32")  # [T]
_UNCALIBRATED = _TEMPERATURES.tolist().index(1.0)


class TaskMetrics(keras.metrics.Metric):
    """Accuracy, macro F1, balanced accuracy and calibrated loss of one task.

    All are computed over the whole set, as `evaluation` does: means over the classes
    that occur. A mean over batches would differ. Three counts per class suffice, so
    1000 classes cost no more than their logits. A class of a multilabel task is
    predicted from a probability of one half on. With several tasks there is also the
    cross-entropy `loss`, and the task's name precedes those of the metrics.

    The calibrated loss is the cross-entropy at the best of 27 temperatures, where
    `calibration.fit_temperature` would fit one: fine-tuning soon makes a network
    overconfident, which raises the plain loss while it still learns.

    Args:
        task: The task.
        tasks: All tasks.
    """

    def __init__(self, task: Task, tasks: Sequence[Task]):
        super().__init__(name=f"{task.name}_metrics")
        self.task = task
        self.is_one_of_several = len(tasks) > 1
        # Keras adds up the variables of a metric over the devices.
        num_classes = (len(task.class_names),)
        self.labelled = self.add_variable(num_classes, "zeros", name="labelled")
        self.predicted = self.add_variable(num_classes, "zeros", name="predicted")
        self.correct = self.add_variable(num_classes, "zeros", name="correct")
        self.num_examples = self.add_variable((), "zeros", name="num_examples")
        self.num_correct = self.add_variable((), "zeros", name="num_correct")
        self.sum_losses = self.add_variable(
            (len(_TEMPERATURES),), "zeros", name="sum_losses"
        )

    def update_state(self, labels, logits, sample_weight=None):
        """Counts a batch: labels and logits float [B, K]. Takes no weights."""
        is_labelled = ops.cast(labels[:, :1] >= 0, self.dtype)  # [B, 1]
        truth = self._decide(labels, 0.5) * is_labelled
        predictions = self._decide(ops.cast(logits, self.dtype), 0.0) * is_labelled
        is_correct = ops.all(truth == predictions, axis=-1, keepdims=True)
        for state, batch in (
            (self.labelled, truth),
            (self.predicted, predictions),
            (self.correct, truth * predictions),
        ):
            state.assign(state + ops.sum(batch, axis=0))
        for state, batch in (
            (self.num_examples, is_labelled),
            (self.num_correct, ops.cast(is_correct, self.dtype) * is_labelled),
        ):
            state.assign(state + ops.sum(batch))
        losses = self._compute_losses(labels, logits) * is_labelled[:, 0]  # [T, B]
        self.sum_losses.assign(self.sum_losses + ops.sum(losses, axis=1))

    def _decide(self, scores, threshold):
        """The classes of each example: 1, or 0 for the others, [B, K]."""
        if self.task.kind == MULTILABEL:
            return ops.cast(scores > threshold, self.dtype)
        num_classes = len(self.task.class_names)
        return ops.one_hot(ops.argmax(scores, axis=-1), num_classes, dtype=self.dtype)

    def _compute_losses(self, labels, logits):
        """The cross-entropy of each example at each temperature, [T, B]."""
        logits = ops.cast(logits, self.dtype) / _TEMPERATURES[:, None, None]
        labels = ops.broadcast_to(ops.maximum(labels, 0), ops.shape(logits))
        if self.task.kind == MULTILABEL:
            losses = ops.binary_crossentropy(labels, logits, from_logits=True)
            return ops.mean(losses, axis=-1)
        return ops.categorical_crossentropy(labels, logits, from_logits=True)

    def result(self):
        """The metrics, in [0, 1] but for the loss; 0 before any example."""
        labelled, predicted, correct = self.labelled, self.predicted, self.correct
        occurs = ops.cast(labelled > 0, self.dtype)
        # A class that does not occur has no correct prediction, so it adds 0.
        recall = ops.divide_no_nan(correct, labelled)
        f1 = ops.divide_no_nan(2 * correct, labelled + predicted)
        if self.task.kind == MULTILABEL:
            absent = self.num_examples - labelled
            rejected = absent - predicted + correct
            occurs_not = ops.cast(absent > 0, self.dtype)
            specificity = ops.divide_no_nan(rejected, absent)
            recalls = ops.divide_no_nan(recall + specificity, occurs + occurs_not)
            balanced_accuracy = ops.mean(recalls)
        else:
            balanced_accuracy = _mean_over(recall, occurs)
        losses = ops.divide_no_nan(self.sum_losses, self.num_examples)
        loss = losses[_UNCALIBRATED]
        calibrated = ops.where(self.num_examples < MIN_EXAMPLES, loss, ops.min(losses))
        metrics = {
            "accuracy": ops.divide_no_nan(self.num_correct, self.num_examples),
            "macro_f1": _mean_over(f1, occurs),
            "balanced_accuracy": balanced_accuracy,
            "calibrated_loss": calibrated,
        }
        if not self.is_one_of_several:
            return metrics
        metrics["loss"] = loss
        return {f"{self.task.name}_{name}": value for name, value in metrics.items()}


def _mean_over(values, occurs):
    """The mean over the classes that occur, which are 1 in `occurs`."""
    return ops.divide_no_nan(ops.sum(values * occurs), ops.sum(occurs))
