"""Networks of KerasHub with random weights, through the whole program.

    python benchmarks/hub_networks.py [NAME ...]

For each network: largest difference of its features from KerasHub's own, and of the
logits of its classifier before and after folding, as a share of the largest; then a run
of both phases on 200 small images, the second from the last stage on. Prints a table.
"""

import argparse
import contextlib
import io
import json
import logging
import tempfile
import time
from pathlib import Path

import keras
import keras_hub
import numpy as np

from keras_ft import Config, fine_tune
from keras_ft.catalog.backbones import find_backbone
from keras_ft.models.classifier import fold_classifier, make_classifier
from keras_ft.models.folding import find_pairs
from keras_ft.models.hub import make_network
from keras_ft.tasks import Task

RESNET18 = {
    "input_conv_filters": [64],
    "input_conv_kernel_sizes": [7],
    "stackwise_num_filters": [64, 128, 256, 512],
    "stackwise_num_blocks": [2, 2, 2, 2],
    "stackwise_num_strides": [1, 2, 2, 2],
    "block_type": "basic_block",
}
VD = {
    "input_conv_filters": [32, 32, 64],
    "input_conv_kernel_sizes": [3, 3, 3],
    "block_type": "basic_block_vd",
}
XCEPTION = {
    "stackwise_conv_filters": [
        *([32, 64], [128, 128], [256, 256], [728, 728]),
        *([[728, 728, 728]] * 8),
        *([728, 1024], [1536, 2048]),
    ],
    "stackwise_pooling": [False, True, True, True, *([False] * 8), True, False],
}
TINY = {"num_layers": 12, "num_heads": 3, "hidden_dim": 192}
SMALL = {"num_layers": 12, "num_heads": 6, "hidden_dim": 384, "intermediate_dim": 1536}
# By name: family, or an architecture of timm; arguments; height and width.
NETWORKS = {
    "ResNet18": ("ResNet", RESNET18, 64),
    "ResNet18 vd": ("ResNet", RESNET18 | VD, 64),
    "ResNet34": ("resnet34", {}, 64),
    "ResNet50": ("resnet50", {}, 64),
    "ResNet50 V2": ("resnetv2_50", {}, 64),
    "EfficientNet B0": ("efficientnet_b0", {}, 64),
    "MobileNetV3 small": ("mobilenetv3_small_100", {}, 64),
    "DenseNet121": ("densenet121", {}, 64),
    "CSPDarkNet53": ("cspdarknet53", {}, 64),
    "HGNetV2 B0": ("hgnetv2_b0", {}, 64),
    "VGG11": ("vgg11", {}, 64),
    "Xception": ("Xception", XCEPTION, 96),
    "ViT tiny": ("ViT", TINY | {"patch_size": 16, "mlp_dim": 768}, 96),
    "DeiT tiny": ("DeiT", TINY | {"patch_size": 16, "intermediate_dim": 768}, 96),
    "DINOv2 small": ("DINOV2", SMALL | {"patch_size": 14}, 84),
    "DINOv3 small": ("DINOV3", SMALL | {"patch_size": 16}, 96),
    "CLIP, small": ("CLIP", SMALL | {"patch_size": 16}, 96),
    "SigLIP, small": ("SigLIP", SMALL | {"patch_size": 16}, 96),
    "Swin tiny": (
        "SwinTransformer",
        {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)}
        | {"window_size": 3},
        96,
    ),
}
TEXT = {"vocabulary_size": 16, "embedding_dim": 16, "hidden_dim": 16}
TEXT |= {"num_layers": 1, "num_heads": 2, "intermediate_dim": 16}


def main() -> None:
    """Prints one row of a table per network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(NETWORKS))
    names = parser.parse_args().names
    logging.disable(logging.INFO)
    columns = ("network", "pixels", "features", "BatchNorm folded", "folded logits")
    columns += ("SavedModel", "seconds")
    print("|", " | ".join(columns), "|")
    print("|", " | ".join(["---"] * len(columns)), "|", flush=True)
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            print("|", " | ".join(measure(name, Path(folder))), "|", flush=True)


def measure(name: str, folder: Path) -> list[str]:
    """The cells of a network's row."""
    keras.utils.set_random_seed(0)
    family, arguments, size = NETWORKS[name]
    preset = folder / "preset"
    write_preset(preset, family, arguments, size)
    backbone = make_network(f"hub:{preset}", (size, size), load_weights=True)
    pixels = np.random.default_rng(0).uniform(0, 255, (4, size, size, 3))
    pixels = pixels.astype("float32")
    features = compare(backbone(pixels), run_keras_hub(preset, pixels))
    layers = backbone._flatten_layers()
    norms = [x for x in layers if isinstance(x, keras.layers.BatchNormalization)]
    folded = f"{len(find_pairs(backbone))} of {len(norms)}" if norms else ""
    task = Task(class_names=("a", "b", "c"))
    classifier = make_classifier(backbone, [task], dropout=0.0)
    before = classifier(pixels)
    after = fold_classifier(classifier, [task])(pixels)[task.name]
    stage = find_backbone(backbone.name).stage_names[-1]
    start = time.perf_counter()
    export = run(preset, size, stage, folder)["exports"]["saved_model"]
    seconds = time.perf_counter() - start
    return [
        *(name, str(size), f"{features:.0e}", folded),
        *(
            f"{compare(after, before):.0e}",
            f"{export['difference']:.0e}",
        ),
        f"{seconds:.0f}",
    ]


def run(preset: Path, size: int, stage: str, folder: Path) -> dict:
    """Trains both phases; returns the metrics."""
    config = Config(
        data="builtin:faces",
        workdir=folder / "run",
        cache_dir=folder / "cache",
        backbone=f"hub:{preset}",
        image_size=size,
        head_epochs=2,
        finetune_epochs=1,
        unfreeze=f"from:{stage}",
    )
    with contextlib.redirect_stdout(io.StringIO()):  # progress bars
        return dict(fine_tune(config))


def compare(actual, expected) -> float:
    """Largest difference, as a share of the largest expected value."""
    actual, expected = np.array(actual), np.array(expected)
    difference = np.abs(actual.reshape(expected.shape) - expected).max()
    return float(difference / np.abs(expected).max())


def run_keras_hub(preset: Path, pixels: np.ndarray) -> np.ndarray:
    """Features as KerasHub computes them: a map, or the vector that it pools to."""
    network = keras_hub.models.Backbone.from_preset(str(preset))
    network = getattr(network, "vision_encoder", network)
    converter = keras_hub.layers.ImageConverter.from_preset(str(preset))
    images = converter(pixels)
    if isinstance(network.input, dict):
        images = dict.fromkeys(network.input, images)
    features = network(images, training=False)
    if isinstance(features, dict):
        features = features["stage4"]
    has_class_token = len(features.shape) == 3 and "swin" not in network.name
    return features[:, 0] if has_class_token else features


def write_preset(folder: Path, family: str, arguments: dict, size: int) -> None:
    """Writes a preset with random weights and statistics."""
    network = make_keras_hub_network(folder, family, arguments, size)
    rng = np.random.default_rng(0)
    for variable in network.weights:
        if variable.name == "gamma":
            variable.assign(rng.uniform(0.4, 1.0, variable.shape))
        elif variable.name == "moving_variance":
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif variable.name in ("beta", "moving_mean", "bias"):
            variable.assign(rng.uniform(-0.2, 0.2, variable.shape))
    network.save_to_preset(str(folder))
    converter = type(network).__name__.replace("Backbone", "ImageConverter")
    make = getattr(keras_hub.layers, converter)
    make(image_size=(size, size), scale=1 / 127.5, offset=-1.0).save_to_preset(folder)


def make_keras_hub_network(
    folder: Path, family: str, arguments: dict, size: int
) -> keras.Model:
    """Makes a network with random weights."""
    models, shape = keras_hub.models, {"image_shape": (size, size, 3)}
    if family.islower():
        of_timm = folder.with_name("timm")
        of_timm.mkdir()
        config = json.dumps({"architecture": family})
        (of_timm / "config.json").write_text(config)
        return models.Backbone.from_preset(str(of_timm), load_weights=False, **shape)
    make = getattr(models, f"{family}Backbone")
    if family not in ("CLIP", "SigLIP"):
        return make(**arguments, **shape)
    vision = getattr(models, f"{family}VisionEncoder")(**arguments, **shape)
    text = getattr(models, f"{family}TextEncoder")(**TEXT)
    projection = {"projection_dim": 16} if family == "CLIP" else {}
    return make(vision_encoder=vision, text_encoder=text, **projection)


if __name__ == "__main__":
    main()
