"""Small networks of KerasHub, as presets in folders."""

import json
import os
from pathlib import Path

import numpy as np
from model_helpers import randomise

IMAGENET = {
    "scale": [1 / (255 * std) for std in (0.229, 0.224, 0.225)],
    "offset": [-2.1179, -2.0357, -1.8044],
}
# What timm's config.json says about preprocessing.
PRETRAINED_CFG = {
    "input_size": [3, 64, 64],
    "interpolation": "bicubic",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}
_RESNET = {
    "input_conv_filters": [64],
    "input_conv_kernel_sizes": [7],
    "stackwise_num_filters": [64, 32, 32, 32],
    "stackwise_num_blocks": [1, 1, 1, 1],
    "stackwise_num_strides": [1, 2, 2, 2],
    "block_type": "basic_block",
}
_VD = {
    "input_conv_filters": [32, 32, 64],
    "input_conv_kernel_sizes": [3, 3, 3],
    "block_type": "basic_block_vd",
}
_TOKENS = {"num_layers": 3, "num_heads": 2, "hidden_dim": 16}
_EFFICIENTNET = {
    "stackwise_kernel_sizes": [3, 3, 5, 3, 5, 5, 3],
    "stackwise_num_repeats": [1] * 7,
    "stackwise_input_filters": [32, 16, 24, 40, 80, 112, 192],
    "stackwise_output_filters": [16, 24, 40, 80, 112, 192, 320],
    "stackwise_expansion_ratios": [1, 6, 6, 6, 6, 6, 6],
    "stackwise_strides": [1, 2, 2, 2, 1, 2, 1],
    "stackwise_squeeze_and_excite_ratios": [0.25] * 7,
    "stackwise_force_input_filters": [0] * 7,
    "stackwise_nores_option": [False] * 7,
    "stackwise_block_types": ["v1"] * 7,
    "width_coefficient": 0.25,
    "depth_coefficient": 1.0,
    "include_stem_padding": True,
    "stem_conv_padding": "valid",
}
_CSPNET = {
    "stem_filters": 32,
    "stem_kernel_size": 3,
    "stem_strides": 1,
    "stem_padding": "same",
    "stackwise_strides": [2] * 5,
    "stackwise_depth": [1] * 5,
    "stackwise_num_filters": [16, 16, 24, 24, 32],
    "down_growth": True,
    "bottle_ratio": (0.5, 1.0),
    "block_ratio": (1.0, 0.5),
    "expand_ratio": (2.0, 1.0),
    "block_type": "dark_block",
    "stage_type": "csp",
}
_XCEPTION = {
    "stackwise_conv_filters": [[8, 8], [16], [24], [32], [40], [48]],
    "stackwise_pooling": [False, True, True, True, True, False],
}
_RESNET18 = _RESNET | {
    "stackwise_num_filters": [64, 128, 256, 512],
    "stackwise_num_blocks": [2, 2, 2, 2],
}
# By name: class, arguments, height and width. The sizes of transformers are not those
# of their defaults.
NETWORKS = {
    "resnet": ("ResNet", _RESNET, 32),
    "resnet_vd": ("ResNet", _RESNET | _VD, 32),
    "resnet_v2": ("ResNet", _RESNET | {"use_pre_activation": True}, 32),
    "efficientnet": ("EfficientNet", _EFFICIENTNET, 32),
    "mobilenet": ("mobilenetv3_small_050", {}, 32),
    "densenet": ("DenseNet", {"stackwise_num_repeats": [1] * 4, "growth_rate": 8}, 32),
    "cspnet": ("CSPNet", _CSPNET, 32),
    "hgnetv2": ("hgnetv2_b0", {}, 32),
    "vgg": (
        "VGG",
        {"stackwise_num_repeats": [1] * 5, "stackwise_num_filters": [8] * 5},
        32,
    ),
    "xception": ("Xception", _XCEPTION, 71),
    "vit": ("ViT", _TOKENS | {"patch_size": 8, "mlp_dim": 32}, 32),
    "deit": ("DeiT", _TOKENS | {"patch_size": 8, "intermediate_dim": 32}, 32),
    "dinov2": (
        "DINOV2",
        _TOKENS
        | {"patch_size": 8, "intermediate_dim": 32, "num_register_tokens": 2}
        | {"position_embedding_shape": (32, 32, 3)},
        32,
    ),
    "dinov3": ("DINOV3", _TOKENS | {"patch_size": 8, "intermediate_dim": 32}, 32),
    "clip": ("CLIP", _TOKENS | {"patch_size": 8, "intermediate_dim": 32}, 32),
    "siglip": ("SigLIP", _TOKENS | {"patch_size": 8, "intermediate_dim": 32}, 32),
    "swin": (
        "SwinTransformer",
        {"embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2), "window_size": 4},
        32,
    ),
}


def make_preset(folder: Path, name: str) -> Path:
    """Writes a preset with random weights; returns its folder."""
    import keras_hub

    networks = NETWORKS | {"resnet18": ("ResNet", _RESNET18, 32)}
    family, config, size = networks[name]
    shape = {"image_shape": (size, size, 3)}
    if family.islower():  # an architecture of timm
        write_json(folder / "timm" / "config.json", {"architecture": family})
        network = keras_hub.models.Backbone.from_preset(
            str(folder / "timm"), load_weights=False, **shape
        )
        family = type(network).__name__.removesuffix("Backbone")
    elif family in ("CLIP", "SigLIP"):
        network = _make_two_towers(family, config | shape)
    else:
        network = getattr(keras_hub.models, f"{family}Backbone")(**config, **shape)
    save_preset(folder / name, randomise(network), size)
    return folder / name


def save_preset(folder: Path, network, size: int) -> None:
    """Writes a network and its normalisation as KerasHub does."""
    import keras_hub

    network.save_to_preset(str(folder))
    converter = type(network).__name__.replace("Backbone", "ImageConverter")
    make = getattr(keras_hub.layers, converter)
    make(image_size=(size, size), **IMAGENET).save_to_preset(str(folder))


def write_json(path: Path, content) -> None:
    """Writes a JSON file, with its folder."""
    os.makedirs(path.parent, exist_ok=True)
    path.write_text(json.dumps(content))


def _make_two_towers(family, config):
    import keras_hub

    text = {"vocabulary_size": 16, "embedding_dim": 16, "hidden_dim": 16}
    text |= {"num_layers": 1, "num_heads": 2, "intermediate_dim": 16}
    towers = {
        "vision_encoder": getattr(keras_hub.models, f"{family}VisionEncoder")(**config),
        "text_encoder": getattr(keras_hub.models, f"{family}TextEncoder")(**text),
    }
    if family == "CLIP":
        towers["projection_dim"] = 16
    return getattr(keras_hub.models, f"{family}Backbone")(**towers)


def run_keras_hub(folder: Path, pixels: np.ndarray) -> np.ndarray:
    """What KerasHub itself returns for images float32 [N, S, S, 3] in [0, 255]."""
    import keras_hub

    size = pixels.shape[1]
    network = keras_hub.models.Backbone.from_preset(str(folder))
    network = getattr(network, "vision_encoder", network)
    converter = keras_hub.layers.ImageConverter.from_preset(str(folder))
    converter.image_size = (size, size)
    images = converter(pixels)
    if isinstance(network.input, dict):
        images = dict.fromkeys(network.input, images)
    outputs = network(images, training=False)
    if isinstance(outputs, dict):
        outputs = outputs["stage4"]
    return np.array(outputs)


def resnet_tensors(blocks=(2, 2, 2, 2), bottleneck=False) -> dict[str, np.ndarray]:
    """Random tensors of a ResNet with the names and layout of PyTorch."""
    rng = np.random.default_rng(0)
    tensors: dict[str, np.ndarray] = {}

    def add(conv: str, norm: str, outputs: int, inputs: int, side: int) -> None:
        std = (2 / (inputs * side * side)) ** 0.5
        kernel = rng.normal(0, std, (outputs, inputs, side, side))
        tensors[f"{conv}.weight"] = kernel
        for name, low, high in (
            *(("weight", 0.4, 1.0), ("bias", -0.2, 0.2)),
            *(("running_mean", -0.2, 0.2), ("running_var", 0.5, 1.5)),
        ):
            tensors[f"{norm}.{name}"] = rng.uniform(low, high, outputs)

    add("conv1", "bn1", 64, 3, 7)
    width = 64
    for i, count in enumerate(blocks, 1):
        inner = 32 * 2**i
        outer = 4 * inner if bottleneck else inner
        for j in range(count):
            name = f"layer{i}.{j}"
            convs = [(inner, width, 3), (inner, inner, 3)]
            if bottleneck:
                convs = [(inner, width, 1), (inner, inner, 3), (outer, inner, 1)]
            for k, shape in enumerate(convs, 1):
                add(f"{name}.conv{k}", f"{name}.bn{k}", *shape)
            if width != outer:
                add(f"{name}.downsample.0", f"{name}.downsample.1", outer, width, 1)
            width = outer
    return {name: tensor.astype("float32") for name, tensor in tensors.items()}
