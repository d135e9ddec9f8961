"""The stages of a network of KerasHub, found in its layers."""

import re

import keras

from keras_ft.catalog.backbones import Stages
from keras_ft.errors import UserError
from keras_ft.extras.hub.presets import Preset
from keras_ft.models.layers import children

# Classes of blocks and stages that lie inside another layer, or are made of several.
_BLOCKS = (
    "(ViT|DeiT)EncoderBlock|DINOV[23]Layer|(SigLIP|CLIP)EncoderLayer|"
    "(SwinTransformer|HGNetV2)Stage"
)


def find_stages(network: keras.Model, preset: Preset) -> Stages:
    """Finds the first layer of each stage; UserError if its files say other stages."""
    blocks = _find_blocks(network)
    first = next(layer.name for layer in network.layers if layer.weights)
    first_layers = [first, *blocks] if blocks else _find_resolutions(network)
    names = preset.stages or [f"stage{i + 1}" for i, _ in enumerate(first_layers)]
    if len(first_layers) != len(names):
        raise UserError(
            f"--backbone=hub:{preset.source} must have {len(names)} stages. "
            f"Received: {len(first_layers)}; give a larger --image_size or another "
            "network"
        )
    return tuple(zip(names, first_layers, strict=True))


def _find_blocks(layer: keras.Layer) -> list[str]:
    """Names of the blocks that a network consists of, at the top or inside a layer."""
    inner = children(layer)
    blocks = [part.name for part in inner if re.fullmatch(_BLOCKS, type(part).__name__)]
    return blocks or next(filter(None, map(_find_blocks, inner)), [])


def _find_resolutions(network: keras.Model) -> list[str]:
    """First layer of each part with weights and one resolution, and a single input."""
    names: list[str] = []
    for part in _split_by_resolution(network):
        layers = [x for x in part if isinstance(x, keras.Layer)]
        with_weights = [x.name for x in layers if x.weights]
        if not names:  # layers before the first weights belong to the first part
            names = with_weights[:1]
        elif with_weights:
            names.append(next(x.name for x in layers if x.input is part[0].input))
    return names


def _split_by_resolution(network: keras.Model) -> list[list[keras.Operation]]:
    """Splits operations where a single tensor, a smaller map, decides what follows."""
    operations = list(network.operations)
    last_use = {id(tensor): len(operations) for tensor in network.outputs}
    for i, operation in enumerate(operations):
        for tensor in keras.tree.flatten(operation.input):
            last_use[id(tensor)] = max(i, last_use.get(id(tensor), 0))
    bounds, side, bottleneck, alive = [0], network.input_shape[1], 0, set[int]()
    for i, operation in enumerate(operations):
        outputs = keras.tree.flatten(operation.output)
        alive = {tensor for tensor in alive if last_use[tensor] > i}
        alive |= {id(tensor) for tensor in outputs}
        if len(alive) > 1 or len(outputs[0].shape) != 4:
            continue
        # Padding enlarges a map a little; a stride halves it.
        if outputs[0].shape[1] <= 0.75 * side:
            side = outputs[0].shape[1]
            bounds.append(bottleneck + 1)
        bottleneck = i
    pairs = zip(bounds, [*bounds[1:], len(operations)], strict=True)
    return [operations[start:end] for start, end in pairs]
