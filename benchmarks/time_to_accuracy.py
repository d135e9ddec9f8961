"""Seconds until a model is as accurate as the one that Keras's guide ends with.

In the manner of MLPerf Training: what counts is the time to a given quality, not the
time of a step. Each program runs as a whole command on the same images, image size and
initial weights of ResNet50:

- `guide`: guide_recipe.py, with --head_epochs and --finetune_epochs;
- `ours`: `run.py` with its defaults, so it chooses the number of epochs itself;
- `from_conv5`: `run.py --unfreeze=from:conv5`;
- `torch`: torch_training.py, with the schedule of `ours`, if PyTorch is installed;
- `fastai`: fastai_recipe.py, with --fastai_epochs, if --fastai names the Python of an
  environment that has fastai;
- one more `run.py` for each `--ours=FLAGS`.

The accuracy is that on val after each epoch, which every program computes anyway. The
target is the val accuracy after the guide's last epoch, and a program reaches it at the
end of the first epoch that is at least as accurate; the guide too, which may be before
its end. As the guide keeps no checkpoints, it has a model of that accuracy after the
last epoch only, so times are compared with the end of that epoch, too. Each seed has
its own target, from the guide's run with that seed: about half of the guide's own runs
would miss a mean. Time is since the start of the process. It is read from outside, as
the time when a row appears in the program's history.csv, to 0.1 seconds. Val needs some
hundred images: with 300, a standard error is at most 3 percentage points. Programs
select by val, so accuracy on test is given as well.

Programs take turns, seed by seed. --output is written after each run.

    python benchmarks/time_to_accuracy.py --data=FOLDER --output=time_to_accuracy.json
"""

import argparse
import importlib.util
import json
import math
import shlex
import statistics
import sys
import tempfile
from pathlib import Path

from measure import (
    describe_machine,
    format_table,
    link_images,
    median,
    number,
    ratio,
    run,
    run_program,
    write_weights,
)

GUIDE = "guide"
PROGRAMS = {
    GUIDE: ["benchmarks/guide_recipe.py"],
    "ours": ["run.py"],
    "from_conv5": ["run.py", "--unfreeze=from:conv5"],
    "torch": ["benchmarks/torch_training.py"],
    "fastai": ["benchmarks/fastai_recipe.py"],
}
# Accuracies are fractions of the same number of images, some of them in float32.
ROUNDING = 1e-6

# ResNet50's weights by variable path, and its features of random images.
_WRITE_ARRAYS = """
import sys
import keras
import numpy as np
from keras_ft.models.weights import load_backbone

image_size, weights, path = sys.argv[1:]
backbone = load_backbone("resnet50", (int(image_size),) * 2, (weights,))[0]
images = np.random.default_rng(0).uniform(0, 255, (4, *backbone.input_shape[1:]))
normalised = keras.applications.resnet50.preprocess_input(images.astype("float32"))
features = backbone.predict(normalised, verbose=0).mean((1, 2))
arrays = {variable.path: variable.numpy() for variable in backbone.weights}
np.savez(path, images=images.astype("float32"), features=features, **arrays)
"""


def make_programs(args: argparse.Namespace, folder: Path) -> dict[str, list[str]]:
    """The command lines by name, all but seed and workdir; writes the weights."""
    programs = {name: PROGRAMS[name] for name in args.programs}
    programs |= {f"ours {v}": ["run.py", *shlex.split(v)] for v in args.ours}
    weights = write_weights(
        "resnet50", args.image_size, args.weights, folder / "resnet50.weights.h5"
    )
    if {"torch", "fastai"} & set(programs):
        arrays = folder / "resnet50.npz"
        size = f"--image_size={args.image_size}"
        run(
            ["-c", _WRITE_ARRAYS, args.image_size, weights, arrays],
            folder / "arrays.log",
        )
    if "torch" in programs:
        run(
            [*PROGRAMS["torch"], "--check", f"--weights={arrays}", size],
            folder / "check.log",
        )
    common = [f"--data={folder / 'data'}", f"--image_size={args.image_size}"]
    own = {
        "benchmarks/guide_recipe.py": [
            f"--weights={weights}",
            f"--head_epochs={args.head_epochs}",
            f"--finetune_epochs={args.finetune_epochs}",
        ],
        "benchmarks/torch_training.py": [f"--weights={folder / 'resnet50.npz'}"],
        "benchmarks/fastai_recipe.py": [
            f"--weights={folder / 'resnet50.npz'}",
            f"--epochs={args.fastai_epochs}",
        ],
        "run.py": [f"--weights={weights}"],
    }
    return {
        name: [script, *common, *own[script], *flags]
        for name, (script, *flags) in programs.items()
    }


def measure(command: list[str], seed: int, python: str) -> dict:
    """Runs a program once; what it writes is removed again."""
    with tempfile.TemporaryDirectory(prefix="time_to_accuracy_") as temporary:
        folder = Path(temporary)
        flags = [f"--seed={seed}"]
        if command[0] == "run.py":  # nothing to reuse
            flags.append(f"--cache_dir={folder / 'cache'}")
        return run_program([*command, *flags], folder / "run", python)


def find_time(epochs: list[dict[str, float]], target: float) -> float | None:
    """Seconds until the end of the first epoch that is accurate enough."""
    for epoch in epochs:
        if epoch["val_accuracy"] >= target - ROUNDING:
            return epoch["seconds"]
    return None


def tabulate_targets(runs: dict[str, list[dict]]) -> list[list[str]]:
    """Time to the target, accuracies, and time of the whole command."""
    header = ["program", "seconds to target", "times faster", "than its last epoch"]
    header += ["final val accuracy", "final test accuracy"]
    table = [[*header, "seconds, all", "times faster, all"]]
    last_epoch = statistics.median(r["epochs"][-1]["seconds"] for r in runs[GUIDE])
    for name, rows in runs.items():
        own, guide = median(rows, "seconds"), median(runs[GUIDE], "seconds")
        table.append(
            [
                f"`{name}`",
                describe_time(rows),
                ratio(median_time(runs[GUIDE]), median_time(rows)),
                ratio(last_epoch, median_time(rows)),
                describe_accuracy(rows, "val_accuracy"),
                describe_accuracy(rows, "test_accuracy"),
                number(own, 1),
                ratio(guide, own),
            ]
        )
    return table


def tabulate_parts(runs: dict[str, list[dict]]) -> list[list[str]]:
    """Whole commands and their phases, and how many times faster than the guide's."""
    columns = ("seconds", "head_seconds", "finetune_seconds")
    header = ["command", "seconds, all", "head", "finetune", "times faster, all"]
    table = [[*header, "head", "finetune", "peak GB"]]
    for name, rows in runs.items():
        own = [median(rows, column) for column in columns]
        guide = [median(runs[GUIDE], column) for column in columns]
        table.append(
            [
                f"`{name}`",
                *(number(value, 1) for value in own),
                *(ratio(a, b) for a, b in zip(guide, own, strict=True)),
                number(median(rows, "peak_bytes") / 1e9, 2),
            ]
        )
    return table


def median_time(rows: list[dict]) -> float | None:
    """Median seconds to the target; None if half of the runs do not reach it."""
    seconds = [row["target_seconds"] or math.inf for row in rows]
    middle = statistics.median(seconds)
    return middle if math.isfinite(middle) else None


def describe_time(rows: list[dict]) -> str:
    """A table's cell: seconds to the target, and how many runs did not reach it."""
    missed = sum(row["target_seconds"] is None for row in rows)
    text = number(median_time(rows), 1) or "not reached"
    return f"{text} (not reached by {missed} of {len(rows)})" if missed else text


def describe_accuracy(rows: list[dict], column: str) -> str:
    """Mean and range."""
    values = [row[column] for row in rows]
    mean = statistics.mean(values)
    return f"{mean:.3f} ({min(values):.3f} to {max(values):.3f})"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="as for run.py")
    parser.add_argument("--weights", default="starter", help="one, as for run.py")
    parser.add_argument("--programs", default=",".join(PROGRAMS), help="which to run")
    parser.add_argument(
        "--ours", action="append", default=[], help="flags of one more keras_ft row"
    )
    parser.add_argument("--output", type=Path, help="JSON file for all numbers")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--num_train", type=int, default=600)
    parser.add_argument("--num_eval", type=int, default=300, help="of val, of test")
    parser.add_argument("--image_size", type=int, default=96)
    parser.add_argument("--head_epochs", type=int, default=8, help="of the guide")
    parser.add_argument("--finetune_epochs", type=int, default=3, help="of the guide")
    parser.add_argument("--fastai", help="Python of an environment with fastai")
    parser.add_argument("--fastai_epochs", type=int, default=5, help="of `fine_tune`")
    args = parser.parse_args()
    args.programs = args.programs.split(",")
    if unknown := set(args.programs) - set(PROGRAMS):
        parser.error(f"--programs are {', '.join(PROGRAMS)}. Received: {unknown}")
    if GUIDE not in args.programs:
        parser.error("--programs must contain guide: it sets the target")
    if "torch" in args.programs and not importlib.util.find_spec("torch"):
        print("torch is not installed: it is left out", file=sys.stderr)
        args.programs.remove("torch")
    if "fastai" in args.programs and not args.fastai:
        print("--fastai is not given: it is left out", file=sys.stderr)
        args.programs.remove("fastai")
    args.programs.sort(key=lambda name: name != GUIDE)  # it sets the target
    return args


def main() -> None:
    args = parse_arguments()
    machine = describe_machine()
    print(", ".join(f"{name}: {value}" for name, value in machine.items()), flush=True)
    counts = {"train": args.num_train, "val": args.num_eval, "test": args.num_eval}
    with tempfile.TemporaryDirectory(prefix="time_to_accuracy_") as temporary:
        folder = Path(temporary)
        images = link_images(args.data, folder / "data", counts)
        programs = make_programs(args, folder)
        runs = {name: [] for name in programs}
        for seed in range(args.seeds):
            for name, rows in runs.items():
                print(f"{name}, seed {seed}:", file=sys.stderr)
                python = args.fastai if name == "fastai" else sys.executable
                row = measure(programs[name], seed, python)
                if name == GUIDE:
                    target = row["epochs"][-1]["val_accuracy"]
                seconds = find_time(row["epochs"], target)
                rows.append(row | {"target": target, "target_seconds": seconds})
                if args.output:
                    results = {"machine": machine, "images": images, "runs": runs}
                    args.output.write_text(json.dumps(results, indent=2))
    targets = ", ".join(number(row["target"], 3) for row in runs[GUIDE])
    print(f"\nImages: {images}. Target by seed: {targets}\n")
    print(f"{format_table(tabulate_targets(runs))}\n")
    print(format_table(tabulate_parts(runs)))


if __name__ == "__main__":
    main()
