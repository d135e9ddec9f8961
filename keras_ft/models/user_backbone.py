"""Networks of the user's as backbones: `--backbone=py:MODULE:FUNCTION`."""

import dataclasses
import inspect
from typing import Any

import keras

from keras_ft.catalog.backbones import Stages, add_backbone, find_backbone, find_builder
from keras_ft.catalog.preprocessing import ImageSize
from keras_ft.errors import UserError
from keras_ft.host import user_code
from keras_ft.models.layers import is_of_keras
from keras_ft.models.published import shorten


def make_network(reference: str, size: ImageSize) -> keras.Model:
    """Calls the user's function, and adds the row of the network that it returns.

    Args:
        reference: Of a function without arguments, or with the argument `image_shape`,
            (H, W, 3). It returns a functional model from images float32 [B, H, W, 3] in
            [0, 255] to a feature map [B, h, w, D] or to pooled features [B, D]; or a
            pair of it and its stages, names with the name of each one's first layer.

    Returns:
        A copy, with the weights that the user's network has. Pooled features are a map
        with h = w = 1.

    Raises:
        UserError: The function returns something else.
    """
    named = f"--backbone={reference}"
    function = user_code.load("backbone", reference)
    if not callable(function):
        raise UserError(f"{named} must be a function. Received: {function!r:.80}")
    with user_code.calling("backbone", reference):
        takes_shape = "image_shape" in inspect.signature(function).parameters
        made = function(image_shape=(*size, 3)) if takes_shape else function()
    is_pair = isinstance(made, tuple) and len(made) == 2
    model, stages = made if is_pair else (made, None)
    network = _copy(_to_map(_fix_size(model, size, named), named), named)
    row = find_backbone(reference)
    row = dataclasses.replace(row, stages=_find_stages(network, stages, named))
    add_backbone(row)
    return keras.Model(network.input, network.output, name=row.model_name)


def load_network(reference: str, size: ImageSize) -> tuple[keras.Model, None]:
    """`make_network`, whose weights come from no file."""
    return make_network(reference, size), None


def find_code(backbone: keras.Model) -> str:
    """The reference of a network with layers of the user's own; empty of others."""
    builder = find_builder(backbone.name)
    layers = backbone._flatten_layers(include_self=False)
    is_own = builder.startswith(user_code.PREFIX) and not all(map(is_of_keras, layers))
    return builder if is_own else ""


def _fix_size(model: Any, size: ImageSize, named: str) -> keras.Model:
    """A functional model of images of one size, which shares layers."""
    inputs = getattr(model, "inputs", None) if isinstance(model, keras.Model) else None
    if not inputs or len(inputs) != 1 or len(model.outputs) != 1:
        raise UserError(
            f"{named} must return keras.Model(images, features), a functional model "
            f"with one input and one output, alone or with its stages. Received: "
            f"{type(model).__name__}"
        )
    shape = tuple(inputs[0].shape[1:])
    if len(shape) != 3 or any(
        n not in (None, m) for n, m in zip(shape, (*size, 3), strict=True)
    ):
        raise UserError(
            f"{named} must return a network of images [B, {size.height}, {size.width}, "
            f"3], which --image_size says. Received: an input of shape {shape}"
        )
    flat = keras.Model(inputs[0], model.outputs[0])
    if None not in shape:
        return flat
    images = keras.Input((*size, 3), name="image")
    return keras.Model(images, flat.call(images))


def _to_map(model: keras.Model, named: str) -> keras.Model:
    features = model.output
    if len(features.shape) == 2:
        to_map = keras.layers.Reshape((1, 1, features.shape[-1]), name="to_map")
        return keras.Model(model.input, to_map(features))
    if len(features.shape) != 4 or None in features.shape[1:]:
        raise UserError(
            f"{named} must return a network to a feature map [B, h, w, D] or to pooled "
            f"features [B, D]. Received: an output of shape {features.shape}"
        )
    return model


def _copy(model: keras.Model, named: str) -> keras.Model:
    """Copies a network as saving and loading would."""
    try:
        config = keras.saving.serialize_keras_object(model)
        copy = keras.saving.deserialize_keras_object(config, safe_mode=True)
        copy.set_weights(model.get_weights())
    except Exception as error:  # Keras and layers raise all kinds
        raise UserError(
            f"{named} must return layers that can be saved: layers of your own need "
            "get_config and @keras.saving.register_keras_serializable(). Received: "
            f"{shorten(str(error).rpartition('Exception encountered: ')[2])}"
        ) from error
    return copy


def _find_stages(network: keras.Model, stages: Any, named: str) -> Stages:
    """Checks the user's stages; without any, the network is one stage, `all`."""
    names = [layer.name for layer in network.layers]
    try:
        pairs = dict(stages if stages else {"all": names[min(1, len(names) - 1)]})
    except (TypeError, ValueError):
        pairs = {}
    starts = list(pairs.values())
    if (
        not starts
        or not set(starts) <= set(names)
        or sorted(starts, key=names.index) != starts
    ):
        raise UserError(
            f"{named} must return stages as a dict of names and the name of each one's "
            f"first layer, in order; layers are {', '.join(names)[:200]}. "
            f"Received: {stages!r:.200}"
        )
    for stage, start in list(pairs.items())[1:]:
        try:
            keras.Model(network.get_layer(start).input, network.output)
        except ValueError:
            raise UserError(
                f"{named} must return stages that each begin where a single tensor "
                f"enters the rest of the network. Received: {stage}, at {start}"
            ) from None
    return tuple(pairs.items())
