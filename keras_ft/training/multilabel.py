"""Losses of multilabel tasks, in which every class is a question of its own."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ft.training.class_weights import class_weights


def make_loss(
    imbalance: str, counts: np.ndarray, num_examples: int
) -> keras.losses.Loss:
    """Makes the loss of a multilabel task, see `losses.make_loss`."""
    if imbalance == "none":
        return keras.losses.BinaryCrossentropy(from_logits=True)
    if imbalance == "class_weights":
        return WeightedBinaryLoss(*make_weights(counts, num_examples))
    if imbalance == "focal":
        return BinaryFocalLoss()
    if imbalance == "logit_adjustment":
        # Half an example at least, for classes that apply to none or to all.
        prior = np.clip(counts, 0.5, num_examples - 0.5) / num_examples
        return AdjustedBinaryLoss(prior)
    raise ValueError(
        "imbalance must be none, class_weights, focal or logit_adjustment. "
        f"Received: imbalance={imbalance}"
    )


def make_weights(
    counts: np.ndarray, num_examples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the examples to which a class applies, and of the others.

    They are those of `class_weights` for each class and its absence.

    Args:
        counts: int [K], examples by class.
        num_examples: Number of examples.

    Returns:
        float64 [K] each.
    """
    pairs = [
        class_weights(np.maximum([count, num_examples - count], 1)) for count in counts
    ]
    applies, others = np.transpose(pairs)
    return applies, others


class WeightedBinaryLoss(keras.losses.Loss):
    """Binary cross-entropy times the weight of the answer, mean over the classes.

    Args:
        applies: float [K], weights of examples to which a class applies.
        others: float [K], weights of the others.
    """

    def __init__(self, applies: np.ndarray, others: np.ndarray):
        super().__init__()
        self.applies = applies.astype(np.float32)
        self.others = others.astype(np.float32)

    def call(self, labels, logits):
        weights = ops.where(labels > 0.5, self.applies, self.others)
        return ops.mean(weights * _cross_entropies(labels, logits), axis=-1)


class BinaryFocalLoss(keras.losses.Loss):
    """Focal loss with gamma 2 and no alpha (Lin et al., arXiv 1708.02002)."""

    def call(self, labels, logits):
        yes, no = ops.log_sigmoid(logits), ops.log_sigmoid(-logits)
        of_yes = labels * ops.square(ops.exp(no)) * yes
        of_no = (1 - labels) * ops.square(ops.exp(yes)) * no
        return -ops.mean(of_yes + of_no, axis=-1)


class AdjustedBinaryLoss(keras.losses.Loss):
    """Binary cross-entropy of the logits + log odds of the prior.

    As `losses.LogitAdjustedLoss`, for each class and its absence.

    Args:
        prior: float [K] in (0, 1), fraction of examples to which a class applies.
    """

    def __init__(self, prior: np.ndarray):
        super().__init__()
        self.log_odds = np.log(prior / (1 - prior)).astype(np.float32)

    def call(self, labels, logits):
        return ops.mean(_cross_entropies(labels, logits + self.log_odds), axis=-1)


def _cross_entropies(labels: Any, logits: Any) -> Any:
    return ops.binary_crossentropy(labels, logits, from_logits=True)
