import keras
import numpy as np
import pytest

from keras_ft.config.recipe import Phase
from keras_ft.config.schema import SelectionConfig
from keras_ft.evaluation.monitor import MONITORS
from keras_ft.training.averaging import average_epochs
from keras_ft.training.early_stopping import EarlyStopping, GoodEpoch

LOSS, ACCURACY = MONITORS["val_loss"], MONITORS["val_accuracy"]


@pytest.fixture
def net():
    """Its only weight that is trained is also its output; the other is fixed."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, name="dense")])
    model.layers[0].bias.assign([0.1])
    return model


def make_epochs(net, *kernels):
    """Epochs with these kernels; the nearer to 1, the lower their loss."""
    fixed = net.get_weights()[1]
    return [
        GoodEpoch(i, abs(kernel - 1), [np.float32([[kernel]]), fixed])
        for i, kernel in enumerate(kernels)
    ]


@pytest.mark.parametrize(
    ("kernels", "expected", "numbers"),
    [
        ([0.8], 0.8, (1,)),
        ([0.8, 1.3], 1.05, (1, 2)),  # on either side of the best value
        ([1.2, 1.3, 1.4], 1.2, (1,)),  # all on one
        ([0.8, 0.6, 1.3], 1.05, (1, 3)),  # the second is passed over
        ([0.8, 1.3, 0.9], 1.0, (1, 2, 3)),
    ],
)
def test_an_epoch_is_added_if_the_mean_gets_better(net, kernels, expected, numbers):
    def measure_val():
        return {"val_loss": abs(float(net.get_weights()[0][0, 0]) - 1)}

    epochs = make_epochs(net, *kernels)
    value, chosen = average_epochs(net, epochs, measure_val, LOSS)
    assert chosen == numbers
    assert value == pytest.approx(abs(expected - 1), abs=1e-6)
    np.testing.assert_allclose(net.get_weights()[0], [[expected]], rtol=1e-6)


def test_higher_may_be_better_and_fixed_weights_stay(net):
    epochs = make_epochs(net, 0.7, 1.1, 0.3)
    fixed = epochs[0].weights[1].copy()
    values = iter([0.75, 0.9])
    result = average_epochs(
        net, epochs, lambda: {"val_accuracy": next(values)}, ACCURACY
    )
    assert result == (0.9, (1, 2, 3))
    np.testing.assert_array_equal(net.get_weights()[1], fixed)


def test_a_mean_that_is_no_network_is_not_kept(net):
    epochs = make_epochs(net, 0.7, 1.1)
    result = average_epochs(net, epochs, lambda: {"val_loss": np.nan}, ACCURACY)
    assert result[1] == (1,)
    np.testing.assert_array_equal(net.get_weights()[0], epochs[0].weights[0])


@pytest.mark.parametrize(("num_kept", "expected"), [(1, [3]), (3, [3, 1, 4])])
def test_early_stopping_keeps_the_best_epochs(net, num_kept, expected):
    """Of two that are level, the first is the better one."""
    phase = Phase("finetune", 9, 0.1, ("conv1",))
    selection = SelectionConfig(monitor="val_loss", patience=9)
    stopping = EarlyStopping(phase, selection, num_kept=num_kept)
    stopping.set_model(net)
    stopping.on_train_begin()
    for epoch, value in enumerate([5.0, 2.0, 3.0, 1.0, 2.0]):
        net.layers[0].kernel.assign([[epoch]])
        stopping.on_epoch_end(epoch, {"val_loss": value})
    assert [good.epoch for good in stopping.kept] == expected
    assert [int(good.weights[0][0, 0]) for good in stopping.kept] == expected
