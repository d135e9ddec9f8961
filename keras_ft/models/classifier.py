"""The classifier: normalisation, backbone, pooling, dropout, heads; what is trained."""

import dataclasses
import pkgutil
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_ft.catalog import backbones
from keras_ft.catalog.preprocessing import ImageSize
from keras_ft.kinds.task import Task
from keras_ft.models.folding import copy_to_train, write_back
from keras_ft.models.heads import apply_heads, make_heads
from keras_ft.models.layers import set_leaves

_MEAN = (0.485, 0.456, 0.406)  # of ImageNet's RGB in [0, 1], and likewise below
_STD = (0.229, 0.224, 0.225)
_RESCALING: dict[str, dict[str, Any]] = {
    # Blue, green, red: the mean that was published with the Caffe networks.
    "caffe": {"scale": 1.0, "offset": [-103.939, -116.779, -123.68]},
    "tf": {"scale": 1 / 127.5, "offset": -1.0},
    "torch": {
        "scale": [1 / (255 * std) for std in _STD],
        "offset": [-mean / std for mean, std in zip(_MEAN, _STD, strict=True)],
    },
}


def make_backbone(name: str, image_size: ImageSize) -> keras.Model:
    """Builds a backbone of random weights (a user's network: its own), without its top.

    It is a model from float32 [B, H, W, 3], normalised as its row says, to a feature
    map [B, h, w, D], and has the same name, except for networks of a `Source`, which
    may raise a UserError.
    """
    if source := backbones.find_source(name):
        return pkgutil.resolve_name(source.build)(name, image_size)
    builder = pkgutil.resolve_name(backbones.find_backbone(name).builder)
    network = builder(include_top=False, weights=None, input_shape=(*image_size, 3))
    # The builder of EfficientNetV2 chooses the normalisation by its `name` argument,
    # so the network is built with the default name and renamed here.
    return keras.Model(network.input, network.output, name=name)


def make_classifier(
    backbone: keras.Model, tasks: Sequence[Task], dropout: float
) -> keras.Model:
    """Adds normalisation before a backbone, and pooling and new heads after it.

    The weights of the backbone are shared, not copied. `dropout` is the share of the
    pooled features that is dropped in training, in [0, 1).

    Returns:
        A model from images float32 [B, H, W, 3] in [0, 255] to logits
        float32 [B, K]; with several tasks, to a dict of them by the task's name. All
        layers are Keras's own, or the user's, so `keras.models.load_model` loads it
        without this package.
    """
    images = keras.Input(backbone.input_shape[1:], dtype="float32", name="image")
    x = _normalise(images, backbones.find_normalisation(backbone.name))
    # No `training` argument: its effect on a nested model depends on the version of
    # Keras. `trainable` decides instead, see set_trainable.
    x = backbone(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(dropout, name="dropout")(x)
    return keras.Model(images, make_heads(x, tasks), name="classifier")


def get_backbone(classifier: keras.Model) -> keras.Model:
    """Finds the backbone of a classifier; raises a ValueError if it has none."""
    for layer in classifier.layers:
        if backbones.is_model_name(layer.name):
            return layer
    raise ValueError(
        "A classifier must contain a backbone of this package. "
        f"Received: layers={[layer.name for layer in classifier.layers]}"
    )


def set_trainable(
    backbone: keras.Model, stages: Sequence[str], batch_norm: str
) -> None:
    """Sets which stages of a backbone are trained; call it before `compile`.

    If `batch_norm` is `fixed`, statistics, gamma and beta do not change; if it is
    `train`, they are trained in these stages, too.
    """
    # A model that was read from a file needs no row: nothing of it is trained.
    known = backbones.find_backbone(backbone.name).stages if stages else ()
    trained = {layer: stage in stages for stage, layer in known}
    from_input = bool(stages) and stages[0] == known[0][0]
    set_leaves(backbone, trained, from_input, batch_norm == "fixed")


@dataclasses.dataclass(frozen=True)
class Parts:
    """A classifier split before its first trainable layer; see `split`.

    Attributes:
        frozen: The layers before the first trainable one: from images float32
            [B, H, W, 3] in [0, 255] to features, which are pooled [B, D] if the whole
            backbone is frozen, otherwise a feature map [B, h, w, C] or tokens
            [B, N, C]. None if the first stage is trained, or training begins inside a
            layer.
        trainable: The other layers: from these features, or from images if `frozen` is
            None, to a dict of logits float32 [B, K] by task.
        backbone: The copy of the backbone whose layers both consist of.
    """

    frozen: keras.Model | None
    trainable: keras.Model
    backbone: keras.Model

    def join(self) -> keras.Model:
        """Builds the model from images to the dict of logits; it shares weights."""
        if self.frozen is None:
            return self.trainable
        logits = self.trainable(self.frozen(self.frozen.input))
        return keras.Model(self.frozen.input, logits, name="classifier")

    def write_back(self, classifier: keras.Model) -> None:
        """Copies the trained weights to the classifier that was split."""
        write_back(self.backbone, get_backbone(classifier))


def split(
    classifier: keras.Model, tasks: Sequence[Task], stages: Sequence[str], fold: bool
) -> Parts:
    """Splits a copy of a classifier, after `set_trainable`, before what is trained.

    The copy computes in Keras's global dtype policy and with fewer layers, see
    `copy_to_train`, also for `fold`. The heads are shared, not copied. The stages to
    train are in topological order.
    """
    copy = copy_to_train(get_backbone(classifier), fold)
    pooled = keras.layers.GlobalAveragePooling2D()(copy.output)
    starts = dict(backbones.find_backbone(copy.name).stages if stages else ())
    images = keras.Input(classifier.input_shape[1:], dtype="float32", name="image")
    normalised = _normalise(images, backbones.find_normalisation(copy.name))
    start = starts[stages[0]] if stages else ""
    is_inside = start not in {layer.name for layer in copy.layers}
    if stages and (stages[0] == next(iter(starts)) or is_inside):
        tail = keras.Model(copy.input, pooled)
        logits = apply_heads(classifier, tasks, tail(normalised))
        return Parts(None, keras.Model(images, logits), copy)
    boundary = copy.get_layer(start).input if stages else pooled
    front = keras.Model(copy.input, boundary)
    frozen = keras.Model(images, front(normalised), name="frozen")
    features = keras.Input(boundary.shape[1:], dtype="float32", name="features")
    x = features
    if stages:
        x = keras.Model(boundary, pooled)(_RoundToFloat16(dtype="float32")(x))
    trainable = keras.Model(features, apply_heads(classifier, tasks, x))
    return Parts(frozen, trainable, copy)


def fold_classifier(classifier: keras.Model, tasks: Sequence[Task]) -> keras.Model:
    """A classifier for inference, from images to a dict of logits by task.

    BatchNorm is folded where possible. The backbone of the original is frozen.
    """
    set_trainable(get_backbone(classifier), (), "fixed")
    return split(classifier, tasks, (), fold=True).join()


def get_folded_parts(folded: keras.Model) -> tuple[keras.Model, keras.Model]:
    """The two models that `fold_classifier` joins at the pooled features [B, D]."""
    _, network, heads = folded.layers  # after the input
    return network, heads


class _RoundToFloat16(keras.layers.Layer):
    """Rounds feature maps in training as their storage in 16 bits does.

    So training gives the same result whether features are cached or not.
    """

    def call(self, features: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not training:
            return features
        largest = np.finfo(np.float16).max
        features = keras.ops.clip(features, -largest, largest)
        return keras.ops.cast(keras.ops.cast(features, "float16"), "float32")


def _normalise(images: keras.KerasTensor, normalisation: str) -> keras.KerasTensor:
    if normalisation == "included":
        return images
    if normalisation == "caffe":
        images = keras.ops.flip(images, axis=-1)
    # In float32 also under mixed precision: bfloat16 is wrong by up to one grey level.
    return keras.layers.Rescaling(dtype="float32", **_RESCALING[normalisation])(images)
