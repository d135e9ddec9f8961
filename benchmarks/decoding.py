"""What an epoch's images cost, with and without those that were decoded before.

Makes photographs of scikit-image as JPEG files. In each round, both ways of reading
make the next augmented view of all images, by turns; no network computes.

    python benchmarks/decoding.py --images=48 --rounds=5
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from measure import describe_machine, format_table
from predict_rate import write_photographs

from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.data.examples import Examples
from keras_ft.host.startup import import_tensorflow
from keras_ft.kinds.task import Task

SHAPES = [(375, 500), (1500, 2000), (3000, 4000)]


def measure(files: list[str], rounds: int, size: int) -> list[float]:
    """Milliseconds per image: from files, the first time, and from then on."""
    import tensorflow as tf

    from keras_ft.images.decoded import DecodedImages
    from keras_ft.images.pipeline import ImageReader
    from keras_ft.system.distribution import without_tuning

    task = Task(class_names=("a", "b"))
    paths, empty = np.array(files, object), np.full(len(files), "", object)
    labels = np.zeros(len(files), int)
    split = Examples(paths, paths, (task,), (labels,), empty, empty)
    fit = Preprocessing(size, size)
    indices = tf.data.Dataset.range(len(files))
    epochs = []
    for decoded in (None, DecodedImages(fit)):
        reader = ImageReader(split, fit, len(files), "light", decoded=decoded)
        views = tf.data.Dataset.range(1, rounds + 2)
        # Each epoch is one batch.
        batches = views.flat_map(lambda view, read=reader.read: read(indices, view))
        epochs.append(iter(without_tuning(batches)))
    found: list[list[float]] = [[], []]
    for _ in range(rounds + 1):
        for epoch, milliseconds in zip(epochs, found, strict=True):
            start = time.perf_counter()
            next(epoch)
            seconds = time.perf_counter() - start
            milliseconds.append(1000 * seconds / len(files))
    from_files, (first, *others) = found
    return [statistics.median(from_files), first, statistics.median(others)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--image_size", type=int, default=224)
    args = parser.parse_args()
    print(", ".join(f"{name}: {value}" for name, value in describe_machine().items()))
    import_tensorflow()
    header = ["pixels", "ms per image: from files", "decoded, first epoch", "then"]
    rows = [[*header, "times faster"]]
    for shape in SHAPES:
        with tempfile.TemporaryDirectory(prefix="decoding_") as folder:
            files = write_photographs(Path(folder), args.images, shape)
            found = measure(files, args.rounds, args.image_size)
        numbers = [*found, found[0] / found[2]]
        name = f"{shape[1]} x {shape[0]}"
        rows.append([name, *(f"{value:.1f}" for value in numbers)])
    print(format_table(rows))


if __name__ == "__main__":
    main()
