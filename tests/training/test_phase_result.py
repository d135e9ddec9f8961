"""Tests of reading the result of a phase that is damaged."""

import numpy as np
import pytest
from helpers import make_examples

from keras_ft.runs.paths import RunPaths
from keras_ft.training.checkpoint import write_arrays
from keras_ft.training.phase_result import load_result

STATE = {"name": "head", "epoch": 2, "epochs": 3, "seconds": 1.0, "monitored": 0.5}
STATE |= {"features_seconds": 0.1}


def load(folder, state, splits=("val", "test")):
    probabilities = {name: {"label": np.eye(2, dtype=np.float32)} for name in splits}
    write_arrays(folder / "checkpoints" / "head.npz", probabilities, state)
    val = make_examples(["a", "b"], labels=[0, 1], class_names=["a", "b"])
    return load_result(RunPaths(folder), "head", val)


def test_a_whole_one_comes_back(tmp_path):
    assert load(tmp_path, STATE).epoch == 2


@pytest.mark.parametrize(
    ("state", "splits"),
    [
        (STATE | {"epoch": "x"}, ("val", "test")),
        (STATE | {"seconds": None}, ("val", "test")),
        (STATE | {"unknown": 1}, ("val", "test")),
        ({"epoch": 2}, ("val", "test")),
        (STATE, ()),
    ],
)
def test_a_damaged_one_is_none_with_a_warning(tmp_path, state, splits, caplog):
    assert load(tmp_path, state, splits) is None
    assert "head.npz is damaged" in caplog.text
