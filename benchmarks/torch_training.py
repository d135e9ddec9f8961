"""Two-phase fine-tuning of ResNet50 as a PyTorch user would write it.

The schedule of keras_ft's defaults: epochs, learning rates, warm-up and cosine, Adam,
dropout, fixed BatchNorm, early stopping, the best epoch by val loss. The network and
its initial weights are those of Keras. float32, channels_last; images are decoded by
worker processes. In phase head the frozen network is recomputed in each epoch, without
gradients. It exports nothing but its weights.

Like `run.py`, it writes history.csv and metrics.json, with the same names for what both
have. `--check` does nothing but compare features with those of Keras.

    python benchmarks/torch_training.py --data=FOLDER --weights=FILE --workdir=FOLDER
"""

import argparse
import csv
import json
import math
import os
import time
from pathlib import Path

START = time.perf_counter()  # before PyTorch, whose import is part of the total

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402
from torch_network import (  # noqa: E402
    check_features,
    load_keras_weights,
    make_resnet50,
    normalise,
)

from keras_ft.config.recipe import Phase, Recipe, resolve  # noqa: E402
from keras_ft.config.settings import Config  # noqa: E402


class Images(torch.utils.data.Dataset):
    """Normalised images float32 [3, S, S] and labels of a split, decoded when asked."""

    def __init__(self, split: Path, image_size: int) -> None:
        folders = sorted(folder for folder in split.iterdir() if folder.is_dir())
        self.class_names = [folder.name for folder in folders]
        self.files = [
            (file, label)
            for label, folder in enumerate(folders)
            for file in sorted(folder.iterdir())
        ]
        self.size = (image_size, image_size)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        file, label = self.files[index]
        with Image.open(file) as image:
            pixels = image.convert("RGB").resize(self.size, Image.Resampling.BILINEAR)
        return normalise(torch.from_numpy(np.array(pixels)).permute(2, 0, 1)), label


def make_loader(
    args: argparse.Namespace, config: Recipe, split: str
) -> torch.utils.data.DataLoader:
    """Reads a split in batches; train in another order in each epoch."""
    return torch.utils.data.DataLoader(
        Images(args.data / split, args.image_size),
        config.data.batch_size,
        shuffle=split == "train",
        num_workers=min(4, os.cpu_count() or 1),
        persistent_workers=True,
    )


def evaluate(model: nn.Sequential, loader: torch.utils.data.DataLoader) -> dict:
    """Mean loss, and accuracy."""
    loss, correct = 0.0, 0
    with torch.inference_mode():
        for images, labels in loader:
            logits = model(images.contiguous(memory_format=torch.channels_last))
            loss += functional.cross_entropy(logits, labels, reduction="sum").item()
            correct += (logits.argmax(1) == labels).sum().item()
    count = len(loader.dataset)
    return {"val_loss": loss / count, "val_accuracy": correct / count}


def compute_rate(step: int, steps: int, warmup_steps: int) -> float:
    """Share of the peak learning rate: linear warm-up, then cosine to zero."""
    if step < warmup_steps:
        return step / warmup_steps
    return 0.5 * (
        1 + math.cos(math.pi * (step - warmup_steps) / (steps - warmup_steps))
    )


class Trainer:
    """Trains phase after phase; keeps the best epoch of all of them."""

    def __init__(self, args: argparse.Namespace, config: Recipe) -> None:
        self.config = config
        self.train, self.val = (
            make_loader(args, config, split) for split in ("train", "val")
        )
        self.model = make_resnet50(len(self.train.dataset.class_names))
        self.backbone, self.head = self.model[:-1], self.model[-1]
        load_keras_weights(self.backbone, dict(np.load(args.weights)))
        self.history = args.workdir / "history.csv"
        self.write_row(["phase", "epoch", "val_loss", "val_accuracy"])
        self.best = {"val_loss": math.inf}
        self.best_state: dict[str, torch.Tensor] = {}

    def train_phase(self, phase: Phase) -> None:
        """Trains a phase and restores the best epoch so far."""
        learning = self.model if phase.stages else self.head
        weights = [w for w in learning.parameters() if w.requires_grad]
        optimizer = torch.optim.Adam(weights, phase.learning_rate, eps=1e-7)
        steps = phase.epochs * len(self.train)
        warmup = min(self.config.train.warmup_epochs * len(self.train), steps // 2)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: compute_rate(step, steps, warmup)
        )
        patience = self.config.selection.patience or max(3, phase.epochs // 4)
        best, best_epoch = math.inf, 0
        for epoch in range(phase.epochs):
            self.train_epoch(bool(phase.stages), optimizer, schedule)
            results = evaluate(self.model, self.val)
            self.write_row([phase.name, epoch + 1, *results.values()])
            self.keep(results)
            if results["val_loss"] < best:
                best, best_epoch = results["val_loss"], epoch
            if epoch - best_epoch >= patience:
                break
        self.model.load_state_dict(self.best_state)

    def train_epoch(
        self,
        all_layers: bool,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
    ) -> None:
        """One pass over train. The model stays in eval mode: BatchNorm is fixed."""
        for images, labels in self.train:
            images = images.contiguous(memory_format=torch.channels_last)
            with torch.set_grad_enabled(all_layers):
                features = self.backbone(images)
            logits = self.head(functional.dropout(features, self.config.model.dropout))
            optimizer.zero_grad()
            functional.cross_entropy(logits, labels).backward()
            optimizer.step()
            schedule.step()

    def write_row(self, row: list) -> None:
        """Adds a row to history.csv."""
        with open(self.history, "a", newline="") as stream:
            csv.writer(stream).writerow(row)

    def keep(self, results: dict) -> None:
        """Keeps the weights if they are the best so far."""
        if results["val_loss"] < self.best["val_loss"]:
            self.best = results
            state = self.model.state_dict()
            self.best_state = {name: value.clone() for name, value in state.items()}


def train(args: argparse.Namespace) -> dict:
    """Trains all phases and returns the content of metrics.json."""
    torch.manual_seed(args.seed)
    config = resolve(Config(data=str(args.data), workdir=str(args.workdir)))
    trainer = Trainer(args, config)
    phases = {}
    for phase in config.make_phases(len(trainer.train.dataset)):
        start = time.perf_counter()
        trainer.train_phase(phase)
        phases[phase.name] = {"seconds": time.perf_counter() - start}
    test = evaluate(trainer.model, make_loader(args, config, "test"))
    torch.save(trainer.model.state_dict(), args.workdir / "model.pt")
    return {
        "val": {"accuracy": trainer.best["val_accuracy"]},
        "test": {"accuracy": test["val_accuracy"]},
        "phases": phases,
        "seconds": {"total": time.perf_counter() - START},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights", type=Path, required=True, help="arrays, .npz")
    parser.add_argument("--image_size", type=int, default=160)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workdir", type=Path)
    parser.add_argument("--check", action="store_true", help="compare features only")
    args = parser.parse_args()

    if args.check:
        arrays = dict(np.load(args.weights))
        backbone = make_resnet50(2)[:-1]
        load_keras_weights(backbone, arrays)
        check_features(backbone, arrays)
        return
    args.workdir.mkdir(parents=True, exist_ok=True)
    metrics = train(args)
    (args.workdir / "metrics.json").write_text(json.dumps(metrics, indent=2))


if __name__ == "__main__":
    main()
