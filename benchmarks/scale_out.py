"""Several processes beside one, all on this machine.

    python benchmarks/scale_out.py training --workdir=runs/scale_out

`training`: one process against two workers on the same cores. They compute the same, so
the time that the workers need beyond that of one process is the cost of being several.
Prints how far histories, test metrics and weights differ, the seconds per epoch, and
the bytes that each worker sends per step.

`sweep` and `predict`, those of `scale_out_ray.py`: one process beside a Ray cluster.
"""

import argparse
import csv
import json
import os
import re
import socket
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scale_out_ray
from measure import ROOT, format_table

# What is trained, as flags: those of all runs, and by run.
COMMON = (
    *("--precision=float32", "--optimizer=sgd", "--schedule=constant"),
    *("--finetune_learning_rate=1e-4", "--patience=1000"),
)
RUNS = {
    "head, cached features": ("--unfreeze=none",),
    "from:conv5": ("--unfreeze=from:conv5", "--head_epochs=0"),
    "all": ("--unfreeze=all", "--head_epochs=0"),
    "weights=none": ("--unfreeze=all", "--head_epochs=0", "--weights=none"),
}


def start_workers(arguments: Sequence[str], folder: Path, count: int) -> list[int]:
    """Runs the program as several workers; returns their exit statuses.

    Args:
        arguments: Its flags.
        folder: Gets the standard error of each worker, `worker-INDEX.log`.
        count: Number of workers; one is a process without TF_CONFIG.
    """
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    processes = []
    for index in range(count):
        task = {"type": "worker", "index": index}
        tf_config = json.dumps({"cluster": {"worker": addresses}, "task": task})
        with open(folder / f"worker-{index}.log", "w") as stream:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "run.py", *arguments],
                    cwd=ROOT,
                    env=os.environ | ({"TF_CONFIG": tf_config} if count > 1 else {}),
                    stdout=subprocess.DEVNULL,
                    stderr=stream,
                )
            )
    return [process.wait() for process in processes]


def train(folder: Path, flags: Sequence[str], count: int) -> dict[str, Any]:
    """Trains and reads what the run has written."""
    folder.mkdir(parents=True)
    workdir = folder / "run"
    own = (f"--workdir={workdir}", f"--cache_dir={folder / 'cache'}")
    statuses = start_workers([*COMMON, *flags, *own], folder, count)
    log = (folder / "worker-0.log").read_text()
    if any(statuses):
        raise SystemExit(f"exit statuses {statuses}\n{log[-3000:]}")
    with open(workdir / "history.csv", newline="") as stream:
        history = list(csv.DictReader(stream))
    weights = re.findall(r"Phase \w+: .*, ([\d,]+) weights\.", log)
    return {
        "history": history,
        "metrics": json.loads((workdir / "metrics.json").read_text())["test"],
        "model": workdir / "model.keras",
        "num_trained": int(weights[-1].replace(",", "")),
    }


def find_numbers(node: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """The numbers in a part of metrics.json, by where they are."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from find_numbers(value, f"{path}/{key}")
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from find_numbers(value, f"{path}/{i}")
    elif isinstance(node, int | float):
        yield path, float(node)


def compare(one: dict[str, Any], two: dict[str, Any]) -> list[str]:
    """The largest differences of history, test metrics and weights."""
    import keras

    history = max(
        abs(float(a[name]) - float(b[name]))
        for a, b in zip(one["history"], two["history"], strict=True)
        for name in set(a) - {"phase", "seconds"}
    )
    first, second = (dict(find_numbers(run["metrics"])) for run in (one, two))
    metrics = max(abs(first[path] - second[path]) for path in first)
    arrays = [keras.models.load_model(run["model"]).get_weights() for run in (one, two)]
    weights = max(float(np.abs(a - b).max()) for a, b in zip(*arrays, strict=True))
    return [f"{value:.1e}" for value in (history, metrics, weights)]


def measure_epoch(run: dict[str, Any]) -> float:
    """Median seconds of an epoch, without the first, which traces the step."""
    seconds = [float(row["seconds"]) for row in run["history"]]
    return statistics.median(seconds[1:] or seconds)


def measure_training(args: argparse.Namespace) -> None:
    """One process beside `--workers`, for each of `RUNS`."""
    count = args.workers
    table = [
        ["trained", "history", "test metrics", "weights", "s per epoch, one"]
        + [f"{count} workers", "ratio", "trained weights", "MB sent per step"]
    ]
    for name in args.runs:
        flags = RUNS[name]
        epochs = f"--finetune_epochs={args.epochs}", f"--head_epochs={args.epochs}"
        # Later flags win: those of the run may leave a phase out.
        flags = (*args.flags.split(), *epochs, *flags)
        folder = args.workdir / re.sub(r"\W+", "-", name)
        one = train(folder / "one", flags, 1)
        several = train(folder / "several", flags, count)
        seconds = measure_epoch(one), measure_epoch(several)
        # Ring all-reduce of float32 gradients.
        sent = 2 * (count - 1) / count * 4 * one["num_trained"]
        table.append(
            [name, *compare(one, several), *(f"{s:.2f}" for s in seconds)]
            + [f"{seconds[1] / seconds[0]:.2f}", f"{one['num_trained']:,}"]
            + [f"{sent / 1e6:.2f}"]
        )
        print(format_table(table), flush=True)


def add_training(commands: Any) -> None:
    """Adds the command `training` to a command line."""
    parser = commands.add_parser("training", help="one process against several workers")
    parser.add_argument("--workdir", type=Path, default=Path("runs/scale_out"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument(
        "--flags",
        default="--data=builtin:digits --weights=starter --image_size=64 "
        "--examples_per_class=32",
        help="flags of run.py for all runs",
    )
    parser.set_defaults(run=measure_training)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    add_training(commands)
    scale_out_ray.add_commands(commands)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
