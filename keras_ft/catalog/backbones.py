"""The table of backbones; it needs neither TensorFlow nor Keras nor NumPy."""

import dataclasses
import pkgutil
import re
from typing import Any

from keras_ft.errors import UserError
from keras_ft.host import user_code

Stages = tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Weights:
    """Where the initial weights of a backbone came from."""

    used: str  # the item of `--weights`
    file: str | None = None  # that was read, None for random weights
    sha256: str | None = None  # of the file, in hexadecimal
    attempts: tuple[dict[str, str], ...] = ()  # `weights`, `error` of unusable items
    # The item, no path, that the run began with whose model they are, or the first of
    # a chain of such runs. Empty if the file does not say.
    origin: str = ""


# The terms of weights, which a model that goes on from them inherits, by origin.
TERMS = {
    "starter": "The starter weights are a ResNet50 trained on Tiny-ImageNet, whose "
    "images come under ImageNet's terms of access: research, not commerce. Whether "
    "these bind a model fine-tuned from it is not settled; check it before you use the "
    "model for anything else. PROVENANCE.txt in keras_ft/starter has the details.",
    "imagenet": "Keras Applications (https://keras.io/api/applications) names the "
    "source and licence of its ImageNet weights. ImageNet's images come under terms of "
    "access: research, not commerce.",
}


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A network: a row of the table, or the row that a `Source` makes.

    Attributes:
        builder: `module:function` that builds the network; `py:MODULE:NAME` of one of
            the user's.
        normalisation: How RGB pixels in [0, 255] are normalised before the network.
            `caffe`: to BGR, minus the ImageNet mean; `tf`: to [-1, 1]; `torch`: minus
            the mean, divided by the standard deviation; `included`: not at all, the
            network does it.
        image_size: Height and width that the published weights were trained on.
        min_image_size: Smallest height and width that the builder accepts.
        stages: Pairs (stage name, name of the stage's first layer), in topological
            order. A stage ends where the next one starts; the first one includes
            the layers before it. Each stage has a single input tensor, the input of
            its first layer, unless that layer lies inside another one. Until a network
            of a source is built, names of layers are empty, and there are no stages if
            they are not known.
        model_name: Of a network of a source, see `make_model_name`; empty if it is not
            known before it is built.
    """

    builder: str
    normalisation: str
    image_size: int
    min_image_size: int
    stages: Stages
    model_name: str = ""

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


def _efficientnet_v2(num_blocks: int) -> Stages:
    first_layers = (f"block{i}a_expand_conv" for i in range(2, num_blocks + 1))
    blocks = _numbered("block", "block1a_project_conv", *first_layers)
    return ("stem", "stem_conv"), *blocks, ("top", "top_conv")


def _mobilenet_v3(block1: str, *first_blocks: int) -> Stages:
    # One stage per output width in the paper's tables 1 and 2.
    blocks = (f"expanded_conv_{i}_expand" for i in first_blocks)
    return ("stem", "conv"), *_numbered("block", block1, *blocks), ("top", "conv_1")


_DEPTHS = range(2, 6)
_RESNET = _numbered("conv", "conv1_pad", *(f"conv{i}_block1_1_conv" for i in _DEPTHS))
_PREACT = [f"conv{i}_block1_preact_bn" for i in _DEPTHS]
_RESNET_V2 = _numbered("conv", "conv1_pad", *_PREACT)
_DENSENET = _numbered("conv", "conv1_conv", *(f"conv{i}_block1_0_bn" for i in _DEPTHS))
_VGG = _numbered("block", "block1_conv1", *(f"block{i}_conv1" for i in _DEPTHS))
_TINY = _numbered("conv", "conv1_conv", "conv2_conv", "conv3_conv")
_MIDDLE = [f"block{i}_sepconv1_act" for i in range(3, 14)]
_XCEPTION = _numbered(
    "block", "block1_conv1", "block2_sepconv1", *_MIDDLE, "block14_sepconv1"
)
# One stage per row of the paper's table 2.
_EXPAND = [f"block_{i}_expand" for i in (1, 3, 6, 10, 13, 16)]
_BLOCKS = _numbered("block", "expanded_conv_depthwise", *_EXPAND)
_MNV2 = (("stem", "Conv1"), *_BLOCKS, ("top", "Conv_1"))
_MNV3_SMALL = _mobilenet_v3("expanded_conv_depthwise_pad", 1, 3, 6, 8)
_MNV3_LARGE = _mobilenet_v3("expanded_conv_depthwise", 1, 3, 6, 10, 12)
_EFFNET_V2 = _efficientnet_v2(6)
_EFFNET_V2_ML = _efficientnet_v2(7)

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


@dataclasses.dataclass(frozen=True)
class Source:
    """Networks besides the table; functions are `module:function`, as in `Backbone`."""

    # From a value of `--backbone` to its row; needs no TensorFlow.
    find: str
    # From this value and the size of the images to the network with random weights,
    # which it adds by `add_backbone`.
    build: str
    # The same with the weights of `--weights=preset`, and the path of their file.
    load: str


SOURCES = {  # by the prefix of a value of `--backbone`
    "hub:": Source(
        find="keras_ft.extras.hub.presets:find_row",
        build="keras_ft.extras.hub.networks:make_network",
        load="keras_ft.extras.hub.networks:load_network",
    ),
    user_code.PREFIX: Source(
        find="keras_ft.catalog.backbones:find_user_row",
        build="keras_ft.models.user_backbone:make_network",
        load="keras_ft.models.user_backbone:load_network",
    ),
}
# Rows of the networks of sources that this process has built, by the model's name.
_BUILT: dict[str, Backbone] = {}


def find_source(name: str) -> Source | None:
    """The source of a value of `--backbone`; None of the table's rows."""
    return SOURCES.get(name[: name.find(":") + 1])


def find_backbone(name: str) -> Backbone:
    """Finds the row of a value of `--backbone`, or of a model of `make_backbone`.

    Raises:
        UserError: The source can't read the network.
        ValueError: There is none of this name, or a source's that was not built here.
    """
    if source := find_source(name):
        row = pkgutil.resolve_name(source.find)(name)
        return _BUILT.get(row.model_name, row)
    if row := BACKBONES.get(name) or _BUILT.get(name):
        return row
    raise ValueError(
        f"name must be a backbone, or that of a model built here. Received: {name}"
    )


def find_user_row(name: str) -> Backbone:
    """Makes the row of `py:MODULE:NAME`, whose stages are known when it is built."""
    digest = re.sub(r"\W", "_", name.removeprefix(user_code.PREFIX), flags=re.ASCII)
    model_name = make_model_name(user_code.PREFIX, digest)
    return Backbone(name, "included", 0, 1, (), model_name)


def add_backbone(row: Backbone) -> None:
    """Adds the row of a source's network that was built, with its layers."""
    _BUILT[row.model_name] = row


def make_model_name(prefix: str, digest: str) -> str:
    """The name of the model of a source's network, by the source's key in `SOURCES`.

    The digest is of all that decides what the network computes, except its weights.
    """
    return prefix.replace(":", f"_{digest}")


def find_model_name(name: str) -> str:
    """The name of a backbone's model; empty if it is known when it is built."""
    return name if name in BACKBONES else find_backbone(name).model_name


def is_model_name(name: str) -> bool:
    """Whether `make_backbone` gives this name to a model."""
    prefixes = tuple(make_model_name(prefix, "") for prefix in SOURCES)
    return name in BACKBONES or name.startswith(prefixes)


def find_builder(model_name: str) -> str:
    """The builder of a backbone; empty if the model was read from a file."""
    row = BACKBONES.get(model_name) or _BUILT.get(model_name)
    return row.builder if row else ""


def find_normalisation(model_name: str) -> str:
    """The normalisation of a backbone; those of sources include theirs."""
    row = BACKBONES.get(model_name)
    return row.normalisation if row else "included"


def stages_to_train(backbone_name: str, unfreeze: str) -> tuple[str, ...]:
    """Resolves `--unfreeze` to the stages of a backbone to train.

    It is `all`; `none`; `from:STAGE`, that stage and all after it; or `to:STAGE`, the
    first stages up to and including it. Raises a UserError if it is anything else.
    Returns names of stages in topological order.
    """
    names = find_backbone(backbone_name).stage_names
    if unfreeze == "none":
        return ()
    direction, _, stage = unfreeze.partition(":")
    if not names and (unfreeze == "all" or direction in ("from", "to")):
        return (stage or unfreeze,)  # checked when it is built
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
