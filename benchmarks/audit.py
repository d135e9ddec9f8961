"""What the audit finds among planted copies, and what it costs beside decoding.

Plants changed copies of training photographs into test and looks for them, then lists
what was alike before. Then times the audit and mere decoding in turn.

    python benchmarks/audit.py --data=FOLDER
"""

import argparse
import concurrent.futures
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf
from measure import format_table
from PIL import Image, ImageOps

from keras_ft.audit.audit import find_all
from keras_ft.audit.decoding import decode_images, load_decoded_facts
from keras_ft.config.schema import DataConfig
from keras_ft.config.settings import Config
from keras_ft.data import dataset as data
from keras_ft.data.facts_cache import load_header_facts
from keras_ft.images.decode import decode_image

NAMES = ("duplicate", "leak", "near_duplicate", "near_leak")


def crop(percent: float) -> Callable[[Image.Image], Image.Image]:
    """Takes a part of the width and of the height off, half of it on each side."""

    def change(image: Image.Image) -> Image.Image:
        dx, dy = (side * percent / 200 for side in image.size)
        return image.crop((dx, dy, image.width - dx, image.height - dy))

    return change


CHANGES = {
    "same bytes": None,
    "half as wide and high": lambda i: i.resize((i.width // 2, i.height // 2)),
    "JPEG quality 40": lambda i: i,
    "mirrored": ImageOps.mirror,
    "10 % brighter": lambda i: i.point(lambda v: min(255, round(v * 1.1))),
    "cropped by 2 %": crop(2),
    "cropped by 5 %": crop(5),
    "cropped by 10 %": crop(10),
    "rotated by 2 degrees": lambda i: i.rotate(2, Image.Resampling.BICUBIC),
}


def plant(examples: data.Examples, count: int, folder: Path) -> dict[str, list[str]]:
    """Writes changed copies and a table of all; returns path and origin by change."""
    rng = np.random.default_rng(0)
    train = rng.permutation(np.flatnonzero(examples.splits == "train"))
    names = examples.class_names
    rows = [
        f"{os.path.abspath(file)},{names[label]},{split}"
        for file, label, split in zip(
            examples.files, examples.labels, examples.splits, strict=True
        )
    ]
    planted = {}
    for number, (name, change) in enumerate(CHANGES.items()):
        planted[name] = []
        for i in train[number * count : (number + 1) * count]:
            path = folder / f"{number}-{i}.jpg"
            if change is None:
                path.write_bytes(Path(examples.files[i]).read_bytes())
            else:
                quality = 40 if "quality" in name else 90
                image = change(Image.open(examples.files[i]).convert("RGB"))
                image.save(path, quality=quality)
            rows.append(f"{path},{names[examples.labels[i]]},test")
            planted[name].append((str(path), os.path.abspath(examples.files[i])))
    (folder / "table.csv").write_text("\n".join(["path,label,split", *rows]))
    return planted


def find_alike(config: DataConfig) -> dict[str, str]:
    """The detail of each finding about images that are alike, by path."""
    source = data.load_dataset(config)
    source = decode_images(source, Path(config.cache_dir))
    examples = data.make_splits(source, config, seed=0)
    findings = find_all(examples, source)
    return {f.path: f"{f.name}: {f.detail}" for f in findings if f.name in NAMES}


def measure_recall(planted: dict, found: dict[str, str], before: dict[str, str]):
    """Rows of a table: change, how many of the copies were found with their origin."""
    table, right = [["change", "found"]], 0
    for name, copies in planted.items():
        hits = sum(origin in found.get(path, "") for path, origin in copies)
        table.append([name, f"{hits} of {len(copies)}"])
        right += hits
    others = len(found) - right
    table.append(["all", f"{right / sum(map(len, planted.values())):.3f} (recall)"])
    table.append(["precision", f"{right / (right + others):.3f}, {others} others"])
    print(f"{len(before)} of the others were alike before anything was planted.")
    return table


def measure_speed(files: list[str], rounds: int) -> list[list[str]]:
    """Images per second of decoding alone and of the audit, in turn."""
    rates = {"decoding alone": [], "audit": [], "audit, remembered": []}

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def read_pixels(file: tf.Tensor) -> tf.Tensor:
        return decode_image(tf.io.read_file(file))

    def decode(file: str) -> None:
        read_pixels(os.fsencode(file)).numpy()

    def decode_alone(_: Path) -> None:
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(decode, files))

    def run_audit(cache_dir: Path) -> None:
        load_header_facts(files, cache_dir)
        load_decoded_facts(files, cache_dir)

    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache_dir:
            for name, function in zip(
                rates, (decode_alone, run_audit, run_audit), strict=True
            ):
                start = time.perf_counter()
                function(Path(cache_dir))
                rates[name].append(len(files) / (time.perf_counter() - start))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return [
        ["what", "images/s", "of decoding"],
        *(
            [name, f"{rate:.0f}", f"{rate / medians['decoding alone']:.2f}"]
            for name, rate in medians.items()
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder with train/ and test/")
    parser.add_argument("--copies", type=int, default=60, help="of each change")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    logging.disable()
    with tempfile.TemporaryDirectory(prefix="audit_") as temporary:
        folder = Path(temporary)
        cache = {"cache_dir": str(folder / "cache")}
        before = find_alike(Config(mode="check", data=args.data, **cache).data)
        for path, detail in before.items():
            print(f"{path}: {detail}")
        examples = data.load_dataset(
            Config(mode="check", data=args.data, **cache).data
        ).examples
        planted = plant(examples, args.copies, folder)
        found = find_alike(
            Config(mode="check", data=str(folder / "table.csv"), **cache).data
        )
        print(format_table(measure_recall(planted, found, before)))
        files = [os.path.abspath(file) for file in examples.files[:1000]]
        print(format_table(measure_speed(files, args.rounds)))


if __name__ == "__main__":
    main()
