"""Fine-tuning as fastai's users do it: `fine_tune`, its own head, transforms, schedule.

The body is Keras's ResNet50 with Keras's initial weights. Everything else is fastai's:
`Resize` and `aug_transforms`, batches of 32, the head of `create_head`, BatchNorm in
training, one epoch of the head, then `--epochs` of everything, with one-cycle rates
that are lower for the body. The model is that of the last epoch, and nothing is
exported.

Needs fastai in an environment of its own; `time_to_accuracy.py` runs it from there.
Like `run.py`, it writes history.csv and metrics.json.

    python benchmarks/fastai_recipe.py --data=FOLDER --weights=FILE --workdir=FOLDER
"""

import argparse
import csv
import json
import time
from pathlib import Path

START = time.perf_counter()  # before PyTorch, whose import is part of the total

import numpy as np  # noqa: E402
import torch  # noqa: E402
from fastai.vision.all import (  # noqa: E402
    Callback,
    CrossEntropyLossFlat,
    ImageDataLoaders,
    Learner,
    Resize,
    accuracy,
    aug_transforms,
    create_head,
    params,
    set_seed,
)
from torch import nn  # noqa: E402
from torch_network import (  # noqa: E402
    load_keras_weights,
    make_resnet50,
    normalise,
)


class Normalise(nn.Module):
    """From fastai's RGB in [0, 1] to the input of Keras's ResNet50."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return normalise(images * 255)


class History(Callback):
    """Writes a row per epoch to history.csv, and notes when each phase begins."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[list] = []
        self.starts: list[float] = []

    def before_fit(self) -> None:
        self.starts.append(time.perf_counter())

    def after_epoch(self) -> None:
        _, _, loss, correct = self.recorder.log[:4]
        self.rows.append([len(self.starts), len(self.rows) + 1, loss, correct])
        with open(self.path, "w", newline="") as stream:
            header = ["phase", "epoch", "val_loss", "val_accuracy"]
            csv.writer(stream).writerows([header, *self.rows])


def make_learner(args: argparse.Namespace) -> Learner:
    """Makes fastai's loaders, and a learner whose last group of weights is the head."""
    size = args.image_size
    loaders = ImageDataLoaders.from_folder(
        args.data,
        train="train",
        valid="val",
        seed=args.seed,
        bs=32,
        item_tfms=Resize(size),
        batch_tfms=aug_transforms(size=size),
    )
    backbone = make_resnet50(loaders.c)[:-3]  # without pooling and head
    load_keras_weights(backbone, dict(np.load(args.weights)))
    backbone.requires_grad_(True)  # of BatchNorm, too
    model = nn.Sequential(
        nn.Sequential(Normalise(), backbone), create_head(2048, loaders.c)
    )
    return Learner(
        loaders,
        model,
        loss_func=CrossEntropyLossFlat(),
        splitter=lambda model: [params(model[0]), params(model[1])],
        metrics=accuracy,
        path=args.workdir,
    )


def train(args: argparse.Namespace) -> dict:
    """Trains both phases and returns the content of metrics.json."""
    set_seed(args.seed)
    learner = make_learner(args)
    history = History(args.workdir / "history.csv")
    learner.fine_tune(args.epochs, freeze_epochs=args.freeze_epochs, cbs=history)
    end = time.perf_counter()
    files = sorted((args.data / "test").glob("*/*"))
    names = list(learner.dls.vocab)
    loader = learner.dls.test_dl(files)
    probabilities, _ = learner.get_preds(dl=loader)
    labels = torch.tensor([names.index(file.parent.name) for file in files])
    correct = (probabilities.argmax(1) == labels).float().mean().item()
    begin_head, begin_all = history.starts
    return {
        "val": {"accuracy": history.rows[-1][-1]},
        "test": {"accuracy": correct},
        "phases": {
            "head": {"seconds": begin_all - begin_head},
            "finetune": {"seconds": end - begin_all},
        },
        "seconds": {"total": time.perf_counter() - START},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="arrays, .npz")
    parser.add_argument("--image_size", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=5, help="of everything")
    parser.add_argument("--freeze_epochs", type=int, default=1, help="of the head")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workdir", type=Path, required=True)
    args = parser.parse_args()

    args.workdir.mkdir(parents=True, exist_ok=True)
    metrics = train(args)
    (args.workdir / "metrics.json").write_text(json.dumps(metrics, indent=2))


if __name__ == "__main__":
    main()
