"""Checks of a network that KerasHub converted from a checkpoint of PyTorch.

Every variable of a convolutional network must have values of the checkpoint, and pad as
PyTorch does. ResNets are computed once more from the checkpoint's tensors alone.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
import skimage.data
import tensorflow as tf

from keras_ft.errors import UserError
from keras_ft.extras.hub.presets import Preset

log = logging.getLogger("keras_ft")

Tensors = Mapping[str, np.ndarray]

# Largest difference of a feature that rounding explains, as a share of the largest one.
TOLERANCE = 1e-3


def check_conversion(backbone: keras.Model, preset: Preset, file: Path) -> None:
    """Raises a UserError if a converted network is not that of its checkpoint.

    It checks as much as the checkpoint allows, and logs how much that is.
    """
    import safetensors.tensorflow

    loaded = safetensors.tensorflow.load_file(file)
    tensors = {name: tensor.numpy() for name, tensor in loaded.items()}
    reason = _find_padding(backbone) or _find_foreign(backbone, tensors)
    if reason and preset.is_convolutional:
        raise _refuse(preset, reason)
    if "layer1.0.conv1.weight" not in tensors:
        log.warning(
            "The conversion of %s was not checked on an image. %s",
            file,
            reason or "All variables have values of the checkpoint.",
        )
        return
    difference = _compare_resnet(backbone, preset, tensors)
    if not difference <= TOLERANCE:
        reason = f"on a photograph, features differ from PyTorch's by {difference:.1g}"
        raise _refuse(preset, f"{reason} of the largest")
    log.info(
        "The conversion of %s was checked on a photograph: features differ from what "
        "its tensors give by %.0e of the largest.",
        file,
        difference,
    )


def _refuse(preset: Preset, reason: str) -> UserError:
    return UserError(
        f"--backbone=hub:{preset.source} is not converted correctly by KerasHub: "
        f"{reason}. Give another network, such as one of Keras Applications"
    )


def _find_padding(backbone: keras.Model) -> str:
    """Names a layer with a stride that pads mostly one side, unlike PyTorch."""
    for layer in backbone.layers:
        kernel = getattr(layer, "kernel_size", getattr(layer, "pool_size", 1))
        is_same = getattr(layer, "padding", "valid") == "same"
        if is_same and np.max(kernel) > np.max(layer.strides) > 1:
            return f"layer {layer.name} pads its input unlike PyTorch"
    return ""


def _find_foreign(backbone: keras.Model, tensors: Tensors) -> str:
    """Counts the variables whose values are no tensor; empty if there are none."""
    known = {_fingerprint(tensor) for tensor in tensors.values()}
    foreign = [
        variable.path
        for variable in backbone.variables
        if _fingerprint(variable.numpy()) not in known
    ]
    if not foreign:
        return ""
    return (
        f"{len(foreign)} of {len(backbone.variables)} variables have values that are "
        f"not in the checkpoint, the first {foreign[0]}"
    )


def _fingerprint(values: np.ndarray) -> tuple[int, ...]:
    """The same for equal values in any order and shape."""
    bits = np.ascontiguousarray(values, "float32").view("uint32").astype("uint64")
    return bits.size, int(bits.sum()), int(np.bitwise_xor.reduce(bits, axis=None))


def _compare_resnet(backbone: keras.Model, preset: Preset, tensors: Tensors) -> float:
    """Largest difference of a feature, as a share of the largest feature."""
    pixels = skimage.data.astronaut()[None].astype("float32")
    pixels = tf.image.resize(pixels, backbone.input_shape[1:3], antialias=True)
    config = preset.config["pretrained_cfg"]
    images = (pixels / 255 - config["mean"]) / config["std"]
    expected = compute_resnet(tensors, images)
    difference = tf.reduce_max(tf.abs(backbone(pixels, training=False) - expected))
    return float(difference / tf.reduce_max(tf.abs(expected)))


def compute_resnet(tensors: Tensors, images: tf.Tensor) -> tf.Tensor:
    """Computes a ResNet as torchvision and timm define it, from its tensors.

    He et al., arXiv 1512.03385; bottlenecks have their stride in the 3x3 convolution.

    It is a function of normalised images, float32 [B, S, S, 3], to the last feature
    map, float32 [B, h, w, D].
    """

    def convolve(x: tf.Tensor, conv: str, norm: str, stride: int = 1) -> tf.Tensor:
        kernel = tensors[f"{conv}.weight"].transpose(2, 3, 1, 0)
        x = _pad(x, kernel.shape[0] // 2)
        x = tf.nn.conv2d(x, kernel, stride, "VALID")
        mean, variance, offset, scale = (
            tensors[f"{norm}.{name}"]
            for name in ("running_mean", "running_var", "bias", "weight")
        )
        return tf.nn.batch_normalization(x, mean, variance, offset, scale, 1e-5)

    x = tf.nn.relu(convolve(images, "conv1", "bn1", 2))
    x = tf.nn.max_pool2d(_pad(x, 1), 3, 2, "VALID")
    for block in _list_blocks(tensors):
        stride = 2 if block.endswith(".0") and not block.startswith("layer1") else 1
        # The 3x3 convolution that has the stride is the first, or between two 1x1.
        strided = 2 if f"{block}.conv3.weight" in tensors else 1
        y = x
        for i in range(1, 4):
            if f"{block}.conv{i}.weight" in tensors:
                y = tf.nn.relu(y) if i > 1 else y
                step = stride if i == strided else 1
                y = convolve(y, f"{block}.conv{i}", f"{block}.bn{i}", step)
        if f"{block}.downsample.0.weight" in tensors:
            x = convolve(x, f"{block}.downsample.0", f"{block}.downsample.1", stride)
        x = tf.nn.relu(x + y)
    return x


def _list_blocks(tensors: Tensors) -> list[str]:
    """Names of the blocks, `layer1.0` and so on, in order."""
    names = {".".join(name.split(".")[:2]) for name in tensors if name[:5] == "layer"}
    return sorted(names, key=lambda name: [int(n) for n in name[5:].split(".")])


def _pad(x: tf.Tensor, width: int) -> tf.Tensor:
    return tf.pad(x, [[0, 0], [width, width], [width, width], [0, 0]])
