"""Phase finetune, averaged: the mean of the weights of its best epochs."""

import logging
from collections.abc import Callable, Sequence

import keras
import numpy as np

from keras_ft.evaluation.monitor import Monitor
from keras_ft.training.early_stopping import GoodEpoch

log = logging.getLogger("keras_ft")


def average_epochs(
    model: keras.Model,
    epochs: Sequence[GoodEpoch],
    measure_val: Callable[[], dict[str, float]],
    monitor: Monitor,
) -> tuple[float, tuple[int, ...]]:
    """Averages the weights of good epochs, and keeps what is best on val.

    A small val cannot tell the best of several good epochs, and the mean of their
    weights errs less than each: a greedy soup (Wortsman et al., 2022, arXiv 2203.05482)
    of the epochs of one run (Izmailov et al., 2018, arXiv 1803.05407).

    Args:
        model: What was trained; it gets the weights.
        epochs: The best one first. Each other one is added if the mean gets better.
        measure_val: Returns the logs of val for the weights that the model has.
        monitor: What compares models.

    Returns:
        Its value for the weights that the model has afterwards, and the epochs whose
        mean they are, from 1.
    """
    chosen, best = [epochs[0]], epochs[0].value
    for epoch in epochs[1:]:
        model.set_weights(_average([*chosen, epoch]))
        # Of a mean that is useless, there may be the loss alone.
        value = measure_val().get(monitor.name, np.nan)
        if monitor.is_better(value, best):
            chosen, best = [*chosen, epoch], value
    model.set_weights(_average(chosen))
    numbers = tuple(sorted(epoch.epoch + 1 for epoch in chosen))
    if len(numbers) > 1:
        log.info(
            "The mean of the weights of epochs %s has a %s of %s, the best epoch %s.",
            ", ".join(map(str, numbers)),
            monitor.name,
            monitor.format(best),
            monitor.format(epochs[0].value),
        )
    return best, numbers


def _average(epochs: Sequence[GoodEpoch]) -> list[np.ndarray]:
    first, *others = (epoch.weights for epoch in epochs)
    # So written, weights that do not change stay as they are, bit for bit.
    return [
        weight + sum(other[i] - weight for other in others) / len(epochs)
        for i, weight in enumerate(first)
    ]
