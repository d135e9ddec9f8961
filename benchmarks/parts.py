"""How long the parts of the main job take in two checkouts of the program.

Runs the same two-phase command in both, in turn, each time without anything to reuse,
and prints medians by part. Of phase finetune, `steps` is what its epochs would take if
all were like the median of those after the first; `first epoch` is what the first takes
more (tracing, optimisation of the graph); `rest` is what is not in an epoch (set-up,
checkpoints, predictions). All but `steps` is overhead.

    python benchmarks/parts.py BEFORE AFTER
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from measure import describe_machine, format_table, number, ratio, run_checkout

from keras_ft.host.files import read_rows

FLAGS = [
    "--data=builtin:faces",
    "--weights=starter",
    "--augment=none",  # as in earlier versions by default
    "--image_size=64",
    "--head_epochs=5",
    "--finetune_epochs=5",
    "--patience=100",
]


def measure(checkout: Path, flags: list[str]) -> dict[str, float]:
    """Seconds of the parts of one run."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        seconds = run_checkout(checkout, flags, folder)
        metrics = json.loads((folder / "run" / "metrics.json").read_text())
        rows = read_rows(folder / "run" / "history.csv")
    parts = metrics["seconds"]
    epochs = [float(row["seconds"]) for row in rows if row["phase"] == "finetune"]
    first, *others = epochs
    of_epoch = statistics.median(others)
    return {
        "start-up, also before the program's clock": (
            seconds - parts["total"] + parts["start-up"]
        ),
        "data, audit": parts["data"] + parts["audit"],
        "model": parts["model"],
        "features": parts["features"],
        "head": parts["head"],
        "finetune, first epoch": first - of_epoch,
        "finetune, rest": parts["finetune"] - sum(epochs),
        "export": parts["export"],
        "report": parts["report"],
        "finetune, steps": sum(others) + of_epoch,
        "all": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--flags", default="", help="more flags, separated by blanks")
    args = parser.parse_args()

    flags = FLAGS + args.flags.split()
    checkouts = {"before": args.before.resolve(), "after": args.after.resolve()}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    for _ in range(args.repeats):
        for name, checkout in checkouts.items():
            runs[name].append(measure(checkout, flags))
            print(f"{runs[name][-1]['all']:8.1f} s  {name}", file=sys.stderr)
    for rows in runs.values():
        for row in rows:
            row["all but steps"] = row["all"] - row["finetune, steps"]
    table = [["part, seconds", "before", "after", "after / before"]]
    for part in runs["before"][0]:
        before, after = (
            statistics.median(row[part] for row in runs[name]) for name in runs
        )
        table.append([part, number(before, 2), number(after, 2), ratio(after, before)])
    print(f"{describe_machine()}\n\n{format_table(table)}")


if __name__ == "__main__":
    main()
