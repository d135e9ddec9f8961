"""Callbacks of the user's: what they see, and what they may do."""

from pathlib import Path

import keras
import pytest
from helpers import make_arguments, read_table

from keras_ft import cli
from keras_ft.config.settings import Config
from keras_ft.errors import UserError
from keras_ft.jobs.train import train

OF_VAL = ("loss", "accuracy", "macro_f1", "balanced_accuracy", "calibrated_loss")


class Recorder(keras.callbacks.Callback):
    """Records what it sees, and stops phase head after its second epoch."""

    def __init__(self):
        super().__init__()
        self.began, self.seen = [], []

    def on_train_begin(self, logs=None):
        self.began.append((self.params["phase"], self.params["initial_epoch"]))

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append((self.params["phase"], epoch, dict(logs)))
        if self.params["phase"] == "head" and epoch == 1:
            self.model.stop_training = True


def test_callbacks_see_both_phases_and_may_stop_them(two_phase_flags, no_export):
    recorder = Recorder()
    config = Config(**two_phase_flags, patience=9)
    metrics = train(config, callbacks=[recorder])
    assert recorder.began == [("head", 0), ("finetune", 0)]
    phases = [(phase, epoch) for phase, epoch, _ in recorder.seen]
    assert phases == [("head", 0), ("head", 1), ("finetune", 0), ("finetune", 1)]
    for _, _, logs in recorder.seen:
        assert set(logs) == {"loss", "accuracy", *(f"val_{name}" for name in OF_VAL)}
    assert metrics["phases"]["head"]["epochs"] == 2
    rows = read_table(f"{config.run.workdir}/history.csv")
    assert [float(row["val_loss"]) for row in rows] == [
        pytest.approx(logs["val_loss"]) for _, _, logs in recorder.seen
    ]


def test_what_is_no_callback_is_told(two_phase_flags):
    with pytest.raises(UserError, match=r"callbacks\[1\] must be a keras.callbacks"):
        train(Config(**two_phase_flags), callbacks=[Recorder(), print])
    with pytest.raises(UserError, match="callbacks must be a list"):
        train(Config(**two_phase_flags), callbacks=Recorder())
    # A new attempt is a new run.
    assert not Path(two_phase_flags["workdir"], "run.json").exists()


def test_a_mistake_in_a_callback_ends_the_command(
    tiny_flags, write_module, capsys, no_export
):
    write_module(
        "mine",
        """
        import keras
        class Fails(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                logs["not there"]
        """,
    )
    flags = make_arguments(tiny_flags | {"callbacks": "py:mine:Fails"})
    assert cli.main(flags) == 1
    lines = capsys.readouterr().err.splitlines()
    start = lines.index("Traceback (most recent call last):")
    assert any("mine.py" in line for line in lines[start:])
    assert not any("keras_ft/jobs" in line for line in lines[start:])
    assert lines[-2:] == [
        "KeyError: 'not there'",
        "keras_ft: the code of --callbacks=py:mine:Fails raised this.",
    ]


def test_the_wrong_arguments_end_the_command(tiny_flags, write_module, capsys):
    write_module("mine", "def make(count): pass")
    flags = make_arguments(tiny_flags | {"callbacks": "py:mine:make"})
    assert cli.main(flags) == 1
    lines = capsys.readouterr().err.splitlines()
    assert "Traceback (most recent call last):" not in lines  # it would be ours
    assert lines[-2:] == [
        "TypeError: make() missing 1 required positional argument: 'count'",
        "keras_ft: the code of --callbacks=py:mine:make raised this.",
    ]
