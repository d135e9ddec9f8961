"""Stops runs at random instants, starts them again, and compares with a whole run.

Each trial runs the program, stops it after a random time, up to three times in one
run, and then lets it end. Three of five stops are SIGKILL, the others SIGTERM and
SIGINT. Weights, history and metrics must be identical to those of a run that was
never stopped, times aside.

    python benchmarks/kill_and_resume.py --trials=25
"""

import argparse
import collections
import csv
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measure import write_weights
from same_results import hash_weights, without_varying

ROOT = Path(__file__).parents[1]
COMMON = ["--data=builtin:faces", "--image_size=32", "--deterministic"]
TINY = [
    "--backbone=tiny",
    "--head_epochs=8",
    "--finetune_epochs=8",
    "--finetune_learning_rate=0.001",
    "--augment=light",
]
RESNET50 = ["--head_epochs=3", "--finetune_epochs=3", "--unfreeze=from:conv5"]
SIGNALS = [signal.SIGKILL] * 3 + [signal.SIGTERM, signal.SIGINT]


def fingerprint(workdir: Path) -> dict[str, Any]:
    """All of a finished run's results that do not depend on the clock."""
    metrics = json.loads((workdir / "metrics.json").read_text())
    with open(workdir / "history.csv", newline="") as stream:
        history = [{**row, "seconds": 0} for row in csv.DictReader(stream)]
    versions = (workdir / "export" / "saved_model").iterdir()
    return {
        "weights": hash_weights(workdir / "model.keras"),
        "metrics": without_varying(metrics),
        "history": history,
        "splits": (workdir / "splits.csv").read_text(),
        "exported": sorted(version.name for version in versions),
    }


def start(flags: list[str], workdir: Path) -> subprocess.Popen:
    """Starts the program in a process of its own."""
    command = [sys.executable, "run.py", *flags, f"--workdir={workdir}"]
    command.append(f"--cache_dir={workdir}-cache")
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def run_to_the_end(flags: list[str], workdir: Path) -> float:
    """Runs the program; returns its seconds."""
    begin = time.perf_counter()
    process = start(flags, workdir)
    errors = process.communicate()[1]
    if process.returncode:
        raise RuntimeError(f"{workdir} ended with {process.returncode}: {errors}")
    return time.perf_counter() - begin


def stop_after(
    seconds: float, number: signal.Signals, flags: list[str], workdir: Path
) -> bool:
    """Starts the program and stops it; false where it ended before."""
    process = start(flags, workdir)
    try:
        process.communicate(timeout=seconds)
        return False
    except subprocess.TimeoutExpired:
        process.send_signal(number)
    errors = process.communicate()[1]
    # A signal kills while Python starts, before the program handles it.
    if process.returncode not in (-number, 128 + number, 0):
        raise RuntimeError(f"{workdir}, {number.name}: {process.returncode}, {errors}")
    return process.returncode != 0


def describe(workdir: Path) -> str:
    """What a stopped run was doing, as far as its files tell."""
    if not (workdir / "run.json").exists():
        return "before the run began"
    checkpoints = workdir / "checkpoints"
    if (workdir / "metrics.json").exists():
        return "at the very end"
    if (checkpoints / "finetune.npz").exists():
        return "export"
    if list(checkpoints.glob("finetune-*")):
        return "phase finetune"
    if (checkpoints / "head.npz").exists():
        return "before the first epoch of finetune"
    if list(checkpoints.glob("head-*")):
        return "phase head"
    return "features or first epoch of head"


def run_trials(
    name: str, flags: list[str], trials: int, rng: random.Random, folder: Path
) -> tuple[list[str], bool]:
    """Rows of a table, and whether all trials ended in the same results."""
    seconds = run_to_the_end(flags, folder / f"{name}-whole")
    expected = fingerprint(folder / f"{name}-whole")
    places, numbers, equal = collections.Counter(), collections.Counter(), 0
    for trial in range(trials):
        workdir = folder / f"{name}-{trial}"
        for _ in range(rng.choice([1, 1, 2, 3])):
            number = rng.choice(SIGNALS)
            if not stop_after(rng.uniform(0.1, 0.95) * seconds, number, flags, workdir):
                break
            places[describe(workdir)] += 1
            numbers[number.name] += 1
        run_to_the_end(flags, workdir)
        found = fingerprint(workdir)
        equal += found == expected
        for part in expected:
            if found[part] != expected[part]:
                print(f"{workdir}: {part} differ", flush=True)
        shutil.rmtree(workdir)  # a ResNet50 run takes half a gigabyte
        shutil.rmtree(f"{workdir}-cache")
    where, which = (
        ", ".join(f"{n} x {item}" for item, n in counter.most_common())
        for counter in (places, numbers)
    )
    print(f"| {name} | {which} | {where} | {equal} of {trials} |", flush=True)
    return equal == trials


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=25, help="with the tiny backbone")
    parser.add_argument("--resnet50_trials", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory(prefix="kill_and_resume_") as temporary:
        folder = Path(temporary)
        weights = write_weights("tiny", 32, "none", folder / "tiny.weights.h5")
        print("| backbone | stops | while | identical |\n| --- | --- | --- | --- |")
        jobs = {
            "tiny": ([*COMMON, *TINY, f"--weights={weights}"], args.trials),
            "resnet50": (
                [*COMMON, *RESNET50, "--weights=starter"],
                args.resnet50_trials,
            ),
        }
        results = [
            run_trials(name, flags, trials, rng, folder)
            for name, (flags, trials) in jobs.items()
            if trials
        ]
    sys.exit(not all(results))


if __name__ == "__main__":
    main()
