import csv
import math

import keras
import pytest

from keras_ft.config.recipe import Phase
from keras_ft.config.schema import SelectionConfig
from keras_ft.errors import UserError
from keras_ft.runs.paths import RunPaths
from keras_ft.training.callbacks import (
    HISTORY_FIELDS,
    History,
    KeepCheckpoints,
    StopOnNaN,
    make_callbacks,
    make_early_stopping,
)
from keras_ft.training.checkpoint import (
    CheckpointWriter,
    load_checkpoint,
    write_checkpoint,
)


class WriteAtOnce(CheckpointWriter):
    """Writes in the caller's thread."""

    def write(self, checkpoint):
        write_checkpoint(self.folder, self.phase, checkpoint)


class Busy(WriteAtOnce):
    is_busy = True


def model():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.25), "mse")
    return model


def test_history_of_two_phases_is_one_file(tmp_path):
    path = tmp_path / "history.csv"
    logs = {"loss": 0.5, "accuracy": 0.75, "val_loss": 0.6, "val_accuracy": 0.5}
    logs |= {"macro_f1": 0.25, "val_macro_f1": 0.375}
    logs |= {"balanced_accuracy": 0.125, "val_balanced_accuracy": 0.875}
    logs |= {"calibrated_loss": 0.5, "val_calibrated_loss": 0.55}
    for phase in ("head", "finetune"):
        history = History(path, phase, 0)
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


def test_rows_of_an_epoch_that_was_not_finished_are_dropped(tmp_path):
    path = tmp_path / "history.csv"
    logs = dict.fromkeys(HISTORY_FIELDS[4:], 0.5)

    def train(phase, done, epochs):
        history = History(path, phase, done)
        history.set_model(model())
        for epoch in range(done, epochs):
            history.on_epoch_begin(epoch)
            history.on_epoch_end(epoch, logs)

    train("head", 0, 2)
    train("finetune", 0, 3)
    train("finetune", 2, 3)  # the checkpoint of the third was not written
    with open(path, newline="") as stream:
        epochs = [(row["phase"], row["epoch"]) for row in csv.DictReader(stream)]
    expected = [("head", 2), ("finetune", 3)]
    assert epochs == [(p, str(e)) for p, n in expected for e in range(1, n + 1)]


@pytest.mark.parametrize("monitor", ["val_loss", "val_accuracy"])
@pytest.mark.parametrize("killed_after", range(1, 7))
def test_early_stopping_resumes_from_a_checkpoint(tmp_path, monitor, killed_after):
    values = [0.5, 0.3, 0.4, 0.2, 0.6, 0.5, 0.4]
    if monitor == "val_accuracy":
        values = [1 - value for value in values]

    def train(first, last, saved=None):
        """Epochs of a net whose only weight is the epoch; returns net and stopping."""
        net = model()
        for variable, value in zip(
            net.variables, saved.arrays["model"] if saved else (), strict=False
        ):
            variable.assign(value)
        stopping = make_early_stopping(
            Phase("head", 9, 0.1, ()), SelectionConfig(monitor=monitor, patience=3)
        )
        keep = KeepCheckpoints(WriteAtOnce(tmp_path, "head"), stopping, saved)
        for callback in (stopping, keep):
            callback.set_model(net)
            callback.set_params({"epochs": 9})
            callback.on_train_begin()
        for epoch in range(first, last):
            net.layers[0].kernel.assign([[epoch]])
            for callback in (stopping, keep):
                callback.on_epoch_end(epoch, {monitor: values[epoch]})
        return net, stopping

    train(0, killed_after)
    saved = load_checkpoint(tmp_path, "head")
    assert saved.epoch == killed_after
    assert saved.arrays["model"][0] == killed_after - 1
    net, stopping = train(killed_after, 7, saved)
    assert net.stop_training
    assert (stopping.best_epoch, stopping.stopped_epoch) == (3, 6)
    stopping.on_train_end()
    assert net.get_weights()[0] == 3
    assert load_checkpoint(tmp_path, "head").state["stopped"]


def start_checkpoints(writer, epochs):
    """Early stopping and checkpoints of a net in training."""
    phase = Phase("head", epochs, 0.1, ())
    stopping = make_early_stopping(phase, SelectionConfig())
    callbacks = stopping, KeepCheckpoints(writer, stopping, None)
    net = model()
    for callback in callbacks:
        callback.set_model(net)
        callback.set_params({"epochs": epochs})
        callback.on_train_begin()
    return callbacks


def end_epoch(callbacks, epoch, val_loss):
    for callback in callbacks:
        callback.on_epoch_end(epoch, {"val_calibrated_loss": val_loss})


def test_an_epoch_that_ends_during_writing_has_no_checkpoint_but_the_last(tmp_path):
    callbacks = start_checkpoints(Busy(tmp_path, "head"), epochs=3)
    end_epoch(callbacks, 0, 0.5)
    end_epoch(callbacks, 1, 0.4)
    assert load_checkpoint(tmp_path, "head") is None
    end_epoch(callbacks, 2, 0.3)
    assert load_checkpoint(tmp_path, "head").epoch == 3


def test_the_best_weights_are_stored_unless_they_are_those_of_the_epoch(tmp_path):
    callbacks = start_checkpoints(WriteAtOnce(tmp_path, "head"), epochs=9)
    end_epoch(callbacks, 0, 0.5)
    assert "best" not in load_checkpoint(tmp_path, "head").arrays
    end_epoch(callbacks, 1, 0.6)
    assert len(load_checkpoint(tmp_path, "head").arrays["best"]) == 2


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
        Phase("head", 9, 0.1, ()), SelectionConfig(monitor=monitor, patience=2)
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


def test_tensorboard_only_if_requested(tmp_path):
    phase = Phase("head", 1, 0.1, ())
    for requested in (False, True):
        selection = SelectionConfig(tensorboard=requested)
        callbacks = make_callbacks(
            phase, selection, RunPaths(tmp_path), None, WriteAtOnce(tmp_path, "head")
        )
        has = any(isinstance(c, keras.callbacks.TensorBoard) for c in callbacks)
        assert has == requested


@pytest.mark.parametrize(
    ("patience", "epochs", "expected"),
    [(None, 5, 3), (None, 40, 10), (7, 5, 7), (1, 40, 1)],
)
def test_patience_grows_with_the_phase_unless_given(patience, epochs, expected):
    phase = Phase("head", epochs, 0.1, ())
    stopping = make_early_stopping(phase, SelectionConfig(patience=patience))
    assert stopping.patience == expected
