"""The table of backbones; it needs neither TensorFlow nor Keras nor NumPy."""

import dataclasses
import re
from typing import Any

from keras_ft.catalog import presets
from keras_ft.errors import UserError
from keras_ft.host import user_code

Stages = tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Weights:
    """Where the initial weights of a backbone came from.

    Attributes:
        used: The item of `--weights`: `imagenet`, `starter`, `preset`, `none` or a
            path.
        file: The file that was read, None for random weights.
        sha256: Its SHA-256 in hexadecimal, None for random weights.
        attempts: `weights` and `error` of each item that could not be used before.
    """

    used: str
    file: str | None = None
    sha256: str | None = None
    attempts: tuple[dict[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A network: a row of the table, or one of KerasHub or of the user's.

    Attributes:
        builder: `module:function` that builds the network, for
            `pkgutil.resolve_name`; `py:MODULE:NAME` if it is the user's.
        normalisation: How RGB pixels in [0, 255] are normalised before the network.
            `caffe`: to BGR, minus the ImageNet mean; `tf`: to [-1, 1]; `torch`: minus
            the mean, divided by the standard deviation; `included`: not at all, the
            network does it.
        image_size: Height and width of the images that the published weights were
            trained on.
        min_image_size: Smallest height and width that the builder accepts.
        stages: Pairs (stage name, name of the stage's first layer), in topological
            order. A stage ends where the next one starts; the first one includes
            the layers before it. Each stage has a single input tensor, the input of
            its first layer, unless that layer lies inside another one. Of a network
            of KerasHub that was not loaded yet, names of layers are empty, and there
            are no stages if it is not on this machine.
    """

    builder: str
    normalisation: str
    image_size: int
    min_image_size: int
    stages: Stages

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Names of the stages, in topological order."""
        return tuple(name for name, _ in self.stages)


def _keras(function: str, *fields: Any) -> Backbone:
    return Backbone(f"keras.applications:{function}", *fields)


def _numbered(prefix: str, *first_layers: str) -> Stages:
    return tuple((f"{prefix}{i}", layer) for i, layer in enumerate(first_layers, 1))


def _convnext(size: str) -> Stages:
    stages = (
        ("stem", "stem"),
        ("stage_0", "stage_0_block_0_depthwise_conv"),
        *((f"stage_{i + 1}", f"downsampling_block_{i}") for i in range(3)),
    )
    return tuple((stage, f"convnext_{size}_{layer}") for stage, layer in stages)


def _efficientnet_v2(stem: str, block1: str, num_blocks: int) -> Stages:
    blocks = (f"block{i}a_expand_conv" for i in range(2, num_blocks + 1))
    return ("stem", stem), *_numbered("block", block1, *blocks), ("top", "top_conv")


def _mobilenet_v3(block1: str, *first_blocks: int) -> Stages:
    # One stage per output width in the paper's tables 1 and 2.
    blocks = (f"expanded_conv_{i}_expand" for i in first_blocks)
    return ("stem", "conv"), *_numbered("block", block1, *blocks), ("top", "conv_1")


_DEPTHS = range(2, 6)
_RESNET = _numbered("conv", "conv1_pad", *(f"conv{i}_block1_1_conv" for i in _DEPTHS))
_RESNET_V2 = _numbered(
    "conv", "conv1_pad", *(f"conv{i}_block1_preact_bn" for i in _DEPTHS)
)
_DENSENET = _numbered("conv", "conv1_conv", *(f"conv{i}_block1_0_bn" for i in _DEPTHS))
_VGG = _numbered("block", "block1_conv1", *(f"block{i}_conv1" for i in _DEPTHS))
_TINY = _numbered("conv", "conv1_conv", "conv2_conv", "conv3_conv")
_XCEPTION = _numbered(
    "block",
    "block1_conv1",
    "block2_sepconv1",
    *(f"block{i}_sepconv1_act" for i in range(3, 14)),
    "block14_sepconv1",
)
_MNV2 = (  # One stage per row of the paper's table 2.
    ("stem", "Conv1"),
    *_numbered(
        "block",
        "expanded_conv_depthwise",
        *(f"block_{i}_expand" for i in (1, 3, 6, 10, 13, 16)),
    ),
    ("top", "Conv_1"),
)
_MNV3_SMALL = _mobilenet_v3("expanded_conv_depthwise_pad", 1, 3, 6, 8)
_MNV3_LARGE = _mobilenet_v3("expanded_conv_depthwise", 1, 3, 6, 10, 12)
_EFFNET_V2 = _efficientnet_v2("stem_conv", "block1a_project_conv", 6)
_EFFNET_V2_ML = _efficientnet_v2("stem_conv", "block1a_project_conv", 7)

# Normalisations are those of each family's `preprocess_input`, sizes those of its
# builder. The Inception networks are missing because the names of their layers depend
# on what the process built before. The first EfficientNet is missing because its
# normalisation depends on the `weights` argument, so that the same weights file would
# silently give another network.
BACKBONES: dict[str, Backbone] = {
    "resnet50": _keras("ResNet50", "caffe", 224, 32, _RESNET),
    "resnet101": _keras("ResNet101", "caffe", 224, 32, _RESNET),
    "resnet152": _keras("ResNet152", "caffe", 224, 32, _RESNET),
    "resnet50_v2": _keras("ResNet50V2", "tf", 224, 32, _RESNET_V2),
    "resnet101_v2": _keras("ResNet101V2", "tf", 224, 32, _RESNET_V2),
    "resnet152_v2": _keras("ResNet152V2", "tf", 224, 32, _RESNET_V2),
    "densenet121": _keras("DenseNet121", "torch", 224, 32, _DENSENET),
    "densenet169": _keras("DenseNet169", "torch", 224, 32, _DENSENET),
    "densenet201": _keras("DenseNet201", "torch", 224, 32, _DENSENET),
    "mobilenet_v2": _keras("MobileNetV2", "tf", 224, 32, _MNV2),
    # The networks from here to ConvNeXt include normalising layers.
    "mobilenet_v3_small": _keras("MobileNetV3Small", "included", 224, 32, _MNV3_SMALL),
    "mobilenet_v3_large": _keras("MobileNetV3Large", "included", 224, 32, _MNV3_LARGE),
    "efficientnet_v2_b0": _keras("EfficientNetV2B0", "included", 224, 32, _EFFNET_V2),
    "efficientnet_v2_b1": _keras("EfficientNetV2B1", "included", 240, 32, _EFFNET_V2),
    "efficientnet_v2_b2": _keras("EfficientNetV2B2", "included", 260, 32, _EFFNET_V2),
    "efficientnet_v2_b3": _keras("EfficientNetV2B3", "included", 300, 32, _EFFNET_V2),
    "efficientnet_v2_s": _keras("EfficientNetV2S", "included", 384, 32, _EFFNET_V2),
    "efficientnet_v2_m": _keras("EfficientNetV2M", "included", 480, 32, _EFFNET_V2_ML),
    "efficientnet_v2_l": _keras("EfficientNetV2L", "included", 480, 32, _EFFNET_V2_ML),
    "convnext_tiny": _keras("ConvNeXtTiny", "included", 224, 32, _convnext("tiny")),
    "convnext_small": _keras("ConvNeXtSmall", "included", 224, 32, _convnext("small")),
    "convnext_base": _keras("ConvNeXtBase", "included", 224, 32, _convnext("base")),
    "xception": _keras("Xception", "tf", 299, 71, _XCEPTION),
    "vgg16": _keras("VGG16", "caffe", 224, 32, _VGG),
    # A few convolutions for tests; it has no published weights.
    "tiny": Backbone("keras_ft.models.tiny:TinyNet", "tf", 32, 16, _TINY),
}


# Rows of the networks that this process has loaded, by model name.
_LOADED: dict[str, Backbone] = {}
_MODEL_PREFIX = "hub_"
_USER_MODEL_PREFIX = "py_"


def find_backbone(name: str) -> Backbone:
    """Finds the row of a backbone.

    Args:
        name: A value of `--backbone`, or the name of a model of `make_backbone`.

    Raises:
        UserError: A preset of KerasHub can't be read.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    if name.startswith(presets.PREFIX):
        preset = presets.read_preset(name.removeprefix(presets.PREFIX))
        if preset.digest and (name := _model_name(preset)) not in _LOADED:
            stages = tuple((stage, "") for stage in preset.stages)
            return _make_hub_row(preset, stages)
    if name.startswith(user_code.PREFIX):
        own = Backbone(name, "included", image_size=0, min_image_size=1, stages=())
        return _LOADED.get(find_model_name(name), own)
    # A model that was read from a file needs no stages: nothing of it is trained.
    return _LOADED.get(name, Backbone("", "included", 0, 1, ()))


def add_backbone(preset: presets.Preset, stages: Stages) -> str:
    """Adds the row of a network of KerasHub; returns the name of its model.

    Args:
        preset: What its files say.
        stages: See `Backbone`.
    """
    name = _model_name(preset)
    _LOADED[name] = _make_hub_row(preset, stages)
    return name


def add_user_backbone(reference: str, stages: Stages) -> str:
    """Adds the row of a network of the user's; returns the name of its model."""
    name = find_model_name(reference)
    row = find_backbone(reference)
    _LOADED[name] = dataclasses.replace(row, stages=stages)
    return name


def find_model_name(name: str) -> str:
    """Finds the name of the model of a backbone; empty if it must be loaded first.

    Args:
        name: A value of `--backbone`.

    Raises:
        UserError: A preset of KerasHub can't be read.
    """
    if name.startswith(user_code.PREFIX):
        code = name.removeprefix(user_code.PREFIX)
        return _USER_MODEL_PREFIX + re.sub(r"\W", "_", code, flags=re.ASCII)
    if not name.startswith(presets.PREFIX):
        return name
    preset = presets.read_preset(name.removeprefix(presets.PREFIX))
    return _model_name(preset) if preset.digest else ""


def is_model_name(name: str) -> bool:
    """Whether `make_backbone` gives this name to a model."""
    prefixes = (_MODEL_PREFIX, _USER_MODEL_PREFIX)
    return name in BACKBONES or name.startswith(prefixes)


def _model_name(preset: presets.Preset) -> str:
    return f"{_MODEL_PREFIX}{preset.digest}"


def _make_hub_row(preset: presets.Preset, stages: Stages) -> Backbone:
    return Backbone(
        builder="keras_ft.models.hub:make_network",
        normalisation="included",
        image_size=preset.image_size,
        min_image_size=32 if preset.is_convolutional else 1,
        stages=stages,
    )


def stages_to_train(backbone_name: str, unfreeze: str) -> tuple[str, ...]:
    """Resolves `--unfreeze` to the stages of a backbone to train.

    Args:
        backbone_name: See `find_backbone`.
        unfreeze: `all`; `none`; `from:STAGE`, that stage and all after it; or
            `to:STAGE`, the first stages up to and including it.

    Returns:
        Stage names in topological order.

    Raises:
        UserError: If `unfreeze` has another form or names an unknown stage.
    """
    names = find_backbone(backbone_name).stage_names
    if unfreeze == "none":
        return ()
    direction, _, stage = unfreeze.partition(":")
    if not names and (unfreeze == "all" or direction in ("from", "to")):
        return (stage or unfreeze,)  # of a preset that is still to be downloaded
    if unfreeze == "all":
        return names
    if direction not in ("from", "to") or stage not in names:
        raise UserError(
            "--unfreeze must be all, none, from:STAGE or to:STAGE, where STAGE is a "
            f"stage of {backbone_name}: {', '.join(names)}. "
            f"Received: unfreeze={unfreeze}"
        )
    index = names.index(stage)
    return names[index:] if direction == "from" else names[: index + 1]
