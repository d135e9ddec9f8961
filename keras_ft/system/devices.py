"""The devices that compute: seed, precision, distribution, unused GPUs."""

import contextlib
import dataclasses
import importlib.metadata
import logging
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import keras
import tensorflow as tf
from tensorflow.python.data.ops import multi_device_iterator_ops as iterators

from keras_ft.errors import UserError
from keras_ft.host import cpu, onednn
from keras_ft.system.distribution import without_tuning
from keras_ft.system.team import Team

log = logging.getLogger("keras_ft")

_DEVICE_FILES = Path("/dev")


def set_seed(seed: int, deterministic: bool) -> None:
    """Seeds Python, NumPy and TensorFlow, whose operations may be deterministic."""
    keras.utils.set_random_seed(seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()


def choose_precision(requested: str, network: keras.Model) -> str:
    """Resolves `--precision` to the name of a Keras dtype policy; logs the reason.

    `auto` is bfloat16 where the network is faster in it: on GPUs since compute
    capability 8.0 (Ampere), on CPUs with AMX, and on AMD's with AVX512-BF16, but there
    not with depthwise convolutions. On one of Intel's that has only the latter, it was
    slower than float32. benchmarks/README.md has the measurements. CPUs need oneDNN for
    it. float16 without a GPU raises a UserError.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if requested == "mixed_float16" and not gpus:
        raise UserError(
            "--precision=mixed_float16 needs a GPU. Received: a machine without one; "
            "give --precision=auto"
        )
    if requested != "auto":
        log.info("Precision: %s, as requested.", requested)
        return requested
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        capability = details.get("compute_capability", (0, 0))
        fast = capability >= (8, 0)
        reason = f"GPU of compute capability {capability[0]}.{capability[1]}"
    else:
        flags = cpu.flags()
        is_amd = "AuthenticAMD" in flags
        feature = "avx512_bf16" if is_amd else "amx_bf16"
        fast = feature in flags and onednn.is_on()
        reason = f"CPU {'with' if fast else 'without'} fast bfloat16"
        if fast and is_amd and _has_depthwise(network):
            fast, reason = False, "CPU with slow depthwise convolutions in bfloat16"
    precision = "mixed_bfloat16" if fast else "float32"
    log.info("Precision: %s (%s).", precision, reason)
    return precision


def _has_depthwise(network: keras.Model) -> bool:
    # The product of `SeparableConv2D` outweighs its depthwise part.
    layers = network._flatten_layers()
    return any(isinstance(layer, keras.layers.DepthwiseConv2D) for layer in layers)


@contextlib.contextmanager
def precision(policy: str) -> Iterator[None]:
    """Sets the Keras dtype policy of the layers that the block makes."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def make_strategy(
    requested: str,
    batch_size: int,
    team: Team = Team(),  # noqa: B008
) -> tf.distribute.Strategy:
    """Resolves `--strategy`; must precede every operation of TensorFlow.

    It mirrors over all GPUs, or over all logical CPUs where there is no GPU. Raises a
    UserError if the batch can't be divided evenly among the devices.
    """
    if team.strategy:
        _end_iterators_at_once()
        return team.strategy
    gpus = tf.config.list_logical_devices("GPU")
    if requested == "none" or (requested == "auto" and len(gpus) < 2):
        return tf.distribute.get_strategy()
    devices = [d.name for d in gpus or tf.config.list_logical_devices("CPU")]
    if batch_size % len(devices):
        raise UserError(
            "--batch_size must be a multiple of the number of devices, "
            f"{len(devices)}. Received: {batch_size}"
        )
    log.info("Strategy: mirrored over %s.", ", ".join(devices))
    _end_iterators_at_once()
    return tf.distribute.MirroredStrategy(devices)


def _end_iterators_at_once() -> None:
    """Turns the tuning of iterators on devices off, as `without_tuning` does.

    They make a dataset of their own, which has nothing to tune; up to 41 seconds were
    seen at the end of a validation.
    """
    create = iterators._create_device_dataset
    iterators._create_device_dataset = lambda *args: without_tuning(create(*args))


def warn_of_unused_gpu() -> None:
    """Warns if the machine has an NVIDIA GPU that TensorFlow does not see."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0")  # -1 and "" hide all GPUs
    is_hidden = not re.match(r"\s*(\d|GPU-|MIG-)", visible)
    if tf.config.list_physical_devices("GPU") or is_hidden or not _has_gpu():
        return
    build = tf.sysconfig.get_build_info()
    if not build["is_cuda_build"]:
        reason = (
            "it is a build for CPUs only. pip install 'keras_ft[cuda]' in a new "
            "environment installs one for GPUs (x86-64)"
        )
    elif not _is_installed("nvidia-cudnn-cu12"):
        reason = (
            "the CUDA libraries are not installed. pip install 'keras_ft[cuda]' "
            "installs them"
        )
    else:
        reason = (
            f"the driver is too old for CUDA {build['cuda_version']}, or a library of "
            "pip install 'keras_ft[cuda]' is missing. TF_CPP_MIN_LOG_LEVEL=0 shows more"
        )
    log.warning("TensorFlow does not see this machine's GPU. Probably %s.", reason)


def _has_gpu() -> bool:
    """Whether the machine has an NVIDIA GPU, with or without CUDA."""
    # nvidiactl and others without a number are there without a GPU, too.
    if any(_DEVICE_FILES.glob("nvidia[0-9]*")):
        return True
    try:  # WSL has no such files
        done = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return "GPU 0:" in done.stdout


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@dataclasses.dataclass(frozen=True)
class Compute:
    """Where and how a network is trained; precision is a Keras dtype policy."""

    strategy: tf.distribute.Strategy
    precision: str
    team: Team = Team()

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Models made in this block are trained so."""
        with self.strategy.scope(), precision(self.precision):
            yield


def num_devices() -> int:
    """Number of devices that share a batch under TensorFlow's current strategy."""
    return tf.distribute.get_strategy().num_replicas_in_sync
