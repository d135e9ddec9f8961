"""What a temperature fitted on val does on test, over the runs of a comparison.

python benchmarks/calibration.py --workdir=runs/compare
"""

import argparse
import json
from pathlib import Path

from imbalance import summarize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True)
    args = parser.parse_args()

    comparison = json.loads((args.workdir / "compare.json").read_text())
    settings = {}
    for run in comparison["runs"]:
        if run["state"] == "finished":
            name = ", ".join(
                f"`{flag}={value}`" for flag, value in run["flags"].items()
            )
            metrics = json.loads((Path(run["workdir"]) / "metrics.json").read_text())
            settings.setdefault(name, []).append(metrics)

    print("| setting | temperature | cross-entropy | calibrated | ECE | calibrated |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, runs in settings.items():
        cells = [summarize([m["calibration"]["temperature"] for m in runs])]
        for metric in ("loss", "ece"):
            before = [m["calibration"]["before"]["test"][metric] for m in runs]
            cells += [summarize(before), summarize([m["test"][metric] for m in runs])]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
