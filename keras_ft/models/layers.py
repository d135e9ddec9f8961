"""Layers inside layers: what they are, and which of them are trained."""

from collections.abc import Mapping

import keras

# Of trainable BatchNorm; the default of PyTorch. With the 0.99 and more of Keras's
# networks a few hundred steps are too few for the statistics to follow the weights.
_MOMENTUM = 0.9
# DINOv2 does not save them at sizes other than its own: it interpolates them again.
_NEVER_TRAINED = ("interpolated_position_embeddings",)


def children(layer: keras.Layer) -> list[keras.Layer]:
    """The layers directly inside a layer, in the order in which they were made.

    Layers of Keras count as a whole, except for models.
    """
    if isinstance(layer, keras.Model):
        return layer.layers
    if is_of_keras(layer):
        return []
    return list(layer._flatten_layers(include_self=False, recursive=False))


def is_of_keras(operation: keras.Operation) -> bool:
    return type(operation).__module__.startswith("keras.")


def own_variables(layer: keras.Layer) -> list[keras.Variable]:
    """The variables of a layer itself that can be trained."""
    return list(layer._trainable_variables)


def set_leaves(
    layer: keras.Layer, stages: Mapping[str, bool], trained: bool, fix_batch_norm: bool
) -> bool:
    """Freezes what is inside a layer, or not; returns whether its last stage trains.

    Args:
        layer: A layer, or a container of layers such as the backbone.
        stages: Whether each is trained, by the name of its first layer.
        trained: Whether the stage before this layer is.
        fix_batch_norm: Whether no BatchNorm is trained.
    """
    trained = stages.get(layer.name, trained)
    inner = children(layer)
    if not inner:
        is_batch_norm = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = trained and not (is_batch_norm and fix_batch_norm)
        if is_batch_norm and layer.trainable:
            layer.momentum = _MOMENTUM
        return trained
    # Keras ignores an assignment to a container that does not change its own flag, so
    # each leaf is assigned separately. Containers are always trainable: a frozen one
    # lists no trainable weights, although an outer model still trains its leaves.
    layer.trainable = True
    for variable in own_variables(layer):
        variable.trainable = trained and variable.name not in _NEVER_TRAINED
    for part in inner:
        trained = set_leaves(part, stages, trained, fix_batch_norm)
    return trained
