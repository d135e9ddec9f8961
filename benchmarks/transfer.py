"""What transfer gives: configs/binary.cfg from starter weights and from random ones.

The same two phases over several seeds, which draw the split and the training order.
The command line refuses a frozen random network, so this goes through the library.

    python benchmarks/transfer.py
"""

import dataclasses
import tempfile
from pathlib import Path

from keras_ft.config import flags
from keras_ft.data.dataset import load_splits
from keras_ft.system import startup

ROOT = Path(__file__).parents[1]
SEEDS = 5


def main() -> None:
    startup.import_tensorflow()
    from keras_ft.jobs.train import fine_tune

    flagfile = f"--flagfile={ROOT / 'configs' / 'binary.cfg'}"
    lines = []
    for weights in ("starter", "none"):
        rows = []
        for seed in range(SEEDS):
            with tempfile.TemporaryDirectory() as workdir:
                given = ["", flagfile, f"--workdir={workdir}", f"--seed={seed}"]
                config = flags.parse(given)
                model = dataclasses.replace(config.model, weights=(weights,))
                config = dataclasses.replace(config, model=model)
                splits = load_splits(config.data, seed)
                metrics = fine_tune(config, splits, {})
            phases = metrics["phases"].values()
            rows.append([phase["test"]["accuracy"] for phase in phases])
            rows[-1].append(metrics["test"]["accuracy"])
        cells = [
            f"{sum(column) / SEEDS:.3f} ({min(column):.3f} to {max(column):.3f})"
            for column in zip(*rows, strict=True)
        ]
        lines.append(f"| {weights} | {' | '.join(cells)} |")
    print("\n| weights | phase head | phase finetune | best by val_loss |")
    print("| --- | --- | --- | --- |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
