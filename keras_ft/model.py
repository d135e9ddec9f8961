"""From pixels to logits: normalise, backbone, pool, dropout, head; what is frozen."""

import pkgutil

import keras
import numpy as np

from keras_ft.backbones import BACKBONES, stages_to_train
from keras_ft.data import Split
from keras_ft.pipeline import make_dataset

_MEAN = (0.485, 0.456, 0.406)  # of ImageNet's RGB in [0, 1], and likewise below
_STD = (0.229, 0.224, 0.225)
_RESCALING = {
    # The mean in the order blue, green, red, as published with the Caffe networks.
    "caffe": {"scale": 1.0, "offset": [-103.939, -116.779, -123.68]},
    "tf": {"scale": 1 / 127.5, "offset": -1.0},
    "torch": {
        "scale": [1 / (255 * std) for std in _STD],
        "offset": [-mean / std for mean, std in zip(_MEAN, _STD, strict=True)],
    },
}


def make_backbone(
    name: str, image_size: int, weights: str | None = None
) -> keras.Model:
    """Builds a backbone without its classifier.

    Args:
        name: A key of `BACKBONES`, and the name of the model returned.
        image_size: S, at least the row's `min_image_size`.
        weights: None (random), `imagenet` (Keras's own cache and download) or the
            path of a weights file. Defaults to None.

    Returns:
        A model from float32 [B, S, S, 3], normalised as its row says, to a feature
        map [B, h, w, D].

    Raises:
        Exception: Whatever Keras raises when it cannot find or read the weights.
    """
    builder = pkgutil.resolve_name(BACKBONES[name].builder)
    network = builder(
        include_top=False, weights=weights, input_shape=(image_size, image_size, 3)
    )
    # Some builders read their `name`: it chooses the weights file, and in
    # EfficientNetV2 the normalisation. So they keep their own, and we rename after.
    return keras.Model(network.input, network.output, name=name)


def make_classifier(
    backbone: keras.Model, num_classes: int, dropout: float
) -> keras.Model:
    """Puts normalisation before a backbone, and pooling and a new head behind it.

    Args:
        backbone: A model of `make_backbone`; its weights are shared, not copied.
        num_classes: K, the number of logits.
        dropout: Share of the pooled features dropped in training, in [0, 1).

    Returns:
        A model from images float32 [B, S, S, 3] in [0, 255] to logits
        float32 [B, K]. It is made of Keras's own layers only, so `load_model` reads
        it without this package.
    """
    images = keras.Input(backbone.input_shape[1:], dtype="float32", name="image")
    x = _normalise(images, BACKBONES[backbone.name].normalisation)
    # No `training` argument: Keras versions disagree about what it would mean.
    # `trainable` decides instead (see set_trainable).
    x = backbone(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(dropout)(x)
    logits = keras.layers.Dense(num_classes, dtype="float32", name="head")(x)
    return keras.Model(images, logits, name="classifier")


def get_backbone(classifier: keras.Model) -> keras.Model:
    """Finds the backbone inside a classifier, also after `load_model`.

    Raises:
        ValueError: If the model has no layer named after a row of `BACKBONES`.
    """
    for layer in classifier.layers:
        if layer.name in BACKBONES:
            return layer
    raise ValueError(
        "A classifier must contain a backbone of this package. "
        f"Received: layers={[layer.name for layer in classifier.layers]}"
    )


def set_trainable(backbone: keras.Model, unfreeze: str, batch_norm: str) -> None:
    """Decides what learns. Takes effect with the next `compile`.

    Args:
        backbone: A model of `make_backbone`.
        unfreeze: The stages that learn, see `stages_to_train`.
        batch_norm: `fixed` (statistics, gamma and beta keep their values) or
            `train` (those of the stages that learn, learn too).

    Raises:
        ValueError: If `unfreeze` or `batch_norm` is not one of its values.
    """
    if batch_norm not in ("fixed", "train"):
        raise ValueError(
            f"batch_norm must be fixed or train. Received: batch_norm={batch_norm}"
        )
    stages = BACKBONES[backbone.name].stages
    starts = {layer: stage for stage, layer in stages}
    learning = stages_to_train(backbone.name, unfreeze)
    stage, _ = stages[0]
    backbone.trainable = True
    for layer in backbone.layers:
        stage = starts.get(layer.name, stage)
        _set_leaves(layer, stage in learning, batch_norm == "fixed")


def predict_probabilities(
    classifier: keras.Model, split: Split, batch_size: int
) -> np.ndarray:
    """Class probabilities of every example, in the split's order.

    Args:
        classifier: A model of `make_classifier`.
        split: N examples.
        batch_size: Images per step.

    Returns:
        float32 [N, K], rows sum to 1.

    Raises:
        RuntimeError: The number of predictions is not N.
    """
    _, size, _, _ = classifier.input_shape
    dataset = make_dataset(split, classifier.output_shape[-1], size, batch_size)
    logits = classifier.predict(dataset, verbose=0)
    if len(logits) != len(split):
        raise RuntimeError(f"{len(logits)} predictions for {len(split)} examples")
    return keras.ops.convert_to_numpy(keras.ops.softmax(logits))


def _set_leaves(layer: keras.Layer, trainable: bool, fix_batch_norm: bool) -> None:
    # Keras ignores an assignment that does not change a container's own flag, so
    # every leaf is assigned by itself. Containers are always trainable: a frozen one
    # lists no trainable weights, although an outer model still trains its leaves.
    if isinstance(layer, keras.Model):
        layer.trainable = True
        for inner in layer.layers:
            _set_leaves(inner, trainable, fix_batch_norm)
    else:
        fixed = fix_batch_norm and isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = trainable and not fixed


def _normalise(images: keras.KerasTensor, normalisation: str) -> keras.KerasTensor:
    """Applies a row's normalisation to images float32 [B, S, S, 3] in [0, 255]."""
    if normalisation == "included":
        return images
    if normalisation == "caffe":
        images = keras.ops.flip(images, axis=-1)
    # In float32 even under mixed precision: bfloat16 would be off by a grey level.
    return keras.layers.Rescaling(dtype="float32", **_RESCALING[normalisation])(images)
