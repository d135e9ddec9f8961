"""What must be set before TensorFlow starts, and the seed."""

import contextlib
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator


def prepare() -> None:
    """Sets the environment that TensorFlow and Keras read at import."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    # TensorFlow's start-up notes hide the lines that matter; errors of ours remain.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    log = logging.getLogger("keras_ft")
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
    # TensorFlow's exporter gives the root logger a handler, for every line once more.
    log.propagate = False


def import_tensorflow() -> None:
    """Imports TensorFlow without the notes that it prints on standard error.

    Some of them ignore TF_CPP_MIN_LOG_LEVEL. If the import fails they are shown.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as notes:
        os.dup2(notes.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except BaseException:
            notes.seek(0)
            os.write(stderr, notes.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def set_seed(seed: int, deterministic: bool) -> None:
    """Seeds Python, NumPy and TensorFlow.

    Args:
        seed: The seed.
        deterministic: Also use only operations that give bitwise equal results.
    """
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()


@contextlib.contextmanager
def measure(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Adds the block's duration in seconds to `seconds[name]`."""
    start = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
