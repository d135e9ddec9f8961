"""Does training compute what the classic loop of PyTorch computes?

Runs `configs/head_only.cfg` and `configs/full_sgd.cfg` without dropout, notes the first
batches, the loss of each step and the weights, and repeats these steps in plain
PyTorch: the same ResNet50 from the same weights, cross-entropy, SGD with a learning
rate of 0.001 and momentum 0.9; in the second case with BatchNorm in training. Prints
how far losses and weights are apart.

    python benchmarks/same_as_torch.py

PyTorch must be installed.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import keras

STEPS = 20
CASES = {
    "head_only": ["--cache_features=off"],
    "full_sgd": [],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--weights", default="starter", help="as run.py takes it")
    parser.add_argument("--repeat", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.repeat:
        return repeat_in_torch(options.repeat)
    print(f"Largest differences after {STEPS} steps of SGD, ours from PyTorch's:")
    for case, flags in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            noted = Path(folder) / "noted.npz"
            np.savez(noted, **note_training(case, flags, options.weights, folder))
            script = [str(Path(__file__)), f"--repeat={noted}"]
            output = subprocess.check_output([sys.executable, *script], text=True)
        print(f"{case:10} {output.strip()}")


def note_training(case: str, flags: list[str], weights: str, folder: str) -> dict:
    """Trains as the config says; returns batches, losses and weights."""
    import keras

    from keras_ft.config.flags import parse
    from keras_ft.errors import UserError
    from keras_ft.jobs.train import train
    from keras_ft.models.weights import load_backbone
    from keras_ft.training.trained_part import TrainedPart

    noted: dict[str, np.ndarray] = {}

    class Note(keras.callbacks.Callback):
        losses: list[float] = []
        seen = 0

        def on_train_begin(self, logs=None):
            self.losses.clear()
            size = self.model.input_shape[1:3]
            backbone = load_backbone("resnet50", size, (weights,))[0]
            # A frozen part has its BatchNorm folded.
            noted.update(read_weights(self.model, "before"))
            noted.update(read_weights(backbone, "before"))

        def on_epoch_begin(self, epoch, logs=None):
            self.seen, self.sum = 0, 0.0

        def on_train_batch_end(self, batch, logs=None):
            # Keras's logs have the mean over the examples of the epoch.
            size = noted["sizes"][len(self.losses)]
            self.seen += size
            total = logs["loss"] * self.seen
            self.losses.append((total - self.sum) / size)
            self.sum = total
            if len(self.losses) == STEPS:
                noted.update(read_weights(self.model, "after"))
                noted["losses"] = np.array(self.losses)
                raise UserError("enough")

    make_batches = TrainedPart.training_batches

    def note_batches(part: TrainedPart, first_epoch: int):
        batches = make_batches(part, first_epoch)
        for i, (images, labels) in enumerate(batches.take(STEPS)):
            [of_task] = labels.values()
            noted[f"images/{i}"], noted[f"labels/{i}"] = images, of_task
        noted["sizes"] = np.array([len(noted[f"labels/{i}"]) for i in range(STEPS)])
        return batches

    TrainedPart.training_batches = note_batches
    arguments = [f"--flagfile=configs/{case}.cfg", f"--weights={weights}", *flags]
    arguments += ["--dropout=0", "--augment=none", "--precision=float32"]
    arguments += [f"--workdir={folder}/run", f"--cache_dir={folder}/cache"]
    try:
        train(parse(["same_as_torch", *arguments]), callbacks=[Note()])
    except UserError as error:
        if str(error) != "enough":
            raise
    finally:
        TrainedPart.training_batches = make_batches
    return noted


def read_weights(model: "keras.Model", when: str) -> dict[str, np.ndarray]:
    """Layer and name of each weight."""
    return {
        f"{when}/{'/'.join(weight.path.split('/')[-2:])}": weight.numpy()
        for weight in model.weights
    }


def repeat_in_torch(path: Path) -> None:
    """Repeats the steps that were noted, and prints the differences."""
    import torch
    from torch import nn
    from torch_network import (
        keras_names,
        load_keras_weights,
        make_resnet50,
        normalise,
    )

    noted = dict(np.load(path))
    before, after = (
        {
            name.removeprefix(f"{when}/"): array
            for name, array in noted.items()
            if name.startswith(f"{when}/")
        }
        for when in ("before", "after")
    )
    model = make_resnet50(before["head/bias"].size)
    *layers, head = model
    backbone = nn.Sequential(*layers)
    load_keras_weights(backbone, before)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(before["head/kernel"].T))
        head.bias.copy_(torch.from_numpy(before["head/bias"]))
    trains_all = "conv1_bn/gamma" in after  # not folded
    if trains_all:
        model.train().requires_grad_(True)
    else:
        model.eval().requires_grad_(False)
        head.requires_grad_(True)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.001, momentum=0.9)
    losses = []
    for i in range(STEPS):
        images = torch.from_numpy(noted[f"images/{i}"].transpose(0, 3, 1, 2))
        labels = torch.from_numpy(noted[f"labels/{i}"].argmax(1))
        loss = nn.functional.cross_entropy(model(normalise(images)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    kernels = {"head/kernel": head.weight.detach().numpy().T}
    kernels |= {
        f"{name}/kernel": layer.weight.detach().numpy().transpose(2, 3, 1, 0)
        for name, layer in keras_names(backbone)
        if trains_all and isinstance(layer, nn.Conv2d)
    }
    moved = max(np.abs(after[name] - before[name]).max() for name in kernels)
    apart = max(np.abs(after[name] - ours).max() for name, ours in kernels.items())
    difference = np.abs(np.array(losses) - noted["losses"]).max()
    print(
        f"loss {noted['losses'][0]:.4f} to {noted['losses'][-1]:.4f}, apart "
        f"{difference:.1e}; kernels moved {moved:.1e}, apart {apart:.1e}"
    )


if __name__ == "__main__":
    main()
