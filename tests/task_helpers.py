"""What tests of several tasks share: a table of images, and a run on it."""

import csv
from pathlib import Path

import numpy as np
from helpers import COLOURS, write_images

from keras_ft.config.settings import Config

COLUMNS = ("colour", "light", "tags:multi")
FLAGS = {
    "backbone": "tiny",
    "image_size": 16,
    "batch_size": 8,
    "head_epochs": 2,
    "finetune_epochs": 3,
    "finetune_learning_rate": 0.01,
    "label_columns": COLUMNS,
    "deterministic": True,
}


def make_table(folder: Path) -> Path:
    """Images of three colours, light or dark, and a table that labels most of them."""
    rows, rng = [], np.random.default_rng(0)
    for name, colour in COLOURS.items():
        for light, divisor in (("light", 1), ("dark", 3)):
            darkened = tuple(value // divisor for value in colour)
            write_images(folder / f"{name}-{light}", darkened, 10)
            for file in sorted((folder / f"{name}-{light}").iterdir()):
                tags = "|".join([name, *(["bright"] if light == "light" else [])])
                labels = [name, light, tags if name != "red" else "|"]
                rows.append(
                    [str(file), *(x if rng.random() < 0.7 else "" for x in labels)]
                )
    with open(folder / "table.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([["path", "colour", "light", "tags"], *rows])
    return folder / "table.csv"


def make_config(table: Path, workdir: Path, weights: str, **changes) -> Config:
    flags = {"data": str(table), "cache_dir": str(table.parent / "cache")}
    flags |= {"workdir": str(workdir), "weights": (weights,)}
    return Config(**(FLAGS | flags | changes))
