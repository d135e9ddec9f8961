"""Speed of ResNet50 in plain PyTorch: forward pass, training step, matrix product.

The network of Keras Applications with random weights, which are as fast as trained
ones; channels_last, float32 and bfloat16 autocast; BatchNorm fixed, Adam. Computes no
accuracy. The forward pass is what a head phase that caches nothing repeats each epoch.

For each line on standard input it times every case once and prints the seconds as a
line of JSON, so that another process can take turns with it. The first rounds warm up.

    yes | head -5 | python benchmarks/torch_recipe.py
"""

import argparse
import json
import sys
from collections.abc import Callable

import torch
from measure import Cases, time_round
from torch import nn

_BN = {"eps": 1.001e-5}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


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


def make_cases(image_size: int, batch_size: int, roof_size: int) -> Cases:
    """The calls to time, by kind and name."""
    images = torch.randn(batch_size, 3, image_size, image_size)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch_size,))
    model = make_resnet50(10)
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(learning, 1e-4)

    def autocast(dtype: torch.dtype) -> torch.autocast:
        return torch.autocast("cpu", dtype, enabled=dtype != torch.float32)

    def forward(dtype: torch.dtype) -> Callable[[], object]:
        def call() -> None:
            with torch.inference_mode(), autocast(dtype):
                model(images)

        return call

    def step(dtype: torch.dtype) -> Callable[[], object]:
        def call() -> None:
            optimizer.zero_grad()
            with autocast(dtype):
                logits = model(images)
            nn.functional.cross_entropy(logits.float(), labels).backward()
            optimizer.step()

        return call

    def product(dtype: torch.dtype) -> Callable[[], object]:
        matrix = torch.randn(roof_size, roof_size).to(dtype)
        return lambda: matrix @ matrix

    kinds = {"forward": forward, "step": step, "roof": product}
    return {
        kind: {f"torch {name}": make(dtype) for name, dtype in _DTYPES.items()}
        for kind, make in kinds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--roof_size", type=int, default=4096)
    args = parser.parse_args()

    cases = make_cases(args.image_size, args.batch_size, args.roof_size)
    for _ in sys.stdin:
        print(json.dumps(time_round(cases)), flush=True)


if __name__ == "__main__":
    main()
