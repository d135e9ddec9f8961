"""Networks of KerasHub, as far as JSON files describe them; needs no TensorFlow.

`--backbone=hub:PRESET` names a folder that KerasHub reads, a .safetensors file of a
ResNet, or a preset that KerasHub downloads.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import re
from pathlib import Path
from typing import Any

from keras_ft.catalog.backbones import Backbone, Stages, make_model_name
from keras_ft.errors import UserError
from keras_ft.extras.hub import torch_files
from keras_ft.host.packages import require
from keras_ft.host.typed_json import read_json

PREFIX = "hub:"
CONVERTER = "image_converter.json"  # how pixels are normalised
_CONFIGS = (
    "config.json",
    CONVERTER,
    "preprocessor.json",
    "preprocessor_config.json",
)
# Families of KerasHub by the name of their class, without `Backbone`: regular
# expressions of how timm's `architecture` begins, and of Hugging Face's `model_type`.
_NONE = "(?!)"
_OF_TIMM = {
    "CSPNet": "csp|darknet",
    "DenseNet": "densenet",
    "EfficientNet": "efficientnet",
    "HGNetV2": "hgnetv2",
    "MobileNet": "mobilenet(?!v5)",
    "ResNet": "resnet",
    "VGG": "vgg",
    "Xception": _NONE,
}
_OF_HUGGING_FACE = {
    "CLIP": "clip",
    "DINOV2": "dinov2(_with_registers)?",
    "DINOV3": "dinov3_vit",
    "DeiT": "deit",
    "SigLIP": _NONE,
    "SwinTransformer": "swin",
    "ViT": "vit",
}


@dataclasses.dataclass(frozen=True)
class Preset:
    """What is known of a network before it is loaded; what is unknown is empty."""

    source: str  # what follows `hub:`
    path: Path | None = None  # the folder, or the .safetensors file
    family: str = ""  # a key of `_OF_TIMM` or `_OF_HUGGING_FACE`
    origin: str = ""  # who wrote the files: `keras_hub`, `timm` or `hugging_face`
    stages: tuple[str, ...] = ()  # their names in topological order
    image_size: int = 0  # height and width of the images that it was trained on
    config: dict[str, Any] = dataclasses.field(default_factory=dict)  # of config.json
    digest: str = ""  # of all that decides what it computes, except its weights

    @property
    def is_convolutional(self) -> bool:
        """Whether its features are a map of a convolutional network."""
        return self.family in _OF_TIMM


def find_row(name: str) -> Backbone:
    """Makes the row of `hub:` and a source, see `read_preset`."""
    preset = read_preset(name.removeprefix(PREFIX))
    return make_row(preset, tuple((stage, "") for stage in preset.stages))


def make_row(preset: Preset, stages: Stages) -> Backbone:
    """Makes the row of a network with these stages."""
    return Backbone(
        builder="",
        normalisation="included",
        image_size=preset.image_size,
        min_image_size=32 if preset.is_convolutional else 1,
        stages=stages,
        model_name=preset.digest and make_model_name(PREFIX, preset.digest),
    )


@functools.cache
def read_preset(source: str) -> Preset:
    """Reads what the files of a network say about it.

    The source is a folder, a .safetensors file, the name of one of KerasHub's presets,
    or a `kaggle://` or `hf://` address.

    Raises:
        UserError: KerasHub is missing, or can't read the network.
    """
    require("--backbone=hub:", "keras_hub", "hub")
    path = Path(source)
    if path.suffix in torch_files.PICKLED:
        raise torch_files.refuse_pickle(path)
    if path.is_file() and path.suffix == ".safetensors":
        config = torch_files.read_resnet(path)
        return _make_preset(source, path, config, json.dumps(config).encode())
    if path.is_dir():
        return _read_folder(source, path)
    if re.fullmatch(r"(kaggle|hf)://.+|[a-z0-9][a-z0-9_.-]*", source):
        return Preset(source)
    raise UserError(
        "--backbone=hub:PRESET must be a folder, a .safetensors file or a preset of "
        f"KerasHub such as resnet_18_imagenet. Received: {source}, which does not exist"
    )


def _read_folder(source: str, folder: Path) -> Preset:
    files = [folder, *folder.iterdir()]
    pickled = [path for path in files if path.suffix in torch_files.PICKLED]
    others = [*folder.glob("*.safetensors"), *folder.glob("model.weights.h5")]
    if pickled and not others:
        raise torch_files.refuse_pickle(pickled[0])
    config = _read_json(folder / "config.json")
    if not config:
        raise UserError(
            f"--backbone=hub:{source} must contain config.json: a preset of KerasHub, "
            "or a model of Hugging Face or timm with model.safetensors"
        )
    contents = [(folder / n).read_bytes() for n in _CONFIGS if (folder / n).is_file()]
    return _make_preset(source, folder, config, b"".join(contents))


def _make_preset(
    source: str, path: Path, config: dict[str, Any], contents: bytes
) -> Preset:
    """Makes a preset from config.json and the contents of all files like it."""
    family, origin = _find_family(source, config)
    version = importlib.metadata.version("keras-hub")
    return Preset(
        source=source,
        path=path,
        family=family,
        origin=origin,
        stages=_name_stages(family, config),
        image_size=_find_image_size(path, config),
        config=config,
        digest=hashlib.sha256(version.encode() + contents).hexdigest()[:16],
    )


def _find_family(source: str, config: dict[str, Any]) -> tuple[str, str]:
    """Family and origin of a config.json; UserError if it is not supported."""
    if "class_name" in config:
        kind, origin = config["class_name"], "keras_hub"
        family = kind.removesuffix("Backbone").removesuffix("VisionEncoder")
    elif "architecture" in config:
        kind, origin = config["architecture"], "timm"
        family = next((f for f, p in _OF_TIMM.items() if re.match(p, kind)), "")
    else:
        kind, origin = config.get("model_type", "unknown"), "hugging_face"
        known = _OF_HUGGING_FACE.items()
        family = next((f for f, p in known if re.fullmatch(p, str(kind))), "")
    families = [*_OF_TIMM, *_OF_HUGGING_FACE]
    if family not in families:
        raise UserError(
            "--backbone=hub: takes networks of the families "
            f"{', '.join(families)}. Received: {kind}, in {source}"
        )
    return family, origin


def _name_stages(family: str, config: dict[str, Any]) -> tuple[str, ...]:
    if family == "CSPNet":
        return ()  # known when it is loaded: some begin at full resolution
    if family in _OF_TIMM:
        return tuple(f"stage{i}" for i in range(1, 6))
    config = _of_image_tower(config)
    depth = config.get("num_layers") or config.get("num_hidden_layers")
    blocks = [f"block{i}" for i in range(1, int(depth or 0) + 1)]
    if "depths" in config:
        blocks = [f"stage{i}" for i, _ in enumerate(config["depths"], 1)]
    return "embedding", *blocks


def _of_image_tower(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a config that describes the network of images."""
    config = config.get("config", config)
    tower = config.get("vision_encoder") or config.get("vision_config")
    return tower.get("config", tower) if tower else config


def _find_image_size(folder: Path, config: dict[str, Any]) -> int:
    converter = _read_json(folder / CONVERTER).get("config", {})
    tower = _of_image_tower(config)
    found = (
        converter.get("image_size"),
        tower.get("image_shape"),
        config.get("pretrained_cfg", {}).get("input_size", (None,))[-1],
        tower.get("image_size"),
    )
    sizes = [size[0] if isinstance(size, list) else size for size in found if size]
    return int(next((size for size in sizes if size), 224))


def _read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON file; empty if there is none."""
    if not path.is_file():
        return {}
    try:
        return read_json(path, dict)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} must be a JSON file. Received: {error}") from error
