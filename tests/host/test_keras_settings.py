"""Tests of the settings of Keras that the user may have changed."""

import json
import logging
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_ft import api
from keras_ft.config.settings import Config
from keras_ft.errors import UserError
from keras_ft.host.keras_settings import own_keras_settings
from keras_ft.host.startup import import_tensorflow

USERS = {
    "floatx": "float16",
    "epsilon": 1e-2,
    "image_data_format": "channels_first",
    "max_epochs": 1,
    "max_steps_per_epoch": 1,
    "dtype_policy": "mixed_float16",
}
IMPORT = """
import json, sys
from keras_ft.errors import UserError
from keras_ft.host import startup
try:
    startup.import_tensorflow()
except UserError as error:
    sys.exit(str(error))
import keras
print(json.dumps({n: getattr(keras.config, n)() for n in ("backend", "floatx")}))
"""
WITHOUT_HOME = """
import os, pathlib, pwd
def find_nobody(uid):
    raise KeyError(uid)
pwd.getpwuid = find_nobody
del os.environ["HOME"]
from keras_ft.host import startup
startup.import_tensorflow()
print(pathlib.Path.home())
"""


def _read() -> dict[str, Any]:
    read: dict[str, Any] = {name: getattr(keras.config, name)() for name in USERS}
    return read | {"dtype_policy": read["dtype_policy"].name}


@pytest.fixture
def users_settings() -> Iterator[None]:
    before = _read()
    for name, value in USERS.items():
        getattr(keras.config, f"set_{name}")(value)
    yield
    for name, value in before.items():
        getattr(keras.config, f"set_{name}")(value)


def test_training_uses_its_own_settings_and_restores_the_users(
    tiny_config: Config, no_export: None, users_settings: None
) -> None:
    metrics = api.fine_tune(tiny_config.replace(finetune_epochs=2))

    assert _read() == USERS
    assert metrics["phases"]["finetune"]["epochs"] == 2
    file = Path(tiny_config.run.workdir) / "model.keras"
    with zipfile.ZipFile(file) as archive:
        assert b"float16" not in archive.read("config.json")
    dtypes = {weight.dtype for weight in keras.models.load_model(file).weights}
    assert dtypes == {"float32"}


def test_predictions_do_not_depend_on_the_users_settings(
    finished_run: Config, users_settings: None
) -> None:
    workdir = finished_run.run.workdir
    image = np.full((20, 24, 3), (30, 200, 40), np.uint8)

    # What it answers is traced at the first prediction, in the user's code.
    with_users = api.load_classifier(workdir).predict([image])

    assert _read() == USERS
    import_tensorflow()
    np.testing.assert_array_equal(
        api.load_classifier(workdir).predict([image]), with_users
    )


@pytest.mark.parametrize(
    ("function", "value", "named"),
    [
        ("keras.config.backend", "jax", "the backend jax"),
        ("tensorflow.executing_eagerly", False, "disable_eager_execution"),
    ],
)
def test_a_process_in_which_networks_cannot_be_computed_is_refused(
    function: str, value: Any, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(function, lambda: value)

    with pytest.raises(UserError, match=f"Received: .*{named}"):
        import_tensorflow()


def test_numpy_behaviour_of_tensors_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf.Tensor, "ravel", lambda self: self, raising=False)

    with pytest.raises(UserError, match="experimental_enable_numpy_behavior"):
        import_tensorflow()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {
                "backend": "jax",
                "floatx": "float64",
                "image_data_format": "channels_last",
            },
            '{"backend": "tensorflow", "floatx": "float32"}',
        ),
        ({"epsilon": 1}, "keras.json, in ~/.keras or KERAS_HOME"),
        ([], "keras.json, in ~/.keras or KERAS_HOME"),
    ],
)
def test_the_file_of_settings_is_overridden_or_refused(
    settings: Any, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_BACKEND", "torch")

    done = subprocess.run(
        [sys.executable, "-c", IMPORT], capture_output=True, text=True
    )

    assert expected in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_user_without_a_home_gets_one_that_libraries_can_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    command = [sys.executable, "-c", WITHOUT_HOME]
    assert subprocess.check_output(command, cwd=tmp_path, text=True) == "/tmp\n"
    assert not (tmp_path / "~").exists()


def test_retracing_is_told_of_the_users_functions_only(monkeypatch):
    logger = logging.getLogger("tensorflow")
    monkeypatch.setattr(logger, "filters", [])  # those of the command line

    def passes(function):
        text = "5 out of the last 5 calls to %s triggered tf.function retracing."
        record = logging.makeLogRecord({"msg": text, "args": (function,)})
        return bool(logger.filter(record))

    of_keras = "<function TensorFlowTrainer.make_predict_function.<locals>.f at 0x1>"
    with own_keras_settings():
        assert not passes(of_keras)
        assert passes("<function augment at 0x1>")
    assert passes(of_keras)
