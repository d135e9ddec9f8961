"""Keras's ResNet50 in plain PyTorch, with Keras's weights; imports nothing else."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

_BN = {"eps": 1.001e-5}
# Blue, green, red: Keras's ResNet50 expects images in this order, less this mean.
MEAN = torch.tensor([103.939, 116.779, 123.68]).reshape(3, 1, 1)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut; like Keras's, the first strides."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels, width, 1, stride),
            nn.BatchNorm2d(width, **_BN),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width, **_BN),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, 4 * width, 1),
            nn.BatchNorm2d(4 * width, **_BN),
        )
        self.shortcut = nn.Identity()
        if channels != 4 * width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, 4 * width, 1, stride),
                nn.BatchNorm2d(4 * width, **_BN),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu_(self.branch(x) + self.shortcut(x))


def make_resnet50(num_classes: int) -> nn.Module:
    """Builds ResNet50 with fixed BatchNorm and a head.

    Returns:
        A module from float32 [B, 3, S, S] to logits [B, K].
    """
    layers = [
        nn.Conv2d(3, 64, 7, 2, padding=3),
        nn.BatchNorm2d(64, **_BN),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, padding=1),
    ]
    channels = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            stride = 2 if block == 0 and width > 64 else 1
            layers.append(Bottleneck(channels, width, stride))
            channels = 4 * width
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)]
    model = nn.Sequential(*layers, *head)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)
    return model.eval().to(memory_format=torch.channels_last)


def normalise(images: torch.Tensor) -> torch.Tensor:
    """From RGB [..., 3, S, S] in [0, 255] to the input of Keras's ResNet50."""
    return images.float().flip(-3) - MEAN


def keras_names(backbone: nn.Sequential) -> Iterator[tuple[str, nn.Module]]:
    """The layers with weights, each with the name that Keras gives it."""
    stem_conv, stem_norm, _, _, *blocks = backbone
    yield "conv1_conv", stem_conv
    yield "conv1_bn", stem_norm
    stage, number = 1, 0
    for block in blocks:
        if not isinstance(block, Bottleneck):
            continue
        starts = isinstance(block.shortcut, nn.Sequential)  # only first blocks do
        stage, number = (stage + 1, 1) if starts else (stage, number + 1)
        shortcut = list(block.shortcut) if starts else []
        layers = [m for m in block.branch if not isinstance(m, nn.ReLU)]
        pairs = [shortcut, layers[0:2], layers[2:4], layers[4:6]]
        for index, pair in enumerate(pairs):
            for kind, layer in zip(("conv", "bn"), pair, strict=bool(pair)):
                yield f"conv{stage}_block{number}_{index}_{kind}", layer


def load_keras_weights(backbone: nn.Sequential, arrays: dict[str, np.ndarray]) -> None:
    """Gives a network the weights of Keras's ResNet50, by variable path."""
    with torch.no_grad():
        for name, layer in keras_names(backbone):
            if isinstance(layer, nn.Conv2d):
                kernel = arrays[f"{name}/kernel"].transpose(3, 2, 0, 1)  # from HWIO
                layer.weight.copy_(torch.from_numpy(kernel))
                layer.bias.copy_(torch.from_numpy(arrays[f"{name}/bias"]))
                continue
            for variable, tensor in (
                ("gamma", layer.weight),
                ("beta", layer.bias),
                ("moving_mean", layer.running_mean),
                ("moving_variance", layer.running_var),
            ):
                tensor.copy_(torch.from_numpy(arrays[f"{name}/{variable}"]))


def check_features(backbone: nn.Sequential, arrays: dict[str, np.ndarray]) -> None:
    """Compares pooled features of some images with those of Keras.

    Raises:
        AssertionError: They differ by more than rounding.
    """
    images = torch.from_numpy(arrays["images"].transpose(0, 3, 1, 2))
    with torch.inference_mode():
        features = backbone(normalise(images)).numpy()
    scale = np.abs(arrays["features"]).max()
    error = np.abs(features - arrays["features"]).max() / scale
    print(f"largest difference of features, relative to the largest: {error:.1e}")
    np.testing.assert_array_less(error, 1e-4)
