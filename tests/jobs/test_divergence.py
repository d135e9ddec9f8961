"""Training that diverges: the run ends with the best epoch before that."""

import json
import math
import os

import keras
import numpy as np
import pytest
from helpers import read_table

from keras_ft.config.settings import Config
from keras_ft.errors import UserError
from keras_ft.jobs.train import train
from keras_ft.models.trained import load_trained

pytestmark = pytest.mark.usefixtures("no_export")


class Diverge(keras.callbacks.Callback):
    """Makes a weight no number when an epoch of a phase begins; may stop before."""

    def __init__(self, phase, epoch, stop_before=None):
        super().__init__()
        self.phase, self.epoch, self.stop_before = phase, epoch, stop_before

    def on_epoch_begin(self, epoch, logs=None):
        if self.params["phase"] == self.phase:
            if epoch == self.stop_before:
                raise InterruptedError
            if epoch == self.epoch:
                weight = self.model.trainable_weights[-1]
                weight.assign(np.full(weight.shape, math.nan))


def read_run(config):
    folder = config.run.workdir
    with open(f"{folder}/run.json") as stream:
        state = json.load(stream)["state"]
    assert not os.path.exists(f"{folder}/checkpoints")
    model, _ = load_trained(f"{folder}/model.keras")
    rows = [(r["phase"], int(r["epoch"])) for r in read_table(f"{folder}/history.csv")]
    return state, model.get_weights(), rows


def assert_a_resumed_run_ends_alike(config, metrics, again, epoch):
    """Stops another run just before it diverges, and resumes it."""
    with pytest.raises(InterruptedError):
        train(again, callbacks=[Diverge("finetune", epoch, stop_before=epoch)])
    resumed = train(again, callbacks=[Diverge("finetune", epoch)])
    for key in ("best_phase", "best_epoch", "val", "test", "warnings"):
        assert resumed[key] == metrics[key]
    (*_, weights, rows), (*_, weights_again, rows_again) = map(
        read_run, (config, again)
    )
    assert rows == rows_again
    for one, other in zip(weights, weights_again, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("phase", "epoch", "best", "trained"),
    [
        ("head", 2, "head", [("head", 1), ("head", 2)]),
        ("finetune", 0, "head", [("head", 1), ("head", 2), ("head", 3)]),
        (
            "finetune",
            1,
            "finetune",
            [("head", n) for n in (1, 2, 3)] + [("finetune", 1)],
        ),
    ],
)
def test_the_run_ends_with_the_best_epoch_so_far_and_so_does_a_resumed_one(
    two_phase_flags, tmp_path, caplog, phase, epoch, best, trained
):
    flags = two_phase_flags | {"monitor": "val_loss", "deterministic": True}
    if phase == "head":
        flags |= {"unfreeze": "none"}
    config = Config(**flags)
    metrics = train(config, callbacks=[Diverge(phase, epoch)])
    state, weights, rows = read_run(config)
    assert state == "finished"
    assert all(np.isfinite(weight).all() for weight in weights)
    assert rows == trained
    assert metrics["best_phase"] == best
    assert list(metrics["phases"]) == list(dict.fromkeys(name for name, _ in trained))
    [warning] = metrics["warnings"]
    where = f"Training diverged: loss is nan in epoch {epoch + 1} of phase {phase}."
    assert warning.startswith(where)
    assert f"Lower --{phase}_learning_rate." in warning
    assert warning in caplog.text
    assert train(config) == metrics
    if phase == "finetune":
        again = config.replace(workdir=str(tmp_path / "again"))
        assert_a_resumed_run_ends_alike(config, metrics, again, epoch)


def test_before_the_first_epoch_has_ended_it_is_an_error(two_phase_flags):
    config = Config(**two_phase_flags)
    with pytest.raises(
        UserError, match="diverged.*epoch 1 of phase head. Lower --head"
    ):
        train(config, callbacks=[Diverge("head", 0)])


def test_a_result_remembers_that_training_diverged(two_phase_flags, monkeypatch):
    config = Config(**two_phase_flags | {"unfreeze": "none"})
    monkeypatch.setattr("keras_ft.jobs.train._finish", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(config, callbacks=[Diverge("head", 1)])
    monkeypatch.undo()
    [warning] = train(config)["warnings"]
    assert "epoch 2 of phase head" in warning
