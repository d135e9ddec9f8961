"""The whole chain on one data set: pretrain on some classes, transfer to the others.

The half of the classes with the most images is the large labelled set: a network is
trained on it from scratch (configs/pretrain.cfg). The other classes, with few labels,
are learned by a head on that network, by both phases, and from scratch
(configs/transfer.cfg).

    python benchmarks/chain.py
"""

import argparse
from pathlib import Path

import numpy as np
from hub_networks import NETWORKS, write_preset
from imbalance import run, summarize, write_table

from keras_ft.config.settings import Config
from keras_ft.data.sources import load_examples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="builtin:clothes", help="a set with splits")
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument(
        "--backbone", default="resnet50", help="as for run.py, or ResNet18, by KerasHub"
    )
    parser.add_argument("--pretrain_epochs", type=int, default=30)
    parser.add_argument("--examples_per_class", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workdir", type=Path, default=Path("runs/chain"))
    args = parser.parse_args()

    folder = args.workdir.absolute()
    examples, _ = load_examples(Config(mode="check", data=args.data).data)
    by_size = np.argsort(-np.bincount(examples.labels))
    large, small = np.array_split(by_size, 2)
    for name, labels in (("large", large), ("small", small)):
        part = examples.take(np.isin(examples.labels, labels))
        write_table(part, folder / f"{name}.csv")

    backbone = args.backbone
    if backbone in NETWORKS:
        write_preset(folder / "preset", *NETWORKS[backbone])
        backbone = f"hub:{folder / 'preset'}"
    common = [f"--image_size={args.image_size}", f"--backbone={backbone}"]
    pretrained = run(
        folder / "pretrain",
        [
            "--flagfile=configs/pretrain.cfg",
            *common,
            f"--data={folder / 'large.csv'}",
            f"--finetune_epochs={args.pretrain_epochs}",
        ],
    )
    print(f"Pretrained: test accuracy {pretrained['test']['accuracy']:.3f}\n")

    weights = f"--weights={folder / 'pretrain' / 'backbone.weights.h5'}"
    rows = {
        "head on the pretrained network": [weights, "--unfreeze=none"],
        "pretrained, two phases": [weights],
        "from scratch": ["--weights=none", "--head_epochs=0"],
    }
    print("| what is trained | test accuracy | macro F1 | seconds |")
    print("| --- | --- | --- | --- |")
    for number, (name, flags) in enumerate(rows.items()):
        runs = [
            run(
                folder / f"{number}-{seed}",
                [
                    "--flagfile=configs/transfer.cfg",
                    *common,
                    f"--data={folder / 'small.csv'}",
                    f"--examples_per_class={args.examples_per_class}",
                    f"--seed={seed}",
                    *flags,
                ],
            )
            for seed in range(args.seeds)
        ]
        cells = [
            summarize([metrics["test"][metric] for metrics in runs])
            for metric in ("accuracy", "macro_f1")
        ]
        seconds = np.mean([metrics["seconds"]["total"] for metrics in runs])
        print(f"| {name} | {' | '.join(cells)} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
