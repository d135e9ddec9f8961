"""What a setting does to accuracy: one table per question, seeds as the measure.

Runs the program once per row and seed on one data set and prints mean and range over
the seeds as a Markdown table. Runs that are finished in --workdir are not repeated.

    python benchmarks/accuracy.py --table=unfreeze --data=FOLDER
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

from keras_ft.config.schema import DataConfig
from keras_ft.data.examples import Examples
from keras_ft.data.sources import load_examples
from keras_ft.system import files

ROOT = Path(__file__).parents[1]


def make_tables(head_epochs: int, finetune_epochs: int) -> dict[str, dict]:
    """Flags of each row of each table. All rows train for as many epochs."""
    total = head_epochs + finetune_epochs
    phases = [f"--head_epochs={head_epochs}", f"--finetune_epochs={finetune_epochs}"]
    last_stage = [*phases, "--unfreeze=from:conv5"]
    return {
        "unfreeze": {
            "two phases, all stages (default)": phases,
            "two phases, `from:conv5`": last_stage,
            "head only": [f"--head_epochs={total}", "--unfreeze=none"],
            "from scratch": [
                "--weights=none",
                "--head_epochs=0",
                f"--finetune_epochs={total}",
                "--finetune_learning_rate=0.001",
            ],
        },
        "imbalance": {
            f"`{name}`": ["--unfreeze=none", *phases[:1], f"--imbalance={name}"]
            for name in ("none", "class_weights", "focal", "logit_adjustment")
        },
        "imbalance_two_phases": {
            f"`{name}`": [*phases, f"--imbalance={name}"]
            for name in ("none", "class_weights", "focal", "logit_adjustment")
        },
        "few_labels": {
            f"{count} images of each class": [f"--examples_per_class={count}"]
            for count in (5, 10, 20, 50)
        },
        "precision": {
            f"`{name}`": [*last_stage, f"--precision={name}"]
            for name in ("float32", "mixed_bfloat16")
        },
        "fold": {
            f"`--fold_batch_norm={value}`": [*last_stage, f"--fold_batch_norm={value}"]
            for value in ("on", "off")
        },
        "views": {
            "`--augment=none`": last_stage,
            **{
                f"`--augment=light --feature_views={views}`": [
                    *last_stage,
                    "--augment=light",
                    f"--feature_views={views}",
                ]
                for views in (2, 5)
            },
        },
    }


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
    examples, _ = load_examples(DataConfig(data=data))
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


# Columns of the tables: name, and the number in metrics.json.
COLUMNS = {
    "test accuracy": lambda metrics: metrics["test"]["accuracy"],
    "val accuracy": lambda metrics: metrics["val"]["accuracy"],
    "val loss": lambda metrics: metrics["val"]["loss"],
}
IMBALANCE_COLUMNS = {
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
    parser.add_argument("--table", choices=make_tables(0, 0), required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--image_size", type=int, default=96)
    parser.add_argument("--head_epochs", type=int, default=5)
    parser.add_argument("--finetune_epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workdir", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--only", nargs="+", help="rows that contain one of these")
    parser.add_argument("--imbalance_ratio", type=float, help="leave out train images")
    parser.add_argument("--flags", default="", help="more flags of all rows, --flags=")
    args = parser.parse_args()

    workdirs = args.workdir.absolute()
    if args.imbalance_ratio:
        table = workdirs / "imbalanced.csv"
        write_imbalanced(args.data, args.imbalance_ratio, table)
        args.data = str(table)
    common = [f"--data={args.data}", f"--image_size={args.image_size}"]
    common += shlex.split(args.flags)
    rows = make_tables(args.head_epochs, args.finetune_epochs)[args.table]
    results = {}
    for number, (name, flags) in enumerate(rows.items()):
        if args.only and not any(part in name for part in args.only):
            continue
        results[name] = [
            run(
                workdirs / f"{args.table}-{number}-{seed}",
                ["--weights=starter", *common, f"--seed={seed}", *flags],
            )
            for seed in range(args.seeds)
        ]

    columns = IMBALANCE_COLUMNS if "imbalance" in args.table else COLUMNS
    print(f"| {args.table} | {' | '.join(columns)} | seconds |")
    print(f"| --- |{' --- |' * len(columns)} --- |")
    for name, runs in results.items():
        cells = [summarize(list(map(column, runs))) for column in columns.values()]
        seconds = sum(metrics["seconds"]["total"] for metrics in runs) / len(runs)
        print(f"| {name} | {' | '.join(cells)} | {seconds:.0f} |")


if __name__ == "__main__":
    main()
