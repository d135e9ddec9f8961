import csv
import math

import keras
import pytest

from keras_ft.callbacks import (
    HISTORY_FIELDS,
    History,
    StopOnNaN,
    make_callbacks,
    make_early_stopping,
)
from keras_ft.config import Phase, SelectionConfig, UserError


def model():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.25), "mse")
    return model


def test_history_of_two_phases_is_one_file(tmp_path):
    path = tmp_path / "history.csv"
    logs = {"loss": 0.5, "accuracy": 0.75, "val_loss": 0.6, "val_accuracy": 0.5}
    logs |= {"macro_f1": 0.25, "val_macro_f1": 0.375}
    logs |= {"balanced_accuracy": 0.125, "val_balanced_accuracy": 0.875}
    for phase in ("head", "finetune"):
        history = History(path, phase)
        history.set_model(model())
        for epoch in range(2):
            history.on_epoch_begin(epoch)
            history.on_epoch_end(epoch, logs)
    with open(path, newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == list(HISTORY_FIELDS)
    assert [(row["phase"], row["epoch"]) for row in rows] == [
        ("head", "1"),
        ("head", "2"),
        ("finetune", "1"),
        ("finetune", "2"),
    ]
    assert {name: float(rows[0][name]) for name in logs} == logs
    assert float(rows[0]["learning_rate"]) == 0.25


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_run(value):
    callback = StopOnNaN("head")
    callback.on_epoch_begin(2)
    callback.on_train_batch_end(0, {"loss": 1.0})
    with pytest.raises(UserError, match="epoch 3 of phase head.*--head_learning_rate"):
        callback.on_train_batch_end(1, {"loss": value})
    with pytest.raises(UserError, match="val_loss is"):
        callback.on_epoch_end(2, {"loss": 1.0, "val_loss": value})


@pytest.mark.parametrize(
    ("monitor", "values", "best_epoch"),
    [
        ("val_loss", [0.5, 0.3, 0.4, 0.4], 1),
        ("val_accuracy", [0.5, 0.7, 0.6, 0.7], 1),
        ("val_macro_f1", [0.5, 0.7, 0.6, 0.7], 1),
        ("val_balanced_accuracy", [0.5, 0.7, 0.6, 0.7], 1),
    ],
)
def test_early_stopping_waits_and_restores_the_best(monitor, values, best_epoch):
    callback = make_early_stopping(
        Phase("head", 9, 0.1, "none"), SelectionConfig(monitor=monitor, patience=2)
    )
    net = model()
    callback.set_model(net)
    callback.on_train_begin()
    for epoch, value in enumerate(values):
        net.layers[0].kernel.assign([[epoch]])
        assert not net.stop_training
        callback.on_epoch_end(epoch, {monitor: value})
    assert net.stop_training
    callback.on_train_end()
    assert callback.best_epoch == best_epoch
    assert net.get_weights()[0] == best_epoch


def test_tensorboard_only_when_asked_for(tmp_path):
    phase = Phase("head", 1, 0.1, "none")
    for asked in (False, True):
        callbacks = make_callbacks(phase, SelectionConfig(tensorboard=asked), tmp_path)
        has = any(isinstance(c, keras.callbacks.TensorBoard) for c in callbacks)
        assert has == asked


@pytest.mark.parametrize(
    ("patience", "epochs", "expected"),
    [(None, 5, 3), (None, 40, 10), (7, 5, 7), (1, 40, 1)],
)
def test_patience_grows_with_the_phase_unless_given(patience, epochs, expected):
    phase = Phase("head", epochs, 0.1, "none")
    stopping = make_early_stopping(phase, SelectionConfig(patience=patience))
    assert stopping.patience == expected
