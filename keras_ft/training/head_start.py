"""The head that phase finetune begins with."""

import logging

import keras
import numpy as np

from keras_ft.config.recipe import Phase, Recipe
from keras_ft.data.examples import Examples
from keras_ft.models.heads import get_heads

log = logging.getLogger("keras_ft")

_SHARE = 0.1
# How far the phase must be able to move weights: by a number, and by a part of the mean
# absolute weight.
_LEAST_MOVE, _LEAST_PART = 0.01, 1 / 15


def shrink_heads(
    recipe: Recipe, phase: Phase, examples: Examples, classifier: keras.Model
) -> None:
    """Divides the weights of the heads by ten, if the phase can regain them.

    A head that fits leaves next to no loss, and its large weights distort the features
    once the network is trained (Ren et al., arXiv 2302.05779). With a tenth of them it
    predicts the same classes, and the network learns more. Other phases, short ones,
    begin with all of their weights. docs/defaults.md has the measurements.
    """
    heads = get_heads(classifier, examples.tasks).values()
    steps = phase.epochs * recipe.steps_per_epoch(len(examples.train))
    least = _LEAST_MOVE
    # Adam moves a weight by at most about the learning rate in each step, SGD also by
    # more: with all of a large head it diverges.
    if recipe.train.optimizer != "sgd":
        size = np.mean([np.mean(np.abs(head.get_weights()[0])) for head in heads])
        least = max(least, _LEAST_PART * size)
    if phase.learning_rate * steps >= least:
        log.info("Phase %s begins with a tenth of the weights of the head.", phase.name)
        for head in heads:
            head.set_weights([_SHARE * array for array in head.get_weights()])
