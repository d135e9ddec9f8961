"""Small images and settings that the tests share."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_ft import runtime
from keras_ft.config import Config
from keras_ft.rules import make_config

runtime.prepare()

# Begins a script, given the folder of the tests, on a machine of two devices.
TWO_CPUS = """
import json, sys
sys.path.insert(0, sys.argv[1])
from keras_ft import runtime
runtime.prepare()
import tensorflow as tf
[cpu] = tf.config.list_physical_devices("CPU")
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
"""
COLOURS = {"blue": (20, 30, 220), "green": (20, 200, 40), "red": (220, 40, 30)}


def write_images(folder: Path, colour: tuple[int, int, int], count: int) -> None:
    """Writes PNG files of one colour with noise, 24 x 20 px."""
    rng = np.random.default_rng(sum(colour))
    folder.mkdir(parents=True)
    for i in range(count):
        pixels = np.clip(rng.normal(colour, 25, (24, 20, 3)), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """A folder of three class folders with ten images each."""
    for name, colour in COLOURS.items():
        write_images(tmp_path / "images" / name, colour, 10)
    return tmp_path / "images"


@pytest.fixture
def tiny_flags(image_folder: Path, tmp_path: Path) -> dict:
    """Flags of a run of seconds: the tiny backbone from random weights."""
    return {
        "data": str(image_folder),
        "workdir": str(tmp_path / "run"),
        "cache_dir": str(tmp_path / "cache"),
        "backbone": "tiny",
        "weights": ("none",),
        "image_size": 16,
        "batch_size": 8,
        "head_epochs": 0,
        "finetune_epochs": 2,
        "finetune_learning_rate": 0.01,
    }


@pytest.fixture
def tiny_config(tiny_flags: dict) -> Config:
    """The config of `tiny_flags`."""
    return make_config(**tiny_flags)


def leave_out_export(setattr: Callable[..., None]) -> None:
    """Leaves out SavedModel and report, which take most of the time of a tiny run."""
    from keras_ft import export, run_page

    setattr(export, "write_saved_model", lambda *args: None)
    setattr(export, "check_parity", lambda *args: (0.0, 1.0))
    setattr(run_page, "write_report", lambda *args: None)


@pytest.fixture
def no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that do not look at SavedModel and report."""
    leave_out_export(monkeypatch.setattr)


@pytest.fixture(autouse=True)
def _isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps tests out of the user's caches, and log lines in sight of pytest."""
    monkeypatch.setattr(logging.getLogger("keras_ft"), "propagate", True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))
