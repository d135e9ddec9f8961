"""Makes the sets of docs/tasks.md: two questions about each image, and tags.

    python benchmarks/make_tasks.py FOLDER

FOLDER/clothes  photographs of `builtin:clothes`, with their splits; `garment` is the
                class, `tone` is dark, medium or light by the mean luminance of the
                middle of the picture.
FOLDER/digits   `builtin:digits`; `digit` is the class, `stroke` is thin or bold by the
                amount of ink, compared with the median of the same digit.
FOLDER/tags     pictures of up to three of those digits, each at another place; `tags`
                are the digits, if any.

Of the two questions, each is labelled for half of the images of train and val, drawn
independently; all images of test are labelled.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from PIL import Image

from keras_ft.config.settings import Config
from keras_ft.data.examples import Examples
from keras_ft.data.sources import load_examples

SIDE, CELL = 24, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num_train", type=int, default=600, help="of clothes, digits")
    parser.add_argument("--num_tags", type=int, default=1500, help="pictures of tags")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    clothes, _ = load_examples(Config(mode="check", data="builtin:clothes").data)
    digits, _ = load_examples(Config(mode="check", data="builtin:digits").data)
    splits = rng.permutation(np.resize(["train", "train", "val", "test"], len(digits)))
    digits = digits.with_splits(splits.astype(object))
    for folder, examples, names, compute in (
        ("clothes", clothes, ("garment", "tone"), tones),
        ("digits", digits, ("digit", "stroke"), strokes),
    ):
        examples = reduce_train(examples, args.num_train, rng)
        write_questions(args.folder / folder, examples, names, compute, rng)
    write_tags(args.folder / "tags", digits, args.num_tags, rng)


def tones(pixels: list[np.ndarray], _: np.ndarray) -> np.ndarray:
    means = []
    for image in pixels:
        height, width = image.shape[:2]
        middle = image[height // 4 : -height // 4, width // 4 : -width // 4]
        means.append(float((middle @ [0.299, 0.587, 0.114]).mean()))
    limits = np.quantile(means, [1 / 3, 2 / 3])
    return np.array(["dark", "medium", "light"])[np.digitize(means, limits)]


def strokes(pixels: list[np.ndarray], labels: np.ndarray) -> np.ndarray:
    ink = np.array([float(image.mean()) for image in pixels])
    medians = np.array([np.median(ink[labels == label]) for label in range(10)])
    return np.where(ink > medians[labels], "bold", "thin")


def reduce_train(examples: Examples, num_train: int, rng) -> Examples:
    """Leaves out all but some examples of train."""
    kept = np.isin(examples.splits, ("val", "test"))
    train = np.flatnonzero(examples.splits == "train")
    kept[rng.permutation(train)[:num_train]] = True
    return examples.take(kept)


def write_questions(folder, examples: Examples, names, compute, rng) -> None:
    """Writes a table of two columns of labels."""
    pixels = [read_pixels(file) for file in examples.files]
    first = np.array(examples.class_names)[examples.labels]
    columns = dict(zip(names, (first, compute(pixels, examples.labels)), strict=True))
    is_test = examples.splits == "test"
    labels = [
        np.where(is_test | (rng.random(len(examples)) < 0.5), column, "")
        for column in columns.values()
    ]
    rows = zip(examples.paths, *labels, examples.splits, strict=True)
    write_table(folder, ["path", *columns, "split"], rows)


def write_tags(folder, digits: Examples, count: int, rng) -> None:
    """Writes pictures of digits, of those of the same split."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    splits = rng.permutation(np.resize(["train", "train", "val", "test"], count))
    for i, split in enumerate(splits):
        drawn = rng.choice(np.flatnonzero(digits.splits == split), rng.integers(0, 4))
        picture = rng.integers(0, 60, (SIDE, SIDE), np.uint8)
        places = rng.choice(9, len(drawn), replace=False)
        for example, place in zip(drawn, places, strict=True):
            top, left = CELL * (place // 3), CELL * (place % 3)
            picture[top : top + CELL, left : left + CELL] = read_pixels(
                digits.files[example]
            )[..., 0]
        path = folder / "images" / f"{i}.png"
        Image.fromarray(picture).save(path)
        names = sorted({digits.class_names[digits.labels[j]] for j in drawn})
        rows.append([f"images/{i}.png", "|".join(names) or "|", split])
    write_table(folder, ["path", "tags", "split"], rows)


def read_pixels(file: str) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB"))


def write_table(folder: Path, header, rows) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "labels.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])


if __name__ == "__main__":
    main()
