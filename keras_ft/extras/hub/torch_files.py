"""Files of PyTorch's weights, read without PyTorch and TensorFlow."""

import re
from pathlib import Path
from typing import Any

from keras_ft.errors import UserError
from keras_ft.host.typed_json import parse_json

PICKLED = (".pth", ".pt", ".bin", ".ckpt")
_PREPROCESSING = {
    "input_size": [3, 224, 224],
    "interpolation": "bilinear",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}
# By whether blocks are bottlenecks, and the number of blocks of each stage.
_RESNETS: dict[tuple[int, ...], str] = {
    (False, 2, 2, 2, 2): "resnet18",
    (False, 3, 4, 6, 3): "resnet34",
    (True, 2, 2, 2, 2): "resnet26",
    (True, 3, 4, 6, 3): "resnet50",
    (True, 3, 4, 23, 3): "resnet101",
    (True, 3, 8, 36, 3): "resnet152",
}
_RESNET_KEY = (
    r"(conv1|bn1|fc|layer[1-4]\.\d+\.(conv[1-3]|bn[1-3]|downsample\.[01]))"
    r"\.(weight|bias|running_mean|running_var|num_batches_tracked)"
)


def refuse_pickle(path: Path) -> UserError:
    """The error that says how to convert pickled weights."""
    target = path.with_suffix(".safetensors")
    return UserError(
        "--backbone=hub: reads no pickled weights, since they can run code. Received: "
        f"{path}; convert them, in an environment with torch and safetensors:\n"
        f"  import torch, safetensors.torch\n"
        f"  safetensors.torch.save_file(torch.load({str(path)!r}, weights_only=True), "
        f"{str(target)!r})"
    )


def read_resnet(path: Path) -> dict[str, Any]:
    """What timm's config.json would say of a .safetensors file of a ResNet.

    It has torchvision's preprocessing.

    Raises:
        UserError: The file is of no ResNet of torchvision or timm.
    """
    shapes = _read_shapes(path)
    blocks = [
        len({key.split(".")[1] for key in shapes if key.startswith(f"layer{i}.")})
        for i in range(1, 5)
    ]
    is_bottleneck = "layer1.0.conv3.weight" in shapes
    architecture = _RESNETS.get((is_bottleneck, *blocks))
    is_plain = (
        shapes.get("conv1.weight") == [64, 3, 7, 7]
        and shapes.get("layer1.0.conv2.weight") == [64, 64, 3, 3]
        and all(re.fullmatch(_RESNET_KEY, key) for key in shapes)
    )
    if not architecture or not is_plain:
        raise UserError(
            "--backbone=hub: takes a .safetensors file without a config.json beside it "
            "only of torchvision's and timm's resnet18 to resnet152. Received: "
            f"{path}; give a folder with config.json and model.safetensors"
        )
    return {"architecture": architecture, "pretrained_cfg": _PREPROCESSING}


def _read_shapes(path: Path) -> dict[str, list[int]]:
    """Shapes of the tensors in a .safetensors file, by name, from its header."""
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = stream.read(min(length, path.stat().st_size))
        content = parse_json(header, dict[str, dict])
        content.pop("__metadata__", None)
        return {name: tensor["shape"] for name, tensor in content.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"{path} must be a .safetensors file. Received: {error}"
        raise UserError(message) from error
