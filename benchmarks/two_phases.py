"""What cached features are worth to phase head: `reuse` by a second run, and `memory`.

`reuse` times a second run on stored features, `memory` reads the peak against the
number of images. The README in this folder says what each number is. --output is
written after each row.

    python benchmarks/two_phases.py --data=FOLDER --output=two_phases.json
"""

import argparse
import json
import tempfile
from pathlib import Path

from measure import (
    format_table,
    link_images,
    median,
    number,
    ratio,
    run_program,
    write_weights,
)

Table = list[list[str]]


def run_ours(flags: list[str], cache: Path, folder: Path) -> dict:
    """Runs keras_ft once.

    Args:
        flags: All flags but where to write.
        cache: Folder of stored features; a new one makes a run that reuses nothing.
        folder: The workdir to make.
    """
    return run_program(["run.py", *flags, f"--cache_dir={cache}"], folder)


def measure_reuse(args: argparse.Namespace, folder: Path) -> tuple[dict, Table]:
    """Phase head twice with one cache folder, the second at another learning rate."""
    counts = {"train": args.reuse_images, "val": args.num_eval, "test": args.num_eval}
    counts = link_images(args.data, folder / "data", counts)
    weights = write_weights(
        "resnet50",
        args.reuse_image_size,
        args.weights,
        folder / "resnet50.weights.h5",
    )
    flags = [
        f"--data={folder / 'data'}",
        f"--weights={weights}",
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


ROWS = {
    "reuse": measure_reuse,
    "memory": measure_memory,
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="as for run.py")
    parser.add_argument("--weights", default="starter", help="one, as for run.py")
    parser.add_argument("--rows", default=",".join(ROWS), help="which to measure")
    parser.add_argument("--output", type=Path, help="JSON file for all numbers")
    parser.add_argument("--seeds", type=int, default=3, help="of reuse")
    parser.add_argument("--num_eval", type=int, default=100, help="of val, of test")
    parser.add_argument("--head_epochs", type=int, default=10, help="of reuse")
    parser.add_argument("--reuse_images", type=int, default=3000)
    parser.add_argument("--reuse_image_size", type=int, default=96)
    parser.add_argument("--memory_images", type=int, nargs="+", default=[2000, 20000])
    parser.add_argument("--memory_image_size", type=int, default=224)
    args = parser.parse_args()
    args.rows = args.rows.split(",")
    if unknown := set(args.rows) - set(ROWS):
        parser.error(f"--rows must be among {', '.join(ROWS)}. Received: {unknown}")
    return args


def main() -> None:
    args = parse_arguments()
    results = {}
    with tempfile.TemporaryDirectory(prefix="two_phases_") as temporary:
        folder = Path(temporary)
        for row in args.rows:
            results[row], table = ROWS[row](args, folder / row)
            print(f"\n{format_table(table)}", flush=True)
            if args.output:
                args.output.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
