"""`--loss=py:MODULE:NAME`: what it may be, and what it may return."""

import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import make_task

from keras_ft.config.settings import Config
from keras_ft.errors import UserError
from keras_ft.host import user_code
from keras_ft.jobs.train import train
from keras_ft.training.user_loss import load_loss

CODE = """
    import keras
    from keras import ops

    def entropy(labels, logits):
        return ops.categorical_crossentropy(labels, logits, from_logits=True)

    class Entropy(keras.losses.Loss):
        def call(self, labels, logits):
            return entropy(labels, logits)

    instance = keras.losses.CategoricalCrossentropy(from_logits=True)
    OfKeras = keras.losses.CategoricalCrossentropy

    def total(labels, logits):
        return ops.sum(logits)

    def counts(labels, logits):
        return ops.cast(labels[:, 0], "int32")

    def nothing(labels, logits):
        pass

    def of_labels(labels):
        return labels[:, 0]

    class Scaled(keras.losses.Loss):
        def __init__(self, alpha):
            super().__init__()

    number = 7
    class Other: pass
"""
LABELS = np.eye(3, dtype="float32")[[0, 2]]
LOGITS = np.array([[2, 0, 1], [1, 5, 0]], "float32")


@pytest.mark.parametrize("name", ["entropy", "Entropy", "instance", "OfKeras"])
def test_functions_classes_and_instances(write_module, name):
    write_module("mine", CODE)
    expected = keras.losses.CategoricalCrossentropy(from_logits=True)(LABELS, LOGITS)
    loss = tf.function(load_loss(f"py:mine:{name}", make_task(3)))
    np.testing.assert_allclose(loss(LABELS, LOGITS), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "received"),
    [
        ("total", r"float32 \(\)"),
        ("counts", r"int32 \(2,\)"),
        ("nothing", "NoneType"),
        ("number", "7"),
        ("Other", "Other"),
    ],
)
def test_what_is_refused_in_one_line(write_module, name, received):
    write_module("mine", CODE)
    with pytest.raises(
        UserError, match=f"--loss=py:mine:{name}.*Received: .*{received}"
    ) as e:
        load_loss(f"py:mine:{name}", make_task(3))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", ["of_labels", "Scaled"])
def test_the_wrong_arguments_are_shown_with_the_flag(write_module, name):
    write_module("mine", CODE)
    with pytest.raises(TypeError) as raised:
        load_loss(f"py:mine:{name}", make_task(3))
    text = user_code.describe(raised.value)
    assert text.endswith(f"the code of --loss=py:mine:{name} raised this.")


def test_a_loss_that_can_not_be_used_begins_no_run(
    write_module, tiny_flags, fake_training
):
    write_module("mine", CODE)
    with pytest.raises(UserError, match="--loss=py:mine:total must"):
        train(Config(**tiny_flags, loss="py:mine:total"))
    assert not Path(tiny_flags["workdir"], "run.json").exists()


def test_a_finished_run_is_that_of_the_same_code(
    write_module, tiny_flags, fake_training
):
    write_module("mine", CODE)
    config = Config(**tiny_flags, loss="py:mine:entropy")
    metrics = train(config)
    assert train(config) == metrics
    write_module("mine", CODE + "    more = 1")
    del sys.modules["mine"]  # as in another process
    with pytest.raises(UserError, match="The code of --loss has changed"):
        train(config)
    assert fake_training.phases == ["finetune"]
