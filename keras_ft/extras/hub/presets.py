"""Networks of KerasHub, as far as JSON files describe them; needs no TensorFlow.

`--backbone=hub:PRESET` names a folder that KerasHub reads, a .safetensors file of a
ResNet, or a preset that KerasHub downloads.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import re
from pathlib import Path
from typing import Any

from keras_ft.catalog.backbones import Backbone, Stages, make_model_name
from keras_ft.errors import UserError
from keras_ft.extras.hub import torch_files
from keras_ft.host.packages import require

PREFIX = "hub:"
_CONFIGS = (
    *("config.json", "image_converter.json", "preprocessor.json"),
    "preprocessor_config.json",
)
_CONVOLUTIONAL_STAGES = tuple(f"stage{i}" for i in range(1, 6))
# Families of KerasHub by the name of their class, without `Backbone`.
CONVOLUTIONAL = (
    *("CSPNet", "DenseNet", "EfficientNet", "HGNetV2", "MobileNet", "ResNet"),
    *("VGG", "Xception"),
)
TRANSFORMERS = ("CLIP", "DINOV2", "DINOV3", "DeiT", "SigLIP", "SwinTransformer", "ViT")
# By `model_type` of Hugging Face, and by the start of timm's `architecture`.
_OF_HUGGING_FACE = {
    "clip": "CLIP",
    "deit": "DeiT",
    "dinov2": "DINOV2",
    "dinov2_with_registers": "DINOV2",
    "dinov3_vit": "DINOV3",
    "swin": "SwinTransformer",
    "vit": "ViT",
}
_OF_TIMM = {
    "csp": "CSPNet",
    "darknet": "CSPNet",
    "densenet": "DenseNet",
    "efficientnet": "EfficientNet",
    "hgnetv2": "HGNetV2",
    "mobilenetv5": "MobileNetV5",
    "mobilenet": "MobileNet",
    "resnet": "ResNet",
    "vgg": "VGG",
}


@dataclasses.dataclass(frozen=True)
class Preset:
    """What is known of a network before it is loaded.

    Attributes:
        source: What follows `hub:`.
        path: The folder, or the .safetensors file; None if it is to be downloaded.
        family: `CONVOLUTIONAL` and `TRANSFORMERS` list them; empty if unknown.
        origin: Who wrote the files: `keras_hub`, `timm` or `hugging_face`; empty if
            unknown.
        stages: Names of the stages in topological order; empty if unknown.
        image_size: Height and width of the images that the network was trained on; 0
            if unknown.
        config: The content of config.json.
        digest: Of all that decides what the network computes, except its weights.
    """

    source: str
    path: Path | None = None
    family: str = ""
    origin: str = ""
    stages: tuple[str, ...] = ()
    image_size: int = 0
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    digest: str = ""

    @property
    def is_convolutional(self) -> bool:
        """Whether its features are a map of a convolutional network."""
        return self.family in CONVOLUTIONAL


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

    Args:
        source: A folder, a .safetensors file, the name of one of KerasHub's presets,
            or a `kaggle://` or `hf://` address.

    Raises:
        UserError: KerasHub is missing, or can't read the network.
    """
    require("--backbone=hub:", "keras_hub", "hub")
    path = Path(os.path.expanduser(source))
    if path.suffix in torch_files.PICKLED:
        raise torch_files.refuse_pickle(path)
    if path.is_file() and path.suffix == ".safetensors":
        return _read_checkpoint(source, path)
    if path.is_dir():
        return _read_folder(source, path)
    if re.fullmatch(r"(kaggle|hf)://.+|[a-z0-9][a-z0-9_.-]*", source):
        return Preset(source)
    raise UserError(
        "--backbone=hub:PRESET must be a folder, a .safetensors file or a preset of "
        f"KerasHub such as resnet_18_imagenet. Received: {source}, which does not exist"
    )


def _read_folder(source: str, folder: Path) -> Preset:
    for path in (folder, *folder.iterdir()):
        is_only = (
            not any(folder.glob("*.safetensors")) and path.suffix in torch_files.PICKLED
        )
        if is_only and not (folder / "model.weights.h5").exists():
            raise torch_files.refuse_pickle(path)
    config = _read_json(folder / "config.json")
    if not config:
        raise UserError(
            f"--backbone=hub:{source} must contain config.json: a preset of KerasHub, "
            "or a model of Hugging Face or timm with model.safetensors"
        )
    family, origin = _find_family(source, config)
    digest = hashlib.sha256(_version().encode())
    for name in _CONFIGS:
        if (folder / name).is_file():
            digest.update((folder / name).read_bytes())
    return Preset(
        source=source,
        path=folder,
        family=family,
        origin=origin,
        stages=_name_stages(family, config),
        image_size=_find_image_size(folder, config),
        config=config,
        digest=digest.hexdigest()[:16],
    )


def _find_family(source: str, config: dict[str, Any]) -> tuple[str, str]:
    """Family and origin of a config.json.

    Raises:
        UserError: It describes a network that is not supported.
    """
    if "class_name" in config:
        kind, origin = config["class_name"], "keras_hub"
        family = kind.removesuffix("Backbone").removesuffix("VisionEncoder")
    elif "architecture" in config:
        kind, origin = config["architecture"], "timm"
        family = next((f for p, f in _OF_TIMM.items() if kind.startswith(p)), "")
    else:
        kind, origin = config.get("model_type", "unknown"), "hugging_face"
        family = _OF_HUGGING_FACE.get(kind, "")
    if family not in CONVOLUTIONAL + TRANSFORMERS:
        raise UserError(
            "--backbone=hub: takes networks of the families "
            f"{', '.join(CONVOLUTIONAL + TRANSFORMERS)}. Received: {kind}, in {source}"
        )
    return family, origin


def _name_stages(family: str, config: dict[str, Any]) -> tuple[str, ...]:
    if family == "CSPNet":
        return ()  # known when it is loaded: some begin at full resolution
    if family in CONVOLUTIONAL:
        return _CONVOLUTIONAL_STAGES
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
    converter = _read_json(folder / "image_converter.json").get("config", {})
    tower = _of_image_tower(config)
    found = (
        *(converter.get("image_size"), tower.get("image_shape")),
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
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} must be a JSON file. Received: {error}") from error
    return content if isinstance(content, dict) else {}


def _version() -> str:
    return importlib.metadata.version("keras-hub")


def _read_checkpoint(source: str, path: Path) -> Preset:
    config = torch_files.read_resnet(path)
    digest = hashlib.sha256(f"{_version()}{json.dumps(config)}".encode())
    return Preset(
        source=source,
        path=path,
        family="ResNet",
        origin="timm",
        stages=_CONVOLUTIONAL_STAGES,
        image_size=224,
        config=config,
        digest=digest.hexdigest()[:16],
    )
