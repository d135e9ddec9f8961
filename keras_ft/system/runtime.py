"""What must be set before TensorFlow starts; seed, precision and devices."""

import contextlib
import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from keras_ft.errors import UserError

if TYPE_CHECKING:
    import tensorflow as tf

log = logging.getLogger("keras_ft")


class _Formatter(logging.Formatter):
    def format(self, record):
        return printable(super().format(record))


def printable(text: str) -> str:
    """Text without characters that steer a terminal, but for line feeds and tabs.

    Anyone may have named the files and classes that lines of ours mention.
    """
    return re.sub(
        r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda found: ascii(found[0])[1:-1], text
    )


def prepare() -> None:
    """Sets the environment that TensorFlow and Keras read at import."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    # TensorFlow's start-up notes hide the lines that matter; errors of ours remain.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Formatter("%(message)s"))
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


def choose_precision(asked: str) -> str:
    """Resolves `--precision` and says why.

    bfloat16 is taken where the processor multiplies matrices in it: GPUs since compute
    capability 8.0 (Ampere), CPUs with AMX. A CPU with AVX512-BF16 only is no faster in
    it than in float32 (benchmarks/README.md).

    Args:
        asked: A value of `--precision`.

    Returns:
        Name of a Keras dtype policy.

    Raises:
        UserError: float16 is asked for where there is no GPU.
    """
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if asked == "mixed_float16" and not gpus:
        raise UserError(
            "--precision=mixed_float16 needs a GPU. Received: a machine without one; "
            "give --precision=auto"
        )
    if asked != "auto":
        return asked
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        capability = details.get("compute_capability", (0, 0))
        fast = capability >= (8, 0)
        reason = f"GPU of compute capability {capability[0]}.{capability[1]}"
    else:
        fast = "amx_bf16" in _cpu_flags()
        reason = f"CPU {'with' if fast else 'without'} AMX"
    precision = "mixed_bfloat16" if fast else "float32"
    log.info("Precision: %s (%s).", precision, reason)
    return precision


def _cpu_flags() -> set[str]:
    """Names of the CPU's features; empty where the system does not list them."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            return {flag for line in stream if ":" in line for flag in line.split()}
    except OSError:
        return set()


@contextlib.contextmanager
def precision(policy: str) -> Iterator[None]:
    """Layers made in this block compute in a Keras dtype policy."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def make_strategy(asked: str, batch_size: int) -> "tf.distribute.Strategy":
    """Resolves `--strategy`.

    Args:
        asked: A value of `--strategy`.
        batch_size: Examples per step, of all devices together.

    Returns:
        TensorFlow's strategy: the default one, or mirrored over all GPUs (all logical
        CPUs where there is no GPU).

    Raises:
        UserError: The devices could not share a batch evenly.
    """
    import tensorflow as tf

    gpus = tf.config.list_logical_devices("GPU")
    if asked == "none" or (asked == "auto" and len(gpus) < 2):
        return tf.distribute.get_strategy()
    devices = [d.name for d in gpus or tf.config.list_logical_devices("CPU")]
    if batch_size % len(devices):
        raise UserError(
            "--batch_size must be a multiple of the number of devices, "
            f"{len(devices)}. Received: {batch_size}"
        )
    log.info("Strategy: mirrored over %s.", ", ".join(devices))
    return tf.distribute.MirroredStrategy(devices)


def num_devices() -> int:
    """How many devices share a batch, by TensorFlow's present strategy."""
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


@contextlib.contextmanager
def measure(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Adds the block's duration in seconds to `seconds[name]`."""
    start = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
