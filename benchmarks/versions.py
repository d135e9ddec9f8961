"""Test accuracy and seconds of whole commands in two checkouts, over sets and networks.

Val is drawn once and is small, as it is where people have few images; with --labels=20,
each seed trains on other images. The two checkouts take turns, and reuse nothing. What
--output contains is not run again, so that seeds and cases can be added later.

    python benchmarks/versions.py BEFORE AFTER --labels=20,0 --output=versions.json \
      --case "clothes, starter: --data=builtin:clothes --weights=starter"
"""

import argparse
import itertools
import json
import shlex
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from measure import describe_machine, format_table, run_checkout

from keras_ft.config.settings import Config
from keras_ft.data.dataset import load_splits


def link_images(data: str, num_val: int, folder: Path) -> None:
    """Makes links to the images of a set, those of val a random draw."""
    examples = load_splits(Config(mode="check", data=data).data, seed=0)
    for split in ("train", "val", "test"):
        part = examples.split(split)
        rows = np.random.default_rng(0).permutation(len(part))
        for row in rows[:num_val] if split == "val" else rows:
            file = Path(part.files[row]).resolve()
            label = examples.class_names[part.labels[row]]
            # Decoders go by the content; not every version knows every extension.
            link = folder / split / label / f"{row:06d}.png"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)


def run_once(checkout: Path, flags: list[str]) -> dict:
    """Trains in a process of its own; what it writes is removed again."""
    with tempfile.TemporaryDirectory(prefix="versions_") as temporary:
        folder = Path(temporary)
        seconds = run_checkout(checkout, flags, folder)
        metrics = json.loads((folder / "run" / "metrics.json").read_text())
    return {"seconds": seconds, "metrics": metrics}


def summarize(runs: list[dict]) -> dict:
    """What the table needs of the runs of one case and checkout."""
    head = [run["metrics"]["phases"]["head"]["test"]["accuracy"] for run in runs]
    test = [run["metrics"]["test"]["accuracy"] for run in runs]
    return {
        "head": statistics.mean(head),
        "test": statistics.mean(test),
        "range": f"{min(test):.3f} to {max(test):.3f}",
        "seconds": statistics.mean(run["seconds"] for run in runs),
        "finetune": sum(r["metrics"]["best_phase"] == "finetune" for r in runs),
    }


def make_cells(before: dict, after: dict) -> list[str]:
    """The numbers of a row of the table."""
    accuracies = (after["head"], before["test"], after["test"])
    seconds = (before["seconds"], after["seconds"])
    return [
        *(f"{value:.3f}" for value in accuracies),
        after.get("range", ""),
        *(f"{value:.0f}" for value in seconds),
    ]


def tabulate(found: dict[str, dict[str, dict]], cases: list[str]) -> list[list[str]]:
    """A row for each case that both checkouts have finished, and one of the means."""
    header = ["case, labels per class", "seeds", "head", "before", "after"]
    table = [[*header, "after, range", "seconds before", "after", "finetune chosen"]]
    rows = []
    for case in cases:
        pair = [found.get(f"{case} {version}", {}) for version in ("before", "after")]
        if seeds := sorted(set.intersection(*map(set, pair)), key=int):
            before, after = (summarize([runs[seed] for seed in seeds]) for runs in pair)
            rows.append((before, after))
            chosen = f"{before['finetune']}, {after['finetune']}"
            table.append([case, " ".join(seeds), *make_cells(before, after), chosen])
    if rows:
        means = [
            {
                name: statistics.mean(row[name] for row in column)
                for name in ("head", "test", "seconds")
            }
            for column in zip(*rows, strict=True)
        ]
        table.append(["mean of the rows", "", *make_cells(*means), ""])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument(
        "--case", action="append", required=True, help="NAME: FLAGS, with --data first"
    )
    parser.add_argument("--labels", default="20", help="per class; 0: all")
    parser.add_argument("--seeds", default="0,1,2", help="which, not how many")
    parser.add_argument("--num_val", type=int, default=150)
    parser.add_argument("--output", type=Path, required=True, help="JSON file")
    args = parser.parse_args()
    print(", ".join(f"{name}: {value}" for name, value in describe_machine().items()))
    found = json.loads(args.output.read_text()) if args.output.exists() else {}
    checkouts = {"before": args.before.resolve(), "after": args.after.resolve()}
    given = dict(case.split(": ", 1) for case in args.case)
    cases = {
        f"{name}, {labels if int(labels) else 'all'}": (
            *shlex.split(flags),
            f"--examples_per_class={labels}",
        )
        for labels, (name, flags) in itertools.product(
            args.labels.split(","), given.items()
        )
    }
    with tempfile.TemporaryDirectory(prefix="versions_") as folder:
        folders = {}
        for data, *_ in cases.values():
            if data not in folders:
                folders[data] = Path(folder) / str(len(folders))
                link_images(data.removeprefix("--data="), args.num_val, folders[data])
        for seed, (case, (data, *flags)) in itertools.product(
            args.seeds.split(","), cases.items()
        ):
            flags = [f"--data={folders[data]}", *flags, f"--seed={seed}"]
            for version, checkout in checkouts.items():
                runs = found.setdefault(f"{case} {version}", {})
                if seed not in runs:
                    runs[seed] = run_once(checkout, flags)
                    args.output.write_text(json.dumps(found))
                    row = summarize([runs[seed]])
                    print(case, version, seed, row, file=sys.stderr, flush=True)
    print(format_table(tabulate(found, list(cases))))


if __name__ == "__main__":
    main()
