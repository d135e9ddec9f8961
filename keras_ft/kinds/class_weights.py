"""Weights of classes of different sizes, and a description of the imbalance."""

from collections.abc import Sequence

import numpy as np

_BETA = 0.999  # one of those that Cui et al. try
_MIN_RATIO = 3  # of the largest to the smallest class, worth a log line


def class_weights(counts: np.ndarray) -> np.ndarray:
    """Weights by the effective number of examples (Cui et al., arXiv 1901.05555).

    A class of n examples weighs (1 - beta) / (1 - beta^n), their equation 2, with beta
    0.999: as 1 / n far below 1000 examples, and nearly the same for all n far above.
    They scale the weights to a mean of 1 over the classes. Here it is 1 over the
    examples: else most examples would weigh little where some class is rare, and a
    learning rate would make smaller steps than with equal classes.

    Counts and weights are [K] and > 0.
    """
    weights = (1 - _BETA) / (1 - _BETA ** np.asarray(counts, np.float64))
    return weights / np.average(weights, weights=counts)


def describe_imbalance(
    counts: np.ndarray, class_names: Sequence[str], imbalance: str
) -> str | None:
    """Says in one line how unequal the classes are, and what `--imbalance` does then.

    None if the largest class is less than 3 times the smallest.
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
