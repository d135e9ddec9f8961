import csv
import math
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from helpers import make_examples, make_task, start_run

from keras_ft.config.recipe import Phase
from keras_ft.config.schema import SelectionConfig
from keras_ft.config.settings import Config
from keras_ft.training import callbacks
from keras_ft.training.callbacks import (
    HISTORY_FIELDS,
    EpochTable,
    History,
    Validate,
    make_writers,
)
from keras_ft.training.early_stopping import Diverged, EarlyStopping
from keras_ft.training.validation import compute_val_logs


def model():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.25), "mse")
    return model


def test_history_of_two_phases_is_one_file(tmp_path):
    path = tmp_path / "history.csv"
    logs = {"loss": 0.5, "accuracy": 0.75, "val_loss": 0.6, "val_accuracy": 0.5}
    logs |= {"val_macro_f1": 0.375, "val_balanced_accuracy": 0.875}
    logs |= {"val_calibrated_loss": 0.55}
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


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["loss", "val_loss"])
@pytest.mark.parametrize("good_epochs", [0, 1, 3])
def test_a_loss_that_is_no_number_ends_the_phase_with_its_best_epoch(
    value, name, good_epochs
):
    stopping = EarlyStopping(Phase("head", 9, 0.1, ()), SelectionConfig())
    net = model()
    stopping.set_model(net)
    stopping.on_train_begin()
    for epoch in range(good_epochs):
        stopping.on_epoch_begin(epoch)
        stopping.on_train_batch_end(0, {"loss": 1.0})
        net.layers[0].kernel.assign([[epoch]])
        monitored = {"val_calibrated_loss": 2.0 if epoch else 1.0}
        stopping.on_epoch_end(epoch, {"loss": 1.0, "val_loss": 1.0} | monitored)
    net.layers[0].kernel.assign([[value]])

    def diverge():
        logs = {"loss": 1.0, "val_loss": 1.0} | {name: value}
        stopping.on_epoch_begin(good_epochs)
        stopping.on_train_batch_end(0, logs)
        stopping.on_epoch_end(good_epochs, logs)

    where = f"Training diverged: {name} is {value} in epoch {good_epochs + 1} of phase "
    if not good_epochs:
        with pytest.raises(Diverged, match=f"{where}head. Lower --head_learning_rate"):
            diverge()
        return
    diverge()
    assert net.stop_training
    assert stopping.diverged.startswith(f"{where}head. The phase ended with its best")
    stopping.on_train_end()
    assert net.get_weights()[0] == 0  # that of the first epoch


def test_an_epoch_in_which_training_diverged_has_no_row(tmp_path):
    history = History(tmp_path / "history.csv", "head", 0)
    history.set_model(model())
    for loss in (0.5, math.nan):
        history.on_epoch_begin(0)
        history.on_epoch_end(0, dict.fromkeys(HISTORY_FIELDS[4:], 0.5) | {"loss": loss})
    history.on_epoch_end(1, {"loss": 0.5, "val_loss": math.nan})
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 2


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
    callback = EarlyStopping(
        Phase("head", 9, 0.1, ()), SelectionConfig(monitor=monitor, patience=2)
    )
    net = model()
    callback.set_model(net)
    callback.on_train_begin()
    for epoch, value in enumerate(values):
        net.layers[0].kernel.assign([[epoch]])
        assert not net.stop_training
        callback.on_epoch_end(epoch, {"val_loss": 1.0, monitor: value})
    assert net.stop_training
    callback.on_train_end()
    assert callback.best_epoch == best_epoch
    assert net.get_weights()[0] == best_epoch


@pytest.mark.parametrize(("values", "epochs"), [([5, 4, 4.5], 3), ([5, 1, 2, 3], 4)])
def test_a_phase_ends_early_if_it_does_not_beat_the_one_before(values, epochs):
    selection = SelectionConfig(monitor="val_loss", patience=2)
    callback = EarlyStopping(Phase("finetune", 9, 0.1, ()), selection, to_beat=2.0)
    net = model()
    callback.set_model(net)
    callback.on_train_begin()
    for epoch, value in enumerate(values[:epochs]):
        assert not net.stop_training
        net.layers[0].kernel.assign([[epoch]])
        callback.on_epoch_end(epoch, {"val_loss": float(value)})
    assert net.stop_training
    callback.on_train_end()
    assert net.get_weights()[0] == callback.best_epoch == np.argmin(values[:epochs])


@pytest.mark.parametrize(
    ("stages", "patience", "ends_after"),
    [(("conv1",), None, 8), (("conv1",), 3, 4), ((), None, 4)],
)
def test_auto_patience_counts_from_the_middle_if_the_backbone_is_trained(
    stages, patience, ends_after
):
    phase = Phase("finetune", 10, 0.1, stages)
    selection = SelectionConfig(monitor="val_loss", patience=patience)
    callback = EarlyStopping(phase, selection)
    callback.set_model(model())
    callback.on_train_begin()
    for epoch in range(10):
        callback.on_epoch_end(epoch, {"val_loss": 1.0 + epoch})
        if callback.model.stop_training:
            break
    assert (epoch + 1, callback.best_epoch) == (ends_after, 0)


@pytest.mark.parametrize("requested", [False, True])
def test_tensorboard_only_if_requested(tmp_path, requested):
    config = Config(workdir=str(tmp_path), data="d", tensorboard=requested)
    writers = make_writers(start_run(config), Phase("head", 1, 0.1, ()), 0)
    has = any(isinstance(w, keras.callbacks.TensorBoard) for w in writers)
    assert has == requested


@pytest.mark.parametrize(
    ("patience", "epochs", "expected"),
    [(None, 5, 3), (None, 40, 10), (7, 5, 7), (1, 40, 1)],
)
def test_patience_grows_with_the_phase_unless_given(patience, epochs, expected):
    phase = Phase("head", epochs, 0.1, ())
    stopping = EarlyStopping(phase, SelectionConfig(patience=patience))
    assert stopping.patience == expected


def test_metrics_of_val_are_in_the_logs_that_later_callbacks_see():
    """And the phase is in the params, of all of them."""
    task = make_task(2)
    val = make_examples(["x", "y", "z"], None, [0, 1, 1], task.class_names)
    predicted = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], np.float32)
    seen = []

    class User(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            seen.append((self.params["phase"], self.params["initial_epoch"]))

        def on_epoch_end(self, epoch, logs=None):
            seen.append((epoch, {**logs}))

    weights = {task.name: 1.0}
    part = SimpleNamespace(
        task_weights=weights,
        measure_val=lambda: compute_val_logs(val, {task.name: predicted}, weights),
    )
    validate = Validate(part, "head", 2)
    rows = np.ones((4, 1), np.float32)
    both = [validate, User()]
    fit = model().fit(rows, rows, initial_epoch=2, epochs=3, verbose=0, callbacks=both)
    [begin, (epoch, logs)] = seen
    assert begin == ("head", 2) and epoch == 2
    assert logs.keys() == {
        *("loss", "val_loss", "val_accuracy", "val_macro_f1"),
        *("val_balanced_accuracy", "val_calibrated_loss"),
    }
    assert logs["val_loss"] == pytest.approx(-np.log([0.9, 0.8, 0.4]).mean(), rel=1e-6)
    assert logs["val_accuracy"] == pytest.approx(2 / 3)
    assert logs["val_balanced_accuracy"] == pytest.approx(0.75)
    assert fit.history["val_loss"] == [logs["val_loss"]]


@pytest.mark.parametrize(
    ("monitor", "header", "row"),
    [
        (
            "val_calibrated_loss",
            "    acc.  val acc.  val calibrated loss    best",
            "   0.750     0.625               0.2500  0.1250",
        ),
        ("val_accuracy", "    acc.  val acc.    best", "   0.750     0.625   0.875"),
        (
            "val_balanced_accuracy",
            "    acc.  val acc.  val balanced acc.    best",
            "   0.750     0.625              0.500   0.500",
        ),
    ],
)
def test_an_epoch_is_a_row_with_the_best_so_far(
    tmp_path, monkeypatch, caplog, monitor, header, row
):
    """Also that of the epochs of an earlier process."""
    caplog.set_level("INFO")
    logs = dict.fromkeys(HISTORY_FIELDS[4:], 0.5) | {"accuracy": 0.75}
    path = tmp_path / "history.csv"
    earlier = History(path, "finetune", 0)
    earlier.set_model(model())
    best = logs | {"val_calibrated_loss": 0.125, "val_accuracy": 0.875}
    earlier.on_epoch_begin(4)
    earlier.on_epoch_end(4, best)

    history = History(path, "finetune", 5)
    table = EpochTable(history, SelectionConfig(monitor=monitor))
    clock = iter([100.0, 110.0])
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: next(clock))
    each = [history, table]
    for callback in each:
        callback.set_model(model())
        callback.set_params({"steps": 3, "epochs": 9})
        callback.on_train_begin()
    for callback in each:
        callback.on_epoch_begin(5)
    for callback in each:
        logs |= {"val_calibrated_loss": 0.25, "val_accuracy": 0.625, "a_loss": 3.0}
        callback.on_epoch_end(5, logs)
    assert caplog.messages == [
        f"          epoch    loss{header}     left",
        f"finetune    6/9  0.5000{row}     0:30",
    ]
    assert max(map(len, caplog.messages)) < 80
