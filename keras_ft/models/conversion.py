"""Checks of a network that KerasHub converted from a checkpoint of PyTorch.

A checkpoint has no expected features. What it has is compared: its values with the
variables, and the statistics of its BatchNorms with those of photographs. How maps are
padded is in neither, so the layers are checked for it.
"""

import logging
from pathlib import Path

import keras
import numpy as np
import skimage.data
import tensorflow as tf

from keras_ft.errors import UserError
from keras_ft.models.presets import Preset

log = logging.getLogger("keras_ft")

# Median over the BatchNorms. Networks that are right have about 0.3, see the tests.
_LARGEST_DEVIATION = 1.0
_PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")


def check_conversion(backbone: keras.Model, preset: Preset, file: Path) -> None:
    """Checks a converted network as far as its checkpoint allows, and logs how far.

    Args:
        backbone: The model of `hub.make_network`, with the converted weights.
        preset: What its files say.
        file: The .safetensors file.

    Raises:
        UserError: The network is not the one of the checkpoint.
    """
    _check_padding(backbone, preset)
    foreign = _find_foreign(backbone, file)
    if foreign and preset.is_convolutional:
        raise UserError(
            f"--backbone=hub:{preset.source} is not converted correctly by KerasHub: "
            f"{len(foreign)} variables have no values of {file}, the first {foreign[0]}"
        )
    deviation = compute_deviation(backbone)
    if deviation is None:
        log.warning(
            "The conversion of %s was not checked on an image: its checkpoint has no "
            "statistics of BatchNorm to compare with. Of %d variables, all but %d have "
            "values of the checkpoint.",
            file,
            len(backbone.variables),
            len(foreign),
        )
        return
    if not deviation <= _LARGEST_DEVIATION:
        raise UserError(
            f"--backbone=hub:{preset.source} is not converted correctly by KerasHub: on "
            f"photographs, the input of BatchNorm is {deviation:.2g} standard "
            f"deviations from the checkpoint's mean, more than {_LARGEST_DEVIATION:g}"
        )
    log.info(
        "The conversion of %s was checked: all %d variables have values of the "
        "checkpoint; on photographs, the input of BatchNorm is %.2g standard "
        "deviations from the checkpoint's mean.",
        file,
        len(backbone.variables),
        deviation,
    )


def compute_deviation(backbone: keras.Model) -> float | None:
    """Compares the inputs of BatchNorm on photographs with its statistics.

    Returns:
        The distance of their mean from the moving mean in standard deviations: root
        mean square over the channels, median over the BatchNorms. None if there is no
        BatchNorm, or its statistics are the initial ones.
    """
    norms = [
        layer
        for layer in backbone.layers
        if isinstance(layer, keras.layers.BatchNormalization)
        and layer.moving_mean.numpy().any()
    ]
    if not norms:
        return None
    side = backbone.input_shape[1]
    images = np.stack([_read_photograph(name, side) for name in _PHOTOGRAPHS])
    inputs = keras.Model(backbone.input, [norm.input for norm in norms])
    deviations = []
    for norm, values in zip(norms, keras.tree.flatten(inputs(images)), strict=True):
        mean = np.mean(values, axis=(0, 1, 2), dtype="float64")
        std = np.sqrt(norm.moving_variance.numpy() + norm.epsilon)
        distance = (mean - norm.moving_mean.numpy()) / std
        deviations.append(np.sqrt(np.mean(distance**2)))
    return float(np.median(deviations))


def _read_photograph(name: str, side: int) -> np.ndarray:
    pixels = getattr(skimage.data, name)().astype("float32")
    return tf.image.resize(pixels, (side, side), antialias=True).numpy()


def _check_padding(backbone: keras.Model, preset: Preset) -> None:
    """Refuses a network of PyTorch whose maps are padded as TensorFlow pads them.

    With a stride, PyTorch pads both sides and `same` padding mostly one.

    Raises:
        UserError: A layer is padded differently.
    """
    for layer in backbone.layers:
        kernel = getattr(layer, "kernel_size", getattr(layer, "pool_size", 1))
        if (
            getattr(layer, "padding", "valid") == "same"
            and np.max(kernel) > np.max(layer.strides) > 1
        ):
            raise UserError(
                f"--backbone=hub:{preset.source} is not converted correctly by "
                f"KerasHub: layer {layer.name} pads maps unlike PyTorch, so features "
                "would be wrong. Use the network of Keras Applications or KerasHub's "
                "own preset, if there is one"
            )


def _find_foreign(backbone: keras.Model, file: Path) -> list[str]:
    """Paths of the variables whose values are no tensor of a .safetensors file."""
    import safetensors.numpy

    known = {_fingerprint(x) for x in safetensors.numpy.load_file(file).values()}
    return [v.path for v in backbone.variables if _fingerprint(v.numpy()) not in known]


def _fingerprint(values: np.ndarray) -> tuple[int, ...]:
    """The same for equal values in any order and shape."""
    bits = np.ascontiguousarray(values, "float32").view("uint32").astype("uint64")
    return bits.size, int(bits.sum()), int(np.bitwise_xor.reduce(bits, axis=None))
