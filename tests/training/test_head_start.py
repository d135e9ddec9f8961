import dataclasses

import keras
import numpy as np
import pytest
from helpers import make_examples

from keras_ft.config.recipe import resolve
from keras_ft.config.settings import Config
from keras_ft.training.head_start import shrink_heads


@pytest.mark.parametrize(
    ("flags", "weight", "share"),
    [
        ({}, 0.05, 0.1),  # 30 epochs of 4 steps
        ({"finetune_learning_rate": 1e-4}, 0.05, 0.1),
        ({"finetune_learning_rate": 3e-5}, 0.05, 1.0),
        ({"finetune_epochs": 5}, 0.05, 1.0),
        ({"finetune_learning_rate": 1e-3, "optimizer": "sgd"}, 0.05, 0.1),
        ({}, 1.0, 1.0),
        ({"finetune_learning_rate": 1e-3, "optimizer": "sgd"}, 1.0, 0.1),
    ],
)
def test_a_phase_that_can_regain_the_head_begins_with_a_share_of_it(
    flags, weight, share
):
    examples = make_examples(["a"] * 100, None, np.arange(100) % 2, ["x", "y"])
    examples = dataclasses.replace(examples, splits=np.full(100, "train", object))
    recipe = resolve(Config(data="d", workdir="w", **flags))
    phase = recipe.make_phases(100)[-1]
    inputs = keras.Input([3])
    dense = keras.layers.Dense(2, name="head")
    classifier = keras.Model(inputs, dense(inputs))
    before = [np.full(array.shape, weight) for array in dense.get_weights()]
    dense.set_weights(before)
    shrink_heads(recipe, phase, examples, classifier)
    for old, new in zip(before, dense.get_weights(), strict=True):
        np.testing.assert_allclose(new, share * old, rtol=1e-6)
