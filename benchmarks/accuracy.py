"""What a setting does to accuracy: one table per question, seeds as the measure.

Runs the program once per row and seed on one data set and prints mean and range over
the seeds as a Markdown table. Runs that are finished in --workdir are not repeated.

    python benchmarks/accuracy.py --table=unfreeze --data=FOLDER
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

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
    args = parser.parse_args()

    common = [f"--data={args.data}", f"--image_size={args.image_size}"]
    rows = make_tables(args.head_epochs, args.finetune_epochs)[args.table]
    results = {name: [] for name in rows}
    for number, (name, flags) in enumerate(rows.items()):
        for seed in range(args.seeds):
            workdir = args.workdir.absolute() / f"{args.table}-{number}-{seed}"
            row = ["--weights=starter", *common, f"--seed={seed}", *flags]
            results[name].append(run(workdir, row))

    print(f"| {args.table} | test accuracy | val accuracy | val loss | seconds |")
    print("| --- | --- | --- | --- | --- |")
    for name, runs in results.items():
        cells = [
            summarize([metrics["test"]["accuracy"] for metrics in runs]),
            summarize([metrics["val"]["accuracy"] for metrics in runs]),
            summarize([metrics["val"]["loss"] for metrics in runs]),
            f"{sum(metrics['seconds']['total'] for metrics in runs) / len(runs):.0f}",
        ]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
