"""From pixels to logits: normalise, backbone, pool, dropout, head; what is frozen."""

import dataclasses
import pkgutil
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_ft.models.backbones import BACKBONES
from keras_ft.models.folding import copy_to_train, write_back
from keras_ft.system.devices import num_devices

_TEMPERATURE = "temperature"
_BEHIND_POOLING = ("dropout", "head", _TEMPERATURE)
# Of BatchNorm that learns; PyTorch's default. Keras's networks have 0.99 and more, and
# with a few hundred steps their statistics never arrive at what the weights became.
_MOMENTUM = 0.9
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


def make_backbone(name: str, image_size: int) -> keras.Model:
    """Builds a backbone with random weights and without its classifier.

    Args:
        name: A key of `BACKBONES`, and the name of the model returned.
        image_size: S, at least the row's `min_image_size`.

    Returns:
        A model from float32 [B, S, S, 3], normalised as its row says, to a feature
        map [B, h, w, D].
    """
    builder = pkgutil.resolve_name(BACKBONES[name].builder)
    network = builder(
        include_top=False, weights=None, input_shape=(image_size, image_size, 3)
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
    x = keras.layers.Dropout(dropout, name="dropout")(x)
    logits = keras.layers.Dense(num_classes, dtype="float32", name="head")(x)
    return keras.Model(images, logits, name="classifier")


def set_temperature(classifier: keras.Model, temperature: float) -> keras.Model:
    """The classifier with its logits divided by a fixed number.

    Args:
        classifier: A model of `make_classifier`, or one with another temperature.
        temperature: See `calibration.fit_temperature`.

    Returns:
        A model around the same layers.
    """
    scale = keras.layers.Rescaling(1 / temperature, name=_TEMPERATURE, dtype="float32")
    logits = scale(classifier.get_layer("head").output)
    return keras.Model(classifier.input, logits, name=classifier.name)


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


def set_trainable(
    backbone: keras.Model, stages: Sequence[str], batch_norm: str
) -> None:
    """Decides what learns. Takes effect with the next `compile`.

    Args:
        backbone: A model of `make_backbone`.
        stages: Names of the stages to train.
        batch_norm: `fixed` (statistics, gamma and beta keep their values) or
            `train` (those of the stages that learn, learn too).

    Raises:
        ValueError: If `batch_norm` is not one of its values.
    """
    if batch_norm not in ("fixed", "train"):
        raise ValueError(
            f"batch_norm must be fixed or train. Received: batch_norm={batch_norm}"
        )
    all_stages = BACKBONES[backbone.name].stages
    starts = {layer: stage for stage, layer in all_stages}
    stage, _ = all_stages[0]
    backbone.trainable = True
    for layer in backbone.layers:
        stage = starts.get(layer.name, stage)
        _set_leaves(layer, stage in stages, batch_norm == "fixed")


@dataclasses.dataclass(frozen=True)
class Parts:
    """A classifier cut where learning begins; see `split`.

    Attributes:
        prefix: What is frozen before the first layer that learns: from images float32
            [B, S, S, 3] in [0, 255] to features, pooled [B, D] if the backbone is
            frozen, else a feature map [B, h, w, C]. None if the first stage learns.
        rest: From the prefix's features (without a prefix, from images) to logits
            float32 [B, K].
        backbone: The copy of the backbone that both are made of.
    """

    prefix: keras.Model | None
    rest: keras.Model
    backbone: keras.Model

    def join(self) -> keras.Model:
        """The model from images to logits; it shares the weights of both parts."""
        if self.prefix is None:
            return self.rest
        logits = self.rest(self.prefix(self.prefix.input))
        return keras.Model(self.prefix.input, logits, name="classifier")

    def write_back(self, classifier: keras.Model) -> None:
        """Gives the classifier that was split what was learned."""
        write_back(self.backbone, get_backbone(classifier))


def split(classifier: keras.Model, stages: Sequence[str], fold: bool) -> Parts:
    """Cuts a copy of a classifier where learning begins.

    The copy computes in Keras's present dtype policy and leaves out what it can, see
    `copy_to_train`. The head is no copy.

    Args:
        classifier: A float32 model of `make_classifier`, after `set_trainable`.
        stages: Names of the stages to train, in topological order.
        fold: Whether to fold fixed BatchNorm also where convolutions learn.
    """
    copy = copy_to_train(get_backbone(classifier), fold)
    pooled = keras.layers.GlobalAveragePooling2D()(copy.output)
    first_layers = dict(BACKBONES[copy.name].stages)
    images = keras.Input(classifier.input_shape[1:], dtype="float32", name="image")
    normalised = _normalise(images, BACKBONES[copy.name].normalisation)
    if stages and stages[0] == next(iter(first_layers)):
        tail = keras.Model(copy.input, pooled)
        return Parts(
            None, keras.Model(images, _head(classifier, tail(normalised))), copy
        )
    cut = copy.get_layer(first_layers[stages[0]]).input if stages else pooled
    front = keras.Model(copy.input, cut)
    prefix = keras.Model(images, front(normalised), name="prefix")
    features = keras.Input(cut.shape[1:], dtype="float32", name="features")
    x = features
    if stages:
        x = keras.Model(cut, pooled)(_RoundToFloat16(dtype="float32")(x))
    return Parts(prefix, keras.Model(features, _head(classifier, x)), copy)


def fold_classifier(classifier: keras.Model) -> keras.Model:
    """Builds the classifier for inference: what can be folded is.

    Args:
        classifier: A model of `make_classifier`; from now on, nothing of it learns.
    """
    set_trainable(get_backbone(classifier), (), "fixed")
    return split(classifier, (), fold=True).join()


class _RoundToFloat16(keras.layers.Layer):
    """Rounds feature maps in training as their 16-bit storage does.

    So training is the same whether features come from the disk or not.
    """

    def call(self, features, training=False):
        if not training:
            return features
        largest = np.finfo(np.float16).max
        features = keras.ops.clip(features, -largest, largest)
        return keras.ops.cast(keras.ops.cast(features, "float16"), "float32")


def _head(classifier: keras.Model, features: keras.KerasTensor) -> keras.KerasTensor:
    """Applies what a classifier has behind its backbone and pooling."""
    logits = features
    for layer in classifier.layers:
        if layer.name in _BEHIND_POOLING:
            logits = layer(logits)
    return logits


def predict_probabilities(
    model: keras.Model, inputs: tf.data.Dataset, num_examples: int
) -> np.ndarray:
    """Class probabilities of every example, in the dataset's order.

    Args:
        model: From inputs to logits [B, K].
        inputs: Batches of what the model takes, see `pipeline.make_inputs`.
        num_examples: N.

    Returns:
        float32 [N, K], rows sum to 1.

    Raises:
        RuntimeError: The number of predictions is not that of the inputs.
    """
    logits = model.predict(inputs, verbose=0)
    if not 0 <= len(logits) - num_examples < num_devices():
        raise RuntimeError(f"{len(logits)} predictions for {num_examples} examples")
    logits = logits[:num_examples]
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
        is_batch_norm = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = trainable and not (is_batch_norm and fix_batch_norm)
        if is_batch_norm and layer.trainable:
            layer.momentum = _MOMENTUM


def _normalise(images: keras.KerasTensor, normalisation: str) -> keras.KerasTensor:
    """Applies a row's normalisation to images float32 [B, S, S, 3] in [0, 255]."""
    if normalisation == "included":
        return images
    if normalisation == "caffe":
        images = keras.ops.flip(images, axis=-1)
    # In float32 even under mixed precision: bfloat16 would be off by a grey level.
    return keras.layers.Rescaling(dtype="float32", **_RESCALING[normalisation])(images)
