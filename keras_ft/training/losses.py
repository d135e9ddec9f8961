"""The training loss, which can compensate for classes of different sizes.

The options of `--imbalance` change the training loss only. Validation always uses the
plain cross-entropy, so that `val_loss` is comparable between runs of all options.

A task's loss of an example that is not labelled for it is 0, and that of the others is
divided by the fraction of the examples that are labelled. So the mean over all examples
of a split is the mean over its labelled ones, however they fall into batches and onto
devices.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ft.data.examples import Examples
from keras_ft.tasks import Task, count_classes, is_labelled
from keras_ft.training import multilabel
from keras_ft.training.class_weights import class_weights
from keras_ft.training.user_loss import load_loss


def make_losses(
    examples: Examples, imbalance: str, own: str = "auto"
) -> dict[str, keras.losses.Loss]:
    """Makes the loss of each task on the examples of a split.

    Args:
        examples: N examples.
        imbalance: As for `make_loss`.
        own: The reference of a loss of the user's instead, see `load_loss`; or `auto`.

    Returns:
        Losses of labels float [B, K], of an example that is not labelled -1, and logits
        [B, K]: a float32 scalar.
    """
    losses = {}
    for task, target in zip(examples.tasks, examples.targets, strict=True):
        counts = count_classes(task, target)
        labelled = is_labelled(target)
        loss = load_loss(own, task) if own != "auto" else None
        loss = loss or make_loss(task, imbalance, counts, int(labelled.sum()))
        fraction = float(labelled.mean())
        losses[task.name] = loss if fraction == 1 else LabelledLoss(loss, fraction)
    return losses


def make_loss(
    task: Task, imbalance: str, counts: np.ndarray, num_examples: int
) -> keras.losses.Loss:
    """Makes the loss of a task.

    Args:
        task: With K classes.
        imbalance: `none` (cross-entropy), `class_weights` (times the weight of the
            example's class), `focal` or `logit_adjustment`. In a multilabel task every
            class is a question of its own, between the class and its absence.
        counts: int [K], examples by class, > 0 unless `imbalance` is `none`.
        num_examples: Number of examples that are labelled for the task.

    Returns:
        A loss of labels float [B, K], which may be smoothed, and logits [B, K]; a
        float32 scalar, the mean over the examples. Like all of Keras's losses it
        computes in float32 whatever the logits are, and is divided by the number of
        devices that share a batch.

    Raises:
        ValueError: There is no such option.
    """
    if task.is_multilabel:
        return multilabel.make_loss(imbalance, counts, num_examples)
    if imbalance == "none":
        return keras.losses.CategoricalCrossentropy(from_logits=True)
    if imbalance == "class_weights":
        return WeightedLoss(class_weights(counts))
    if imbalance == "focal":
        return FocalLoss()
    if imbalance == "logit_adjustment":
        return LogitAdjustedLoss(counts / np.sum(counts))
    raise ValueError(
        "imbalance must be none, class_weights, focal or logit_adjustment. "
        f"Received: imbalance={imbalance}"
    )


class LabelledLoss(keras.losses.Loss):
    """A loss of the labelled examples only.

    Args:
        loss: The loss of labelled examples.
        fraction: Fraction of the examples that are labelled, in (0, 1].
    """

    def __init__(self, loss: keras.losses.Loss, fraction: float):
        super().__init__()
        self.loss = loss
        self.fraction = fraction

    def call(self, labels, logits):
        of_example = self.loss.call(ops.maximum(labels, 0), logits)
        # A product, since the gradient of TensorFlow's cross-entropy is not 0 where all
        # labels are 0.
        is_labelled = ops.cast(labels[:, 0] >= 0, of_example.dtype)
        return is_labelled * of_example / self.fraction


class WeightedLoss(keras.losses.Loss):
    """Cross-entropy times the weight of the example's class.

    Args:
        weights: float [K].
    """

    def __init__(self, weights: np.ndarray):
        super().__init__()
        self.weights = weights.astype(np.float32)

    def call(self, labels, logits):
        # A smoothed label still has its maximum at the example's class.
        of_example = ops.take(self.weights, ops.argmax(labels, axis=-1))
        return of_example * _cross_entropy(labels, logits)


class FocalLoss(keras.losses.Loss):
    """Focal loss with gamma 2 and no alpha (Lin et al., arXiv 1708.02002).

    Keras's own clips probabilities at 1e-7, and so an example whose class is that
    unlikely, which this loss is all about, would teach nothing.
    """

    def call(self, labels, logits):
        log_probabilities = ops.log_softmax(logits)
        doubt = ops.square(1 - ops.exp(log_probabilities))
        return -ops.sum(labels * doubt * log_probabilities, axis=-1)


class LogitAdjustedLoss(keras.losses.Loss):
    """Cross-entropy of the logits + log prior (Menon et al., arXiv 2007.07314).

    Their tau is 1. In training the prior explains how frequent a class is, so the
    logits need not: by themselves, as in prediction, they rank the classes as if all
    were equally frequent, which is what balanced accuracy asks for.

    Args:
        prior: float [K], > 0, sums to 1.
    """

    def __init__(self, prior: np.ndarray):
        super().__init__()
        self.log_prior = np.log(prior).astype(np.float32)

    def call(self, labels, logits):
        return _cross_entropy(labels, logits + self.log_prior)


def _cross_entropy(labels: Any, logits: Any) -> Any:
    return ops.categorical_crossentropy(labels, logits, from_logits=True)
