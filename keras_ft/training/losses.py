"""The training loss, which can compensate for classes of different sizes.

The options of `--imbalance` change the training loss only. Validation always uses the
plain cross-entropy, so that `val_loss` is comparable between runs of all options.

A task's loss of an example that is not labelled for it is 0, and that of the others is
divided by the fraction of the examples that are labelled. So the mean over all examples
of a split is the mean over its labelled ones, however they fall into batches and onto
devices.
"""

import logging

import keras
import numpy as np
from keras import ops

from keras_ft.data.examples import Examples
from keras_ft.kinds.class_weights import describe_imbalance
from keras_ft.kinds.kind import Loss
from keras_ft.kinds.task import is_plain
from keras_ft.training.user_loss import load_loss

log = logging.getLogger("keras_ft")


def make_losses(
    examples: Examples, imbalance: str, own: str = "auto"
) -> dict[str, keras.losses.Loss]:
    """Makes the loss of each task on the examples of a split, see `LabelledLoss`.

    Args:
        imbalance: One of the `losses` of a kind. A class that does not occur is allowed
            with `none`.
        own: A reference to the user's loss, see `load_loss`; `auto`: by `imbalance`.
    """
    losses = {}
    for task, target in zip(examples.tasks, examples.targets, strict=True):
        labelled = task.kind.is_labelled(target)
        if own == "auto":
            make_loss = task.kind.losses[imbalance]
            loss = make_loss(task.count_classes(target), int(np.sum(labelled)))
        else:
            loss = load_loss(own, task).call
        losses[task.name] = LabelledLoss(loss, float(np.mean(labelled)))
    return losses


def log_imbalance(train: Examples, imbalance: str) -> None:
    """Logs `describe_imbalance` of each task whose classes are unequal."""
    for name, of_task in train.by_task.items():
        counts = of_task.count_classes()
        text = describe_imbalance(counts, of_task.class_names, imbalance)
        if text:
            log.info("%s", text if is_plain(train.tasks) else f"{name}: {text}")


class LabelledLoss(keras.losses.Loss):
    """The loss of labels, which may be smoothed, and logits: float [B, K] both.

    It is the mean over the examples, a float32 scalar; the labels of an example without
    one are -1. Like all of Keras's losses it computes in float32 whatever the logits
    are, and is divided by the number of devices that share a batch. `loss` is that of
    each labelled example, and `fraction` of all examples are labelled, in (0, 1].
    """

    def __init__(self, loss: Loss, fraction: float = 1.0):
        super().__init__()
        self.loss = loss
        self.fraction = fraction

    def call(self, labels, logits):
        if self.fraction == 1:
            return self.loss(labels, logits)
        of_example = self.loss(ops.maximum(labels, 0), logits)
        # A product, since the gradient of TensorFlow's cross-entropy is not 0 where all
        # labels are 0.
        is_labelled = ops.cast(labels[:, 0] >= 0, of_example.dtype)
        return is_labelled * of_example / self.fraction
