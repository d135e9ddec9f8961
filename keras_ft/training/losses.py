"""The training loss, which can compensate for classes of different sizes.

The options of `--imbalance` change the training loss only. Validation always uses the
plain cross-entropy, so that `val_loss` is comparable between runs of all options.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

_BETA = 0.999  # one of those that Cui et al. try
_MIN_RATIO = 3  # of the largest to the smallest class, worth a log line


def class_weights(counts: np.ndarray) -> np.ndarray:
    """Weights by the effective number of examples (Cui et al., arXiv 1901.05555).

    A class of n examples weighs (1 - beta) / (1 - beta^n), their equation 2, with beta
    0.999: as 1 / n far below 1000 examples, and nearly the same for all n far above.
    They scale the weights to a mean of 1 over the classes. Here it is 1 over the
    examples: else most examples would weigh little where some class is rare, and a
    learning rate would make smaller steps than with equal classes.

    Args:
        counts: int [K], training examples by class, all > 0.

    Returns:
        float64 [K], > 0. With equal counts all are 1.
    """
    weights = (1 - _BETA) / (1 - _BETA ** np.asarray(counts, np.float64))
    return weights / np.average(weights, weights=counts)


def make_training_loss(imbalance: str, counts: np.ndarray) -> keras.losses.Loss:
    """Makes the loss of training.

    Args:
        imbalance: `none` (cross-entropy), `class_weights` (times the weight of the
            example's class), `focal` or `logit_adjustment`.
        counts: int [K], training examples by class, all > 0.

    Returns:
        A loss of labels float [B, K], one-hot and perhaps smoothed, and logits [B, K];
        a float32 scalar, the mean over the examples. Like all of Keras's losses it
        computes in float32 whatever the logits are, and is divided by the number of
        devices that share a batch.

    Raises:
        ValueError: There is no such option.
    """
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


def describe_imbalance(
    counts: np.ndarray, class_names: Sequence[str], imbalance: str
) -> str | None:
    """Describes how unequal the classes are, and what training does about it.

    Args:
        counts: int [K], training examples by class, all > 0.
        class_names: K names.
        imbalance: As for `make_training_loss`.

    Returns:
        One line, or None if the largest class is less than 3 times the smallest.
    """
    largest, smallest = int(np.argmax(counts)), int(np.argmin(counts))
    ratio = counts[largest] / counts[smallest]
    if ratio < _MIN_RATIO:
        return None
    weights = class_weights(counts)
    done = {
        "none": "gives every image the same weight. See --imbalance.",
        "class_weights": "weighs images by class, from "
        f"{weights[largest]:.2g} to {weights[smallest]:.2g}.",
        "focal": "weighs an image less, the more confident its correct prediction is.",
        "logit_adjustment": "makes predictions treat all classes as equally frequent.",
    }[imbalance]
    return (
        f"Imbalanced: {counts[largest]} training images of {class_names[largest]!r}, "
        f"{counts[smallest]} of {class_names[smallest]!r} ({ratio:.1f} to 1); "
        f"--imbalance={imbalance} {done}"
    )
