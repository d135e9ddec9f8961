"""Settings of Keras, and of TensorFlow, that change what a network computes.

The user's may be others: keras.json, variables such as KERAS_BACKEND and, in a
notebook, calls of `keras.config` set them.
"""

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from typing import Any

from keras_ft.errors import UserError

log = logging.getLogger("keras_ft")

# What `keras.config.set_NAME` takes; the policy last, since `floatx` is its default.
_OURS = {
    "floatx": "float32",
    "epsilon": 1e-7,
    "image_data_format": "channels_last",
    "max_epochs": None,
    "max_steps_per_epoch": None,
    "dtype_policy": "float32",
}
_at_import: dict[
    str, Any
] = {}  # the user's, if `importing` was the first to import Keras


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """In this block, TensorFlow is imported; then Keras gets this program's settings.

    Raises a UserError if networks can't be computed with what was imported or set
    before.
    """
    is_first = "keras" not in sys.modules
    if is_first:
        backend = os.environ.get("KERAS_BACKEND", "tensorflow")
        if backend not in ("", "tensorflow"):
            log.info("Keras runs on TensorFlow; KERAS_BACKEND=%s is not used.", backend)
        os.environ["KERAS_BACKEND"] = "tensorflow"
        # Where there is no home, Keras would make a folder `~`, and others would fail.
        if os.path.expanduser("~") == "~":
            os.environ["HOME"] = "/tmp"
    try:
        yield
        import keras  # noqa: F401
    except Exception as error:
        if of_settings := _find_frame(error):
            raise UserError(
                "keras.json, in ~/.keras or KERAS_HOME, and variables such as "
                "KERAS_MAX_EPOCHS must be settings that Keras can read. Received: "
                f"{error!r} from {of_settings.line}"
            ) from error
        raise
    if is_first:
        _at_import.update(_read())
    _check_process()
    _write(_OURS)


def _find_frame(error: Exception) -> traceback.FrameSummary | None:
    """Where Keras, or its predecessor in TensorFlow, reads settings at import."""
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename.endswith(("/keras/backend.py", "/backend/config.py")):
            return frame
    return None


def _check_process() -> None:
    """Raises a UserError if the user's code has changed how TensorFlow computes."""
    import keras
    import tensorflow as tf

    if (backend := keras.config.backend()) != "tensorflow":
        raise UserError(
            "Keras must run on TensorFlow. Received: the backend "
            f"{backend}, with which this process has imported Keras; set "
            "KERAS_BACKEND=tensorflow and start Python again"
        )
    changed = []
    if not tf.executing_eagerly() and not tf.inside_function():
        changed.append("tf.compat.v1.disable_eager_execution")
    if hasattr(tf.Tensor, "ravel"):
        changed.append("tf.experimental.numpy.experimental_enable_numpy_behavior")
    if changed:
        raise UserError(
            "TensorFlow must work as it does by default. Received: a process that has "
            f"called {changed[0]} or the like; start Python again without it"
        )


@contextlib.contextmanager
def own_keras_settings() -> Iterator[None]:
    """In this block, Keras has this program's settings; afterwards the user's again.

    It need not be imported before the block, which may import it.
    """
    users = _read() if "keras" in sys.modules else {}
    if users:
        _write(_OURS)
    tensorflow_log = logging.getLogger("tensorflow")
    tensorflow_log.addFilter(_concerns_user)
    try:
        yield
    finally:
        tensorflow_log.removeFilter(_concerns_user)
        _write(users or _at_import)


def _concerns_user(record: logging.LogRecord) -> bool:
    """Whether a warning of TensorFlow's is not about the functions of Keras.

    Each network has functions of its own, which are traced. After several runs in one
    process, TensorFlow warns as if one function were created again and again in a loop.
    """
    message = record.getMessage()
    return "tf.function retracing" not in message or "TensorFlowTrainer" not in message


def _read() -> dict[str, Any]:
    import keras

    return {name: getattr(keras.config, name)() for name in _OURS}


def _write(values: dict[str, Any]) -> None:
    if values:
        import keras

        for name, value in values.items():
            getattr(keras.config, f"set_{name}")(value)
