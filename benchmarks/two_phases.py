"""Two-phase fine-tuning of ResNet50, side by side: Keras's guide, keras_ft, PyTorch.

Rows: `commands` times whole programs, `steps` single steps, `reuse` a second run on
stored features, `memory` the peak against the number of images. The README in this
folder says what each number is. --output is written after each row.

    python benchmarks/two_phases.py --data=FOLDER --output=two_phases.json
"""

import argparse
import json
import shlex
import statistics
import tempfile
from pathlib import Path

from measure import Run, format_table, link_images, run, write_weights

Table = list[list[str]]

GUIDE = "guide"
OURS = "ours"


def run_guide(args: argparse.Namespace, data: Path, seed: int, folder: Path) -> dict:
    """Runs the guide's recipe once."""
    flags = [
        f"--data={data}",
        f"--weights={args.weights_file}",
        f"--image_size={args.image_size}",
        f"--head_epochs={args.head_epochs}",
        f"--finetune_epochs={args.finetune_epochs}",
        f"--seed={seed}",
        f"--workdir={folder}",
    ]
    finished = run(["benchmarks/guide_recipe.py", *flags], folder.with_suffix(".log"))
    metrics = json.loads((folder / "metrics.json").read_text())
    seconds = metrics["seconds"]
    return describe_run(finished, metrics["test_accuracy"], seconds, seconds)


def run_ours(flags: list[str], cache: Path, folder: Path) -> dict:
    """Runs keras_ft once.

    Args:
        flags: All flags but where to write.
        cache: Folder of stored features; a new one makes a run that reuses nothing.
        folder: The workdir to make.
    """
    places = [f"--workdir={folder}", f"--cache_dir={cache}"]
    finished = run(["run.py", *flags, *places], folder.with_suffix(".log"))
    metrics = json.loads((folder / "metrics.json").read_text())
    phases = {name: phase["seconds"] for name, phase in metrics["phases"].items()}
    accuracy = metrics["test"]["accuracy"]
    return describe_run(finished, accuracy, phases, metrics["seconds"])


def describe_run(
    finished: Run, accuracy: float, phases: dict[str, float], parts: dict[str, float]
) -> dict:
    """One run's numbers.

    Args:
        finished: The command.
        accuracy: On test.
        phases: Seconds of `head` and, if it ran, `finetune`.
        parts: Every duration that the command itself reports.
    """
    return {
        "seconds": finished.seconds,
        "head_seconds": phases["head"],
        "finetune_seconds": phases.get("finetune"),
        "test_accuracy": accuracy,
        "peak_bytes": finished.peak_bytes,
        "parts": parts,
    }


def measure_commands(args: argparse.Namespace, folder: Path) -> tuple[dict, Table]:
    """Whole commands, start-up to export, seed by seed in turn."""
    counts = {"train": args.num_images, "val": args.num_eval, "test": args.num_eval}
    counts = link_images(args.data, folder / "data", counts)
    common = [
        f"--data={folder / 'data'}",
        f"--weights={args.weights_file}",
        f"--image_size={args.image_size}",
        f"--head_epochs={args.head_epochs}",
        f"--finetune_epochs={args.finetune_epochs}",
        "--patience=100",  # the guide's epochs are fixed
    ]
    variants = {OURS: [], **{f"{OURS} {v}": shlex.split(v) for v in args.ours}}
    runs = {name: [] for name in (GUIDE, *variants)}
    for seed in range(args.seeds):
        place = folder / f"guide-{seed}"
        runs[GUIDE].append(run_guide(args, folder / "data", seed, place))
        for number, (name, extra) in enumerate(variants.items()):
            place = folder / f"ours{number}-{seed}"
            cache = folder / f"cache{number}-{seed}"
            flags = [*common, f"--seed={seed}", *extra]
            runs[name].append(run_ours(flags, cache, place))
    return {"images": counts, "runs": runs}, tabulate_commands(runs)


def tabulate_commands(runs: dict[str, list[dict]]) -> Table:
    """Medians, and how many times faster than the guide."""
    columns = ("seconds", "head_seconds", "finetune_seconds")
    header = ["command", "seconds, all", "head", "finetune", "times faster, all"]
    table = [[*header, "head", "finetune", "test accuracy", "peak GB"]]
    for name, rows in runs.items():
        own = [median(rows, column) for column in columns]
        guide = [median(runs[GUIDE], column) for column in columns]
        accuracies = [row["test_accuracy"] for row in rows]
        table.append(
            [
                f"`{name}`",
                *(number(value, 1) for value in own),
                *(ratio(a, b) for a, b in zip(guide, own, strict=True)),
                f"{statistics.mean(accuracies):.3f} "
                f"({min(accuracies):.3f} to {max(accuracies):.3f})",
                number(median(rows, "peak_bytes") / 1e9, 2),
            ]
        )
    return table


def measure_steps(args: argparse.Namespace, folder: Path) -> tuple[dict, Table]:
    """Single steps, see step_rates.py."""
    output = folder / "rates.json"
    flags = [
        f"--weights={args.weights_file}",
        f"--image_size={args.steps_image_size}",
        f"--roof_size={args.roof_size}",
        f"--repeats={args.repeats}",
        f"--output={output}",
    ]
    run(["benchmarks/step_rates.py", *flags], folder / "rates.log")
    results = json.loads(output.read_text())
    table = [["images/s", "forward", "training step", "times the guide's", "step"]]
    rates = results["images_per_second"]
    names = list(dict.fromkeys([*rates["forward"], *rates["step"]]))
    for name in names:
        own = [rates[kind].get(name) for kind in ("forward", "step")]
        guide = [rates[kind][GUIDE] for kind in ("forward", "step")]
        ratios = (ratio(a, b) for a, b in zip(own, guide, strict=True))
        table.append([name, *(number(value, 1) for value in own), *ratios])
    for name, roof in results["roof"].items():
        own = [roof[kind] for kind in ("forward", "step")]
        name = f"roof, {name}, {roof['gflops']:.0f} GFLOP/s"
        table.append([name, *(number(value, 1) for value in own), "", ""])
    return results, table


def measure_reuse(args: argparse.Namespace, folder: Path) -> tuple[dict, Table]:
    """Phase head twice with one cache folder, the second at another learning rate."""
    counts = {"train": args.reuse_images, "val": args.num_eval, "test": args.num_eval}
    counts = link_images(args.data, folder / "data", counts)
    flags = [
        f"--data={folder / 'data'}",
        f"--weights={args.weights_file}",
        f"--image_size={args.reuse_image_size}",
        f"--head_epochs={args.head_epochs}",
        "--unfreeze=none",
        "--patience=100",
    ]
    rates = {"first": "0.003", "second": "0.001"}
    runs = {name: [] for name in rates}
    for seed in range(args.seeds):
        for name, rate in rates.items():
            extra = [f"--seed={seed}", f"--head_learning_rate={rate}"]
            place = folder / f"{name}-{seed}"
            runs[name].append(
                run_ours([*flags, *extra], folder / f"cache-{seed}", place)
            )
    columns = ("head_seconds", "seconds")
    medians = {name: [median(rows, c) for c in columns] for name, rows in runs.items()}
    table = [["reuse", "head, seconds", "command, seconds"]]
    for name, values in medians.items():
        table.append([f"{name} run", *(number(value, 1) for value in values)])
    pairs = zip(medians["first"], medians["second"], strict=True)
    table.append(["times faster", *(ratio(first, second) for first, second in pairs)])
    return {"images": counts, "runs": runs}, table


def measure_memory(args: argparse.Namespace, folder: Path) -> tuple[dict, Table]:
    """Peak memory of phase head with few and with many training images."""
    size = args.memory_image_size
    # The small network leaves the data as most of the work; memory is not its own.
    weights = write_weights("tiny", size, "none", folder / "tiny.weights.h5")
    runs = {}
    for count in args.memory_images:
        data = folder / f"data-{count}"
        counts = {"train": count, "val": args.num_eval, "test": args.num_eval}
        link_images(args.data, data, counts, repeat=True)
        flags = [
            f"--data={data}",
            "--backbone=tiny",
            f"--weights={weights}",
            f"--image_size={size}",
            "--head_epochs=2",
            "--unfreeze=none",
            "--patience=100",
        ]
        runs[count] = run_ours(flags, folder / f"cache-{count}", folder / f"{count}")
    peaks = {count: row["peak_bytes"] for count, row in runs.items()}
    first = peaks[args.memory_images[0]]
    table = [["training images", "peak GB", "ratio", "seconds"]]
    for count, peak in peaks.items():
        cells = [number(peak / 1e9, 2), ratio(peak, first)]
        table.append([f"{count:,}", *cells, number(runs[count]["seconds"], 1)])
    return {"runs": runs}, table


def median(runs: list[dict], column: str) -> float | None:
    """The median over runs, or None for what they do not have."""
    values = [run[column] for run in runs]
    return None if None in values else statistics.median(values)


def number(value: float | None, digits: int) -> str:
    """A table's cell."""
    return "" if value is None else f"{value:.{digits}f}"


def ratio(value: float | None, reference: float | None) -> str:
    """A table's cell: value over reference; empty where there is none."""
    return number(value / reference, 2) if value and reference else ""


ROWS = {
    "commands": measure_commands,
    "steps": measure_steps,
    "reuse": measure_reuse,
    "memory": measure_memory,
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="train/ val/ test/")
    parser.add_argument("--weights", default="starter", help="one, as for run.py")
    parser.add_argument("--rows", default=",".join(ROWS), help="which to measure")
    parser.add_argument("--output", type=Path, help="JSON file for all numbers")
    parser.add_argument("--seeds", type=int, default=3, help="of commands and reuse")
    parser.add_argument("--num_images", type=int, default=600)
    parser.add_argument("--num_eval", type=int, default=100, help="of val, of test")
    parser.add_argument("--image_size", type=int, default=160)
    parser.add_argument("--head_epochs", type=int, default=10)
    parser.add_argument("--finetune_epochs", type=int, default=3)
    parser.add_argument(
        "--ours", action="append", default=[], help="flags of one more keras_ft row"
    )
    parser.add_argument("--steps_image_size", type=int, default=224)
    parser.add_argument("--roof_size", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5, help="rounds of steps")
    parser.add_argument("--reuse_images", type=int, default=3000)
    parser.add_argument("--reuse_image_size", type=int, default=96)
    parser.add_argument("--memory_images", type=int, nargs="+", default=[2000, 20000])
    parser.add_argument("--memory_image_size", type=int, default=224)
    args = parser.parse_args()
    args.data, args.rows = args.data.resolve(), args.rows.split(",")
    if unknown := set(args.rows) - set(ROWS):
        parser.error(f"--rows must be among {', '.join(ROWS)}. Received: {unknown}")
    return args


def main() -> None:
    args = parse_arguments()
    results = {}
    with tempfile.TemporaryDirectory(prefix="two_phases_") as temporary:
        folder = Path(temporary)
        weights = args.weights
        if weights.endswith((".h5", ".keras")):
            weights = str(Path(weights).resolve())
        args.weights_file = write_weights(
            "resnet50", args.image_size, weights, folder / "resnet50.weights.h5"
        )
        for row in args.rows:
            results[row], table = ROWS[row](args, folder / row)
            print(f"\n{format_table(table)}", flush=True)
            if args.output:
                args.output.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
