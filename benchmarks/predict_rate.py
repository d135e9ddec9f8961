"""How fast `--mode=predict` is, beside the network alone on decoded images.

Makes a ResNet50 with random weights and photographs of scikit-image as JPEG files. In
each round, the network alone and predict with both artifacts take turns; predict reads,
decodes and resizes files and writes rows. Start-up does not count.

    python benchmarks/predict_rate.py --images=256 --rounds=5
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measure import format_table
from PIL import Image

from keras_ft.host.startup import import_tensorflow


def write_photographs(folder: Path, count: int, shape: tuple[int, int]) -> list[str]:
    """Writes JPEG files, crops of a few photographs."""
    from skimage import data

    rng = np.random.default_rng(0)
    photographs = [
        Image.fromarray(photograph).resize((width + 40, height + 40))
        for height, width in [shape]
        for photograph in (data.astronaut(), data.cat(), data.coffee(), data.rocket())
    ]
    files = []
    for i in range(count):
        left, top = rng.integers(0, 40, 2)
        image = photographs[i % len(photographs)]
        image = image.crop((left, top, left + shape[1], top + shape[0]))
        files.append(str(folder / f"{i:06}.jpg"))
        image.save(files[-1], quality=90)
    return files


def write_exports(folder: Path, image_size: int) -> tuple[Path, Path]:
    """Writes model.keras and a SavedModel of ResNet50 with two classes."""
    from keras_ft.catalog.archive import Description
    from keras_ft.catalog.preprocessing import Preprocessing
    from keras_ft.kinds.task import Task
    from keras_ft.models.classifier import (
        fold_classifier,
        make_backbone,
        make_classifier,
    )
    from keras_ft.serving import model_files

    description = Description(
        (Task(class_names=("a", "b")),), Preprocessing(image_size, image_size)
    )
    model = make_classifier(
        make_backbone("resnet50", description.preprocessing.size),
        description.tasks,
        dropout=0.0,
    )
    model_files.write_model(model, description, folder / "model.keras")
    folded = fold_classifier(model, description.tasks)
    model_files.write_saved_model(folded, description, folder / "saved_model")
    return folder / "model.keras", folder / "saved_model"


def make_network(path: Path, files: list[str], batch_size: int) -> Callable[[], None]:
    """The network alone, on decoded images in memory."""
    import tensorflow as tf

    from keras_ft.images.decode import decode_image, resize
    from keras_ft.models.classifier import fold_classifier
    from keras_ft.models.trained import load_trained

    model, description = load_trained(path)
    model = fold_classifier(model, description.tasks)
    network = tf.function(lambda images: model(images, training=False))
    images = [
        resize(decode_image(Path(f).read_bytes()), description.preprocessing).numpy()
        for f in files
    ]
    batches = [
        np.stack(images[start : start + batch_size])
        for start in range(0, len(images), batch_size)
    ]

    def run() -> None:
        for batch in batches:
            tf.nest.map_structure(lambda tensor: tensor.numpy(), network(batch))

    return run


def make_predict(path: Path, files: list[str], batch_size: int) -> Callable[[], None]:
    """What predict does once it has started."""
    from keras_ft.serving.trained_classifier import classify, load_classifier

    classifier = load_classifier(path)

    def run() -> None:
        for _ in classify(classifier, files, batch_size):
            pass

    return run


def main() -> None:
    """Prints images per second, and their ratio to those of the network alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--file_size", type=int, nargs=2, default=(375, 500))
    arguments = parser.parse_args()
    import_tensorflow()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_photographs(folder, arguments.images, arguments.file_size)
        model, saved_model = write_exports(folder, arguments.image_size)
        programs = {
            "network alone": make_network(model, files, arguments.batch_size),
            "predict, model.keras": make_predict(model, files, arguments.batch_size),
            "predict, SavedModel": make_predict(
                saved_model, files, arguments.batch_size
            ),
        }
        seconds: dict[str, list[float]] = {name: [] for name in programs}
        for i in range(arguments.rounds + 1):
            for program, run in programs.items():
                start = time.perf_counter()
                run()
                if i:  # the first round traces graphs
                    seconds[program].append(time.perf_counter() - start)
    rates = {
        program: arguments.images / statistics.median(times)
        for program, times in seconds.items()
    }
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    rows = [
        [program, f"{rate:.1f}", f"{rate / rates['network alone']:.3f}"]
        for program, rate in rates.items()
    ]
    print(format_table([["program", "images per second", "ratio"], *rows]))


if __name__ == "__main__":
    main()
