import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_ft.config.recipe import Phase, TrainRecipe
from keras_ft.training.optimizer import Adam, make_optimizer, make_schedule

PLAIN = TrainRecipe(schedule="constant", warmup_epochs=0, weight_decay=0.0)
PHASE = Phase("finetune", epochs=10, learning_rate=0.5, stages=("conv1",))


def rates(warmup_epochs=0, **fields):
    train = TrainRecipe(warmup_epochs=warmup_epochs, **fields)
    schedule = make_schedule(train, PHASE, steps_per_epoch=4)
    return [float(schedule(step)) for step in range(41)]


def test_constant_schedule_is_the_rate_itself():
    assert make_schedule(PLAIN, PHASE, 4) == 0.5


def test_cosine_falls_from_peak_to_zero():
    values = rates(schedule="cosine")
    assert values[0] == pytest.approx(0.5)
    assert values[20] == pytest.approx(0.25)
    assert values[40] == pytest.approx(0, abs=1e-7)


def test_warm_up_rises_from_zero_to_the_peak_then_falls():
    values = rates(schedule="cosine", warmup_epochs=2)
    assert values[0] == 0
    assert values[4] == pytest.approx(0.25)
    assert values[8] == pytest.approx(0.5)
    assert values[24] == pytest.approx(0.25)
    assert values[40] == pytest.approx(0, abs=1e-7)


def test_warm_up_is_at_most_half_of_the_phase():
    values = rates(schedule="cosine", warmup_epochs=99)
    assert values[10] == pytest.approx(0.25)
    assert values[20] == pytest.approx(0.5)
    assert values[40] == pytest.approx(0, abs=1e-7)


def test_warm_up_alone_then_stays():
    values = rates(schedule="constant", warmup_epochs=2)
    assert values[4] == pytest.approx(0.25)
    np.testing.assert_allclose(values[8:], 0.5)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("sgd", keras.optimizers.SGD), ("adam", Adam)],
)
def test_optimizers(name, kind):
    optimizer = make_optimizer(dataclasses.replace(PLAIN, optimizer=name), PHASE, 4)
    assert type(optimizer) is kind
    assert float(optimizer.learning_rate) == 0.5


def test_sgd_has_momentum():
    train = dataclasses.replace(PLAIN, optimizer="sgd", momentum=0.7)
    assert make_optimizer(train, PHASE, 4).momentum == 0.7


@pytest.mark.parametrize("name", ["sgd", "adam"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_weight_decay_shrinks_kernels_only(name, weight_decay):
    train = dataclasses.replace(PLAIN, optimizer=name, weight_decay=weight_decay)
    optimizer = make_optimizer(train, PHASE, 4)
    layer = keras.layers.Dense(1)
    layer.build((None, 2))
    layer.bias.assign([1.0])
    before = layer.kernel.numpy()
    optimizer.apply([v * 0 for v in layer.variables], layer.trainable_variables)
    expected = before * (1 - 0.5 * weight_decay)
    np.testing.assert_allclose(layer.kernel, expected, rtol=1e-6)
    np.testing.assert_array_equal(layer.bias, [1.0])


@pytest.mark.parametrize("kind", [keras.optimizers.Adam, keras.optimizers.AdamW])
@pytest.mark.parametrize("in_graph", [False, True])
def test_adam_takes_the_steps_of_keras(kind, in_graph):
    rng = np.random.default_rng(0)
    start = rng.normal(size=(5, 3)).astype("float32")
    ours, theirs = keras.Variable(start), keras.Variable(start)
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 10)
    mine = Adam(
        schedule, weight_decay=0.004 if kind is keras.optimizers.AdamW else None
    )
    keras_own = kind(schedule)
    mine.build([ours])

    def apply(gradient):
        mine.apply([gradient], [ours])

    apply = tf.function(apply) if in_graph else apply
    for _ in range(5):
        gradient = tf.constant(rng.normal(size=(5, 3)).astype("float32"))
        apply(gradient)
        keras_own.apply([gradient], [theirs])
    assert not np.allclose(start, theirs, atol=0.1)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    for a, b in zip(mine.variables, keras_own.variables, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
