"""What `--imbalance` does to accuracy and to rare classes.

Runs the program once per loss and seed and prints mean and range over the seeds as a
Markdown table. Runs that are finished in --workdir are not repeated.

    python benchmarks/imbalance.py --imbalance_ratio=50
"""

import argparse
import itertools
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np

from keras_ft.config.settings import Config
from keras_ft.data.examples import Examples
from keras_ft.data.sources import load_examples
from keras_ft.host import files

ROOT = Path(__file__).parents[1]


LOSSES = ("none", "class_weights", "focal", "logit_adjustment")


def run(workdir: Path, flags: list[str]) -> dict:
    """Runs the program, unless it has run; returns metrics.json."""
    if not (workdir / "metrics.json").exists():
        workdir.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "run.py", *flags, f"--workdir={workdir}"]
        with open(workdir.with_suffix(".log"), "w") as log:
            subprocess.run(
                [*command, "--overwrite"], cwd=ROOT, check=True, stdout=log, stderr=log
            )
    return json.loads((workdir / "metrics.json").read_text())


def write_imbalanced(data: str, ratio: float, path: Path) -> None:
    """Writes a CSV of a folder with splits, from whose train images are left out.

    The k-th largest of K classes keeps at most a share of ratio^(-k/(K-1)) of as many
    as the largest has; val and test are as they are.
    """
    examples, _ = load_examples(Config(mode="check", data=data).data)
    train = examples.splits == "train"
    counts = np.bincount(examples.labels[train])
    kept = []
    for rank, label in enumerate(np.argsort(-counts)):
        most = round(counts.max() * ratio ** (-rank / (len(counts) - 1)))
        left_out = np.flatnonzero((examples.labels == label) & train)[most:]
        kept.append(np.setdiff1d(np.flatnonzero(examples.labels == label), left_out))
    write_table(examples.take(np.concatenate(kept)), path)


def write_table(examples: Examples, path: Path) -> None:
    """Writes examples as a CSV that `--data` takes, in their order."""
    rows = (
        (os.path.abspath(file), examples.class_names[label], split)
        for file, label, split in zip(
            examples.files, examples.labels, examples.splits, strict=True
        )
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_csv(path, itertools.chain([("path", "label", "split")], rows))


# Columns of the table: name, and the number in metrics.json.
COLUMNS = {
    "test accuracy": lambda metrics: metrics["test"]["accuracy"],
    "macro F1": lambda metrics: metrics["test"]["macro_f1"],
    "balanced accuracy": lambda metrics: metrics["test"]["balanced_accuracy"],
    "worst recall": lambda metrics: min(
        row["recall"] for row in metrics["test"]["per_class"].values()
    ),
    "val balanced accuracy": lambda metrics: metrics["val"]["balanced_accuracy"],
    "val loss": lambda metrics: metrics["val"]["loss"],
}


def summarize(values: list[float]) -> str:
    """Mean and range."""
    mean = sum(values) / len(values)
    return f"{mean:.3f} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="builtin:clothes")
    parser.add_argument("--image_size", type=int, default=96)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workdir", type=Path, default=Path("runs/imbalance"))
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=LOSSES)
    parser.add_argument("--imbalance_ratio", type=float, help="leave out train images")
    parser.add_argument(
        "--flags",
        default="--unfreeze=none --head_epochs=10",
        help="more flags of all runs, as --flags=...",
    )
    args = parser.parse_args()

    folder = args.workdir.absolute()
    data = args.data
    if args.imbalance_ratio:
        data = str(folder / "imbalanced.csv")
        write_imbalanced(args.data, args.imbalance_ratio, Path(data))
    common = [f"--data={data}", f"--image_size={args.image_size}", "--weights=starter"]
    common += shlex.split(args.flags)
    print(f"| loss | {' | '.join(COLUMNS)} | seconds |")
    print(f"| --- |{' --- |' * len(COLUMNS)} --- |")
    for loss in args.losses:
        runs = [
            run(
                folder / f"{loss}-{seed}",
                [*common, f"--imbalance={loss}", f"--seed={seed}"],
            )
            for seed in range(args.seeds)
        ]
        cells = [summarize(list(map(column, runs))) for column in COLUMNS.values()]
        seconds = sum(metrics["seconds"]["total"] for metrics in runs) / len(runs)
        print(f"| `{loss}` | {' | '.join(cells)} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
