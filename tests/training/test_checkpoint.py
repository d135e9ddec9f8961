import threading
from concurrent.futures import Future

import keras
import numpy as np
import pytest

from keras_ft.config.recipe import Phase
from keras_ft.config.schema import SelectionConfig
from keras_ft.errors import UserError
from keras_ft.training import checkpoint
from keras_ft.training.checkpoint import (
    DAMAGED,
    Checkpoint,
    Checkpoints,
    load_arrays,
    load_checkpoint,
    write_arrays,
    write_checkpoint,
)
from keras_ft.training.early_stopping import EarlyStopping

STATE = {"best": 1 / 3, "best_epoch": 1.0, "wait": 0.0, "stopped_epoch": 0.0}
STATE |= {"seconds": 1.5, "stopped": True, "epochs": 12}


def write(folder, epoch, phase="head", **changes):
    arrays = {"model": [np.full((2, 3), epoch + i, np.float32) for i in range(12)]}
    state = STATE | changes
    write_checkpoint(folder, phase, Checkpoint(epoch, arrays, state))


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "model": [rng.normal(size=(3, i)).astype(np.float32) for i in range(12)],
        "optimizer": [np.array(7), np.array([1, 2], np.uint32)],
        "best": [],
    }
    write_checkpoint(tmp_path / "c", "head", Checkpoint(12, arrays, STATE))
    found = load_checkpoint(tmp_path / "c", "head")
    assert (found.epoch, found.state) == (12, STATE)
    for name in ("model", "optimizer"):
        for old, new in zip(arrays[name], found.arrays[name], strict=True):
            assert old.dtype == new.dtype
            np.testing.assert_array_equal(old, new)


def test_there_may_be_none(tmp_path):
    assert load_checkpoint(tmp_path / "nowhere", "head") is None
    write(tmp_path, 1, "finetune")
    assert load_checkpoint(tmp_path, "head") is None


def test_the_newest_two_of_each_phase_are_kept(tmp_path):
    write(tmp_path, 4, "head")
    for epoch in (8, 9, 10, 100_000):
        write(tmp_path, epoch, "finetune")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 3
    assert load_checkpoint(tmp_path, "finetune").epoch == 100_000
    assert load_checkpoint(tmp_path, "head").epoch == 4


@pytest.mark.parametrize("where", ["cut", "empty", "bit", "text"])
def test_a_damaged_one_is_passed_over_for_the_one_before(tmp_path, where, caplog):
    write(tmp_path, 1)
    write(tmp_path, 2)
    path = tmp_path / "head-00002.npz"
    content = bytearray(path.read_bytes())
    if where == "bit":
        content[content.index(np.float32(5).tobytes())] ^= 1
    damaged = {"cut": content[:-300], "empty": b"", "bit": content, "text": b"x" * 99}
    path.write_bytes(damaged[where])
    assert load_checkpoint(tmp_path, "head").epoch == 1
    assert "head-00002.npz is damaged" in caplog.text


@pytest.mark.parametrize("change", [{"best": "x"}, {"epochs": 1.5}, {"stopped": 1}])
def test_one_of_other_types_is_passed_over(tmp_path, change, caplog):
    write(tmp_path, 1)
    write(tmp_path, 2, **change)
    assert load_checkpoint(tmp_path, "head").epoch == 1
    assert f"is damaged ({next(iter(change))} must be" in caplog.text


def test_one_of_another_network_is_an_error(tmp_path):
    write(tmp_path, 2)
    stopping = EarlyStopping(Phase("head", 9, 0.1, ()), SelectionConfig())
    with pytest.raises(UserError, match="its own network. Received: others in"):
        fit(tmp_path, stopping, epochs=9)


def test_reading_runs_no_code(tmp_path):
    arrays = np.array([object()], dtype=object)
    np.savez(tmp_path / "head-00001.npz", state=arrays)
    with pytest.raises(DAMAGED):
        load_arrays(tmp_path / "head-00001.npz")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.npz"
    write_arrays(path, {"a": {"b": np.ones(3)}}, {"n": 1})
    with pytest.raises(TypeError):
        write_arrays(path, {"a": {"b": np.zeros(3)}}, {"n": object()})
    arrays, state = load_arrays(path)
    np.testing.assert_array_equal(arrays["a"]["b"], np.ones(3))
    assert state == {"n": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]


# --- the callback ------------------------------------------------------------


class AtOnce:
    """An executor that executes in the caller's thread."""

    def __init__(self, _):
        pass

    def submit(self, function, *args):
        future = Future()
        future.set_result(function(*args))
        return future

    def shutdown(self):
        pass


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(checkpoint, "ThreadPoolExecutor", AtOnce)


def make_net():
    net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    net.compile(keras.optimizers.SGD(0.25, momentum=0.5), "mse")
    return net


def fit(folder, stopping, epochs):
    """Trains a network from its newest checkpoint on; returns it and the callback."""
    net, rows = make_net(), np.ones((4, 1), np.float32)
    with Checkpoints(folder, "head", stopping) as checkpoints:
        first = checkpoints.restore(net)
        net.fit(
            rows,
            rows,
            initial_epoch=first,
            epochs=epochs,
            validation_data=(rows, rows),
            verbose=0,
            callbacks=[stopping, checkpoints],
        )
    return net, checkpoints


def end_epochs(folder, first, values, monitor="val_loss", patience=3):
    """Ends epochs of a net whose only weight is the epoch.

    Args:
        folder: Of the checkpoints, from which it goes on.
        first: Index of the first epoch.
        values: What is monitored, by epoch.

    Returns:
        The net and its early stopping.
    """
    net = make_net()
    selection = SelectionConfig(monitor=monitor, patience=patience)
    stopping = EarlyStopping(Phase("head", 9, 0.1, ()), selection, num_kept=3)
    with Checkpoints(folder, "head", stopping) as checkpoints:
        assert checkpoints.restore(net) == checkpoints.epoch == first
        for callback in (stopping, checkpoints):
            callback.set_model(net)
            callback.set_params({"epochs": 9})
            callback.on_train_begin()
        for epoch, value in enumerate(values, first):
            net.layers[0].kernel.assign([[epoch]])
            for callback in (stopping, checkpoints):
                callback.on_epoch_end(epoch, {"val_loss": 1.0, monitor: value})
    return net, stopping


@pytest.mark.parametrize("monitor", ["val_loss", "val_accuracy"])
@pytest.mark.parametrize("killed_after", range(1, 7))
def test_early_stopping_resumes_from_a_checkpoint(
    tmp_path, at_once, monitor, killed_after
):
    values = [0.5, 0.3, 0.4, 0.2, 0.6, 0.5, 0.4]
    if monitor == "val_accuracy":
        values = [1 - value for value in values]
    end_epochs(tmp_path, 0, values[:killed_after], monitor)
    saved = load_checkpoint(tmp_path, "head")
    assert saved.epoch == killed_after
    assert saved.arrays["model"][0] == killed_after - 1
    net, stopping = end_epochs(tmp_path, killed_after, values[killed_after:], monitor)
    assert net.stop_training
    assert (stopping.best_epoch, stopping.stopped_epoch) == (3, 6)
    assert [good.epoch for good in stopping.kept] == [3, 1, 2]
    assert [good.value for good in stopping.kept] == [values[i] for i in (3, 1, 2)]
    assert [good.weights[0][0, 0] for good in stopping.kept] == [3, 1, 2]
    stopping.on_train_end()
    assert net.get_weights()[0] == 3


def test_a_checkpoint_of_an_earlier_version_has_the_best_epoch_alone(tmp_path, at_once):
    end_epochs(tmp_path, 0, [0.5, 0.3, 0.4])
    saved = load_checkpoint(tmp_path, "head")
    del saved.state["kept"]
    write_checkpoint(tmp_path, "head", saved)
    _, stopping = end_epochs(tmp_path, 3, [])
    assert [good.epoch for good in stopping.kept] == [1]


def test_a_phase_that_had_stopped_trains_no_epoch(tmp_path, at_once):
    end_epochs(tmp_path, 0, [0.5, 0.2, 0.6, 0.5, 0.4])
    assert load_checkpoint(tmp_path, "head").state["stopped"]
    stopping = EarlyStopping(Phase("head", 9, 0.1, ()), SelectionConfig())
    net, checkpoints = fit(tmp_path, stopping, epochs=9)
    assert (checkpoints.epoch, stopping.best_epoch) == (5, 1)
    assert net.get_weights()[0] == 1


def test_the_optimizer_goes_on_where_it_was(tmp_path, at_once):
    def train(epochs):
        keras.utils.set_random_seed(0)
        stopping = EarlyStopping(
            Phase("head", 9, 0.1, ()), SelectionConfig(monitor="val_loss")
        )
        return fit(tmp_path, stopping, epochs)[0].get_weights()

    train(2)
    resumed = train(5)
    for path in tmp_path.iterdir():
        path.unlink()
    for one, other in zip(resumed, train(5), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_epoch_that_ends_during_writing_has_no_checkpoint_but_the_last(
    tmp_path, monkeypatch
):
    may_write, written = threading.Event(), []

    def wait_and_write(folder, phase, content):
        may_write.wait(10)
        written.append(content.epoch)

    monkeypatch.setattr(checkpoint, "write_checkpoint", wait_and_write)
    stopping = EarlyStopping(
        Phase("head", 4, 0.1, ()), SelectionConfig(monitor="val_loss")
    )
    net = make_net()
    with Checkpoints(tmp_path, "head", stopping) as checkpoints:
        checkpoints.restore(net)
        for callback in (stopping, checkpoints):
            callback.set_model(net)
            callback.set_params({"epochs": 4})
            callback.on_train_begin()
        for epoch in range(4):
            if epoch == 3:  # the last one waits for the first to be written
                assert written == []
                may_write.set()
            for callback in (stopping, checkpoints):
                callback.on_epoch_end(epoch, {"val_loss": 1.0})
    assert written == [1, 4]


def test_the_best_weights_are_stored_unless_they_are_those_of_the_epoch(
    tmp_path, at_once
):
    end_epochs(tmp_path, 0, [0.5])
    assert "best" not in load_checkpoint(tmp_path, "head").arrays
    end_epochs(tmp_path, 1, [0.6])
    assert len(load_checkpoint(tmp_path, "head").arrays["best"]) == 2


def test_a_checkpoint_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        end_epochs(tmp_path / "file", 0, [0.5])
