"""How well scores before training foretell what a head on a frozen network gives.

Scores each network, then trains its head by run.py --unfreeze=none, a process each, and
prints both beside one another, with Kendall's tau. Beside the weights that are given
there are worse ones, so that there is something to rank without a network: --noise adds
Gaussian noise to the first weights' kernels, in units of each kernel's own deviation.

    python benchmarks/transferability.py --data=FOLDER --image_sizes 64 96
"""

import argparse
import itertools
import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import measure

from keras_ft import flags, runtime
from keras_ft.config import Config
from keras_ft.data import load_splits
from keras_ft.transferability import agreement

_DAMAGE = """
import sys
import numpy as np
from keras_ft.weights import load_backbone

name, image_size, weights, noise, path = sys.argv[1:]
backbone, _ = load_backbone(name, int(image_size), (weights,))
rng = np.random.default_rng(0)
for weight in backbone.weights:
    if weight.path.endswith("kernel"):
        value = weight.numpy()
        weight.assign(value + rng.normal(0, float(noise) * value.std(), value.shape))
backbone.save_weights(path)
"""


def make_weights(args: argparse.Namespace, folder: Path) -> dict[str, str]:
    """What `--weights` of run.py gets, by the name that the table shows.

    `none` becomes a file too: on random weights run.py trains no head.
    """
    weights = {}
    for item in args.weights:
        path = folder / f"{item}.weights.h5"
        if item == "none" and not path.exists():
            measure.write_weights(args.backbone, args.image_sizes[0], item, path)
        weights[get_name(item)] = str(path) if item == "none" else item
    first = args.weights[0]
    for noise in args.noise:
        path = folder / f"noise_{noise:g}.weights.h5"
        if not path.exists():
            given = [args.backbone, args.image_sizes[0], first, noise, path]
            measure.run(["-c", _DAMAGE, *given], path.with_suffix(".log"))
        weights[f"{get_name(first)}, noise {noise:g}"] = str(path)
    return weights


def get_name(weights: str) -> str:
    """What the table calls an item of `--weights`."""
    return Path(weights).name.partition(".")[0]


def make_flags(args: argparse.Namespace, weights: str, image_size: int) -> list[str]:
    """Flags of a network."""
    return [
        f"--data={args.data}",
        f"--backbone={args.backbone}",
        f"--weights={weights}",
        f"--image_size={image_size}",
        "--unfreeze=none",
        *shlex.split(args.flags),
    ]


def train(given: Sequence[str], workdir: Path) -> dict:
    """Trains a head, unless it has been; returns metrics.json."""
    if not (workdir / "metrics.json").exists():
        command = ["run.py", *given, f"--workdir={workdir}", "--overwrite"]
        measure.run(command, workdir.with_suffix(".log"))
    return json.loads((workdir / "metrics.json").read_text())


def score_all(configs: Sequence[Config]) -> list[dict]:
    """Rows of `quick.rank`, in the order of the configs."""
    runtime.import_tensorflow()
    from keras_ft import quick

    rows = quick.rank(configs, load_splits(configs[0].data, configs[0].run.seed))
    by_network = {(row["weights"], row["image_size"]): row for row in rows}
    return [
        by_network[",".join(config.model.weights), config.data.image_size]
        for config in configs
    ]


def format_rows(
    names: Sequence[str], scores: Sequence[dict], results: Sequence[dict]
) -> Iterator[tuple[str, ...]]:
    """Rows of the table, best val accuracy first."""
    yield ("weights, px", "LogME", "1-NN", "val accuracy", "test accuracy", "seconds")
    rows = zip(names, scores, results, strict=True)
    for name, score, result in sorted(
        rows, key=lambda row: -get_accuracy(row[2], "val")
    ):
        yield (
            name,
            f"{score['log_me']:.4f}",
            f"{score['nearest_neighbour_accuracy']:.3f}",
            f"{get_accuracy(result, 'val'):.3f}",
            f"{get_accuracy(result, 'test'):.3f}",
            f"{score['seconds']:.0f}",
        )


def get_accuracy(metrics: dict, split: str) -> float:
    """Accuracy on a split."""
    return metrics[split]["accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--weights", nargs="+", default=["starter", "none"])
    parser.add_argument("--noise", nargs="*", type=float, default=[0.25, 0.5, 1.0])
    parser.add_argument("--image_sizes", nargs="+", type=int, default=[64])
    parser.add_argument("--flags", default="", help="more flags of all runs, --flags=")
    parser.add_argument("--workdir", type=Path, default=Path("runs/transferability"))
    args = parser.parse_args()

    runtime.prepare()
    folder = args.workdir.absolute()
    names, given, workdirs = [], [], []
    weights = make_weights(args, folder)
    for (name, item), size in itertools.product(weights.items(), args.image_sizes):
        names.append(f"{name}, {size}")
        given.append(make_flags(args, item, size))
        workdirs.append(folder / names[-1].replace(", ", "-").replace(" ", "_"))
    configs = [flags.parse(["", *g, f"--workdir={folder}"]) for g in given]
    scores = score_all(configs)
    results = [train(g, workdir) for g, workdir in zip(given, workdirs, strict=True)]

    print(measure.format_table(format_rows(names, scores, results)))
    print("\nKendall's tau:")
    names = ("log_me", "nearest_neighbour_accuracy")
    for name, split in itertools.product(names, ("val", "test")):
        accuracies = [get_accuracy(result, split) for result in results]
        tau = agreement([score[name] for score in scores], accuracies)
        print(f"{name} with {split} accuracy: {tau and round(tau, 2)}")


if __name__ == "__main__":
    main()
