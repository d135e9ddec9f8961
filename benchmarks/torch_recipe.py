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
from torch_network import make_resnet50

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


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
