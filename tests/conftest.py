"""Small images and settings that the tests share."""

import functools
import logging
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import (
    COLOURS,
    TWO_PHASES,
    FakeTraining,
    leave_out_export,
    make_flags,
    optimize_graphs,
    write_images,
)

from keras_ft.config.settings import Config
from keras_ft.host import console, cpu
from keras_ft.host.file_lock import lock_file

# TensorFlow leaves oneDNN off on many processors, where it is several times faster.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# Before pytest replaces standard error, to which the log goes.
console.configure_logging()


@pytest.fixture(autouse=True, scope="session")
def float32_by_default() -> Iterator[None]:
    """Makes `--precision=auto` the same on every processor that runs the tests."""

    @functools.wraps(cpu.flags)
    def flags() -> set[str]:
        return flags.__wrapped__() - {"amx_bf16", "avx512_bf16"}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "flags", flags)
        yield


@pytest.fixture(autouse=True, scope="session")
def graphs_as_traced() -> None:
    """Runs graphs as they were traced, for time.

    The program itself, where a test starts it, optimises them.
    """
    if "tensorflow" in sys.modules:
        optimize_graphs(False)


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """A folder of three class folders with ten images each."""
    for name, colour in COLOURS.items():
        write_images(tmp_path / "images" / name, colour, 10)
    return tmp_path / "images"


@pytest.fixture
def tiny_flags(image_folder: Path, tmp_path: Path) -> dict:
    """Flags of a run of seconds: the tiny backbone from random weights."""
    return make_flags(tmp_path)


@pytest.fixture
def tiny_config(tiny_flags: dict) -> Config:
    """The config of `tiny_flags`."""
    return Config(**tiny_flags)


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Weights of a tiny backbone whose BatchNorm is not as it was initialised."""
    import keras

    from keras_ft.models.classifier import make_backbone

    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(1)
    backbone = make_backbone("tiny", (16, 16))
    for weight in backbone.weights:
        if weight.path.endswith(("gamma", "beta", "moving_mean", "moving_variance")):
            weight.assign(weight + rng.uniform(0, 0.5, weight.shape))
    path = tmp_path_factory.mktemp("weights") / "tiny.weights.h5"
    backbone.save_weights(path)
    return str(path)


@pytest.fixture
def two_phase_flags(tiny_flags: dict, pretrained: str) -> dict:
    """Flags of a run of two short phases."""
    return tiny_flags | TWO_PHASES | {"weights": (pretrained,)}


@pytest.fixture(scope="session")
def finished_run(
    tmp_path_factory: pytest.TempPathFactory, pretrained: str, worker_id: str
) -> Config:
    """The config of a finished run of two phases, which tests may only read.

    The processes that run the tests share it: the first one that needs it trains.
    """
    from keras_ft.jobs.train import train

    folder = tmp_path_factory.getbasetemp()
    folder = (folder if worker_id == "master" else folder.parent) / "finished"
    folder.mkdir(exist_ok=True)
    weights = str(folder / "tiny.weights.h5")
    flags = make_flags(folder) | TWO_PHASES | {"weights": (weights,)}
    flags |= {"dropout": 0.5, "label_smoothing": 0.1, "deterministic": True}
    config = Config(**flags)
    with open(folder / "lock", "w") as stream:
        assert lock_file(stream, seconds=600)
        if not (folder / "run").exists():
            shutil.copy(pretrained, weights)
            for name, colour in COLOURS.items():
                write_images(folder / "images" / name, colour, 10)
            train(config)
    return config


@pytest.fixture
def no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that do not look at SavedModel and report."""
    leave_out_export(monkeypatch.setattr)


@pytest.fixture
def fake_training(monkeypatch: pytest.MonkeyPatch, no_export: None) -> FakeTraining:
    """Replaces the training of a phase by setting weights; nothing is exported."""
    fake = FakeTraining()
    monkeypatch.setattr("keras_ft.training.phases.train_phase", fake.train_phase)
    return fake


@pytest.fixture(autouse=True)
def _isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps tests out of the user's caches, and log lines in sight of pytest."""
    monkeypatch.setattr(logging.getLogger("keras_ft"), "propagate", True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))


@pytest.fixture
def write_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str, str], None]]:
    """Writes modules to the working directory, which are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))

    yield write
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]
