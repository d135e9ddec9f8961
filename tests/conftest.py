"""Small images and settings that the tests share."""

import logging
import os
from pathlib import Path

import pytest
from helpers import COLOURS, leave_out_export, write_images

from keras_ft.config.config import Config
from keras_ft.system import console

# TensorFlow leaves oneDNN off on many processors, where it is several times faster.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# Before pytest replaces standard error, to which the log goes.
console.configure_logging()


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
    return Config(**tiny_flags)


@pytest.fixture
def no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that do not look at SavedModel and report."""
    leave_out_export(monkeypatch.setattr)


@pytest.fixture(autouse=True)
def _isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps tests out of the user's caches, and log lines in sight of pytest."""
    monkeypatch.setattr(logging.getLogger("keras_ft"), "propagate", True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))
