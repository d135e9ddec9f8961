"""Several tasks on several devices."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, TWO_CPUS, leave_out_export, read_table
from task_helpers import make_config, make_table

from keras_ft.jobs.train import train

TWO_DEVICES = (
    TWO_CPUS
    + """import helpers
from keras_ft.config.settings import Config
from keras_ft.jobs.train import train
helpers.leave_out_export(setattr)
flags = json.loads(sys.argv[2])
flags |= {name: tuple(flags[name]) for name in ("weights", "label_columns")}
train(Config(**flags))
"""
)


def test_two_devices_train_several_tasks_as_one(pretrained, tmp_path, monkeypatch):
    leave_out_export(monkeypatch.setattr)
    table = make_table(tmp_path)
    # Without what enlarges rounding errors, such as a solved head, whose strength eight
    # images of val decide, or differs by device.
    changes = {"optimizer": "sgd", "dropout": 0.0, "imbalance": "class_weights"}
    changes |= {"precision": "mixed_bfloat16", "deterministic": False}
    changes |= {"solve_head": False}
    one = make_config(table, tmp_path / "one", pretrained, **changes)
    train(one)
    flags = {field.name: value for field, value in one.items()}
    flags |= {"workdir": str(tmp_path / "two"), "strategy": "mirrored"}
    here = Path(__file__).parent
    command = [sys.executable, "-c", TWO_DEVICES, str(here), json.dumps(flags)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "mirrored over /device:CPU:0, /device:CPU:1" in done.stderr
    first, second = (
        read_table(tmp_path / folder / "history.csv") for folder in ("one", "two")
    )
    for a, b in zip(first, second, strict=True):
        for name in ("loss", "val_loss", "val_colour_loss", "val_tags_loss"):
            assert float(a[name]) == pytest.approx(float(b[name]), abs=0.02)
