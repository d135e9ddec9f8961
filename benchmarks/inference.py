"""How large and how fast is each export, beside Keras and PyTorch?

Networks with random weights and two classes. All formats, the Keras model before its
BatchNorm is folded, and PyTorch if it is installed (ResNet50 only) take turns in each
round on the same decoded images, float32, on all cores; medians over the rounds.

    python benchmarks/inference.py --backbones resnet50 mobilenet_v2 --rounds=15
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measure import describe_machine, format_table, number, ratio

from keras_ft.catalog.formats import FORMATS, SAVED_MODEL
from keras_ft.host.startup import import_tensorflow

# From images float32 [N, H, W, 3] to anything.
Program = Callable[[np.ndarray], Any]


@dataclasses.dataclass
class Measured:
    """A program, its size in bytes, and seconds by size of the batch."""

    run: Program
    num_bytes: int
    seconds: dict[int, list[float]]


def make_programs(backbone: str, image_size: int, folder: Path) -> dict[str, Measured]:
    """The model in every format whose packages are installed."""
    import tensorflow as tf

    from keras_ft.catalog.preprocessing import Preprocessing
    from keras_ft.models.classifier import (
        fold_classifier,
        make_backbone,
        make_classifier,
    )
    from keras_ft.models.trained import describe_network
    from keras_ft.serving import conversion, model_files
    from keras_ft.serving.runtimes import load_network
    from keras_ft.tasks import Task

    preprocessing = Preprocessing(image_size, image_size)
    tasks = (Task(class_names=("a", "b")),)
    model = make_classifier(
        make_backbone(backbone, preprocessing.size), tasks, dropout=0.0
    )
    description = describe_network(model, tasks, preprocessing)
    model_files.write_model(model, description, folder / "model.keras")
    graph = tf.function(lambda images: model(images, training=False))
    programs = {
        "Keras, not folded": (lambda x: graph(x).numpy(), folder / "model.keras")
    }
    if backbone == "resnet50" and importlib.util.find_spec("torch"):
        programs["PyTorch"] = make_torch(folder / "model.pt"), folder / "model.pt"
    folded = fold_classifier(model, tasks)
    network = conversion.trace(folded, tasks)
    for name, row in FORMATS.items():
        if not all(map(importlib.util.find_spec, row.packages)):
            continue
        (folder / name).mkdir()
        if name == SAVED_MODEL:
            model_files.write_saved_model(folded, description, folder / name)
            programs[name] = load_saved_model(folder / name), folder / name
        else:
            conversion.WRITERS[name](network, description, folder / name)
            programs[name] = load_network(folder / name / row.file), folder / name
    return {
        name: Measured(run, measure_size(path), {})
        for name, (run, path) in programs.items()
    }


def load_saved_model(path: Path) -> Program:
    """Its signature for pixels; they have the size of the network already."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    serve = loaded.signatures["serving_pixels"]

    def run(images: np.ndarray) -> np.ndarray:
        answer = serve(image=tf.constant(images.astype(np.uint8)))
        return answer["probabilities"].numpy()

    run.loaded = loaded  # type: ignore[attr-defined]  # else its variables are deleted
    return run


def make_torch(path: Path) -> Program:
    """ResNet50 as a PyTorch user would run it, in channels_last."""
    import torch
    from torch_recipe import make_resnet50

    network = make_resnet50(2).eval().to(memory_format=torch.channels_last)
    torch.save(network.state_dict(), path)

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()

    return run


def measure_size(path: Path) -> int:
    """Bytes of a file or of all files in a folder."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def measure(
    programs: dict[str, Measured], image_size: int, batch_size: int, rounds: int
) -> None:
    """Lets the programs take turns; the first round does not count."""
    rng = np.random.default_rng(0)
    shape = (batch_size, image_size, image_size, 3)
    images = rng.integers(0, 256, shape).astype("float32")
    for i in range(rounds + 1):
        for program in programs.values():
            for size in (1, batch_size):
                batch = np.ascontiguousarray(images[:size])
                start = time.perf_counter()
                program.run(batch)
                seconds = time.perf_counter() - start
                if i:
                    program.seconds.setdefault(size, []).append(seconds)


def to_rows(
    backbone: str, programs: dict[str, Measured], batch_size: int
) -> list[list[str]]:
    """Rows of the table."""
    medians = {
        name: {s: statistics.median(t) for s, t in program.seconds.items()}
        for name, program in programs.items()
    }
    reference = medians["Keras, not folded"]
    return [
        [
            *(backbone, name, number(programs[name].num_bytes / 1e6, 1)),
            *(number(1000 * of[1], 1), ratio(of[1], reference[1])),
            number(batch_size / of[batch_size], 1),
            ratio(reference[batch_size], of[batch_size]),
        ]
        for name, of in medians.items()
    ]


def main() -> None:
    """Prints the machine and a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbones", nargs="+", default=["resnet50", "mobilenet_v2"])
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    import_tensorflow()
    rows = []
    for backbone in arguments.backbones:
        with tempfile.TemporaryDirectory() as folder:
            programs = make_programs(backbone, arguments.image_size, Path(folder))
            measure(
                programs, arguments.image_size, arguments.batch_size, arguments.rounds
            )
        rows += to_rows(backbone, programs, arguments.batch_size)
        print(f"{backbone}: done", file=sys.stderr)
    print(json.dumps(describe_machine()), f"load {os.getloadavg()[0]:.1f}")
    header = ["network", "program", "MB", "ms/image", "of Keras's", "images/s"]
    print(format_table([[*header, "times Keras's"], *rows]))


if __name__ == "__main__":
    main()
