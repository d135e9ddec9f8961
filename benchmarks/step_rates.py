"""Speed of single steps on a batch held in memory, beside what the machine can do.

Guide, keras_ft and (if installed) PyTorch take turns, a round at a time. Each of two
frameworks would leave threads spinning under the other's, so PyTorch runs in a process
of its own, idle until asked. The roof is a large matrix product: the images per second
at which ResNet50's multiply-adds alone would run at that rate, three times as many for
a training step (forward, gradients of activations, gradients of weights).

    python benchmarks/step_rates.py --output=FILE
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import guide_recipe
import keras
import numpy as np
import tensorflow as tf
from measure import Cases, Seconds, child_environment, time_round

from keras_ft.models.classifier import (
    make_backbone,
    make_classifier,
    set_trainable,
    split,
)

NUM_CLASSES = 10
WARM_UPS = 2
PASSES = {"forward": 1, "step": 3}


def make_cases(args: argparse.Namespace) -> Cases:
    """The calls to time in this process, by kind and name."""
    rng = np.random.default_rng(0)
    shape = (args.batch_size, args.image_size, args.image_size, 3)
    images = rng.uniform(0, 255, shape).astype("float32")
    labels = rng.integers(NUM_CLASSES, size=args.batch_size)
    one_hot = np.eye(NUM_CLASSES, dtype="float32")[labels]

    guide, base = guide_recipe.make_model(args.weights, args.image_size, NUM_CLASSES)
    guide_recipe.compile_phase(guide, base, "finetune")
    head = split_classifier(args, "none")
    everything = split_classifier(args, "all")
    last_stage = split_classifier(args, "from:conv5")
    features = last_stage.frozen.predict_on_batch(images)
    return {
        "forward": {
            "guide": lambda: base.predict_on_batch(images),
            "ours": lambda: head.frozen.predict_on_batch(images),
        },
        "step": {
            "guide": lambda: guide.train_on_batch(images, labels),
            "ours": lambda: everything.trainable.train_on_batch(images, one_hot),
            "ours from:conv5": lambda: last_stage.trainable.train_on_batch(
                features, one_hot
            ),
        },
        "roof": {
            f"tensorflow {dtype}": make_product(args.roof_size, dtype)
            for dtype in ("float32", "bfloat16")
        },
    }


def split_classifier(args: argparse.Namespace, unfreeze: str):
    """What keras_ft trains, and what it computes once, for a value of --unfreeze."""
    backbone = make_backbone("resnet50", args.image_size)
    if args.weights:
        backbone.load_weights(args.weights)
    classifier = make_classifier(backbone, NUM_CLASSES, 0.2)
    set_trainable(backbone, unfreeze, "fixed")
    parts = split(classifier, unfreeze, fold=True)
    parts.trainable.compile(
        optimizer=keras.optimizers.Adam(1e-4),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return parts


def make_product(size: int, dtype: str) -> Callable[[], object]:
    """A product of two square matrices."""
    matrix = tf.cast(tf.random.normal((size, size)), dtype)
    # Reading one element waits for the product without copying all of it.
    return lambda: tf.matmul(matrix, matrix)[0, 0].numpy()


def torch_rounds(args: argparse.Namespace) -> Iterator[Seconds]:
    """Asks the PyTorch process for a round each time; for ever."""
    if not importlib.util.find_spec("torch"):
        print("torch is not installed: its rows are left out", file=sys.stderr)
        while True:
            yield {}
    sizes = [
        f"--{n}={getattr(args, n)}" for n in ("image_size", "batch_size", "roof_size")
    ]
    with subprocess.Popen(
        [sys.executable, Path(__file__).with_name("torch_recipe.py"), *sizes],
        env=child_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        while True:
            print("next", file=process.stdin, flush=True)
            yield json.loads(process.stdout.readline())


def count_multiply_adds(network: keras.Model) -> int:
    """Multiply-adds of a network's convolutions for one image, forward."""
    total = 0
    for layer in network.layers:
        if isinstance(layer, keras.layers.Conv2D):
            _, height, width, _ = layer.output.shape
            total += height * width * int(np.prod(layer.kernel.shape))
    return total


def summarize(rounds: list[Seconds], args: argparse.Namespace) -> dict:
    """Medians over the rounds, as rates."""
    backbone = make_backbone("resnet50", args.image_size)
    multiply_adds = count_multiply_adds(backbone)
    seconds = {
        kind: {name: [r[kind][name] for r in rounds] for name in names}
        for kind, names in rounds[0].items()
    }
    rates = {
        kind: {n: args.batch_size / statistics.median(s) for n, s in times.items()}
        for kind, times in seconds.items()
        if kind in PASSES
    }
    roofs = {}
    for name, times in seconds["roof"].items():
        flops = 2 * args.roof_size**3 / statistics.median(times)
        roofs[name] = {"gflops": flops / 1e9} | {
            kind: flops / (2 * multiply_adds * passes)
            for kind, passes in PASSES.items()
        }
    return {
        "image_size": args.image_size,
        "batch_size": args.batch_size,
        "multiply_adds_per_image": multiply_adds,
        "images_per_second": rates,
        "roof": roofs,
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", help="a .weights.h5 of ResNet50; default: random")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--roof_size", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()

    cases, others, rounds = make_cases(args), torch_rounds(args), []
    for _ in range(WARM_UPS + args.repeats):
        here, there = time_round(cases), next(others)
        rounds.append({kind: here[kind] | there.get(kind, {}) for kind in here})
    others.close()
    results = summarize(rounds[WARM_UPS:], args)
    args.output.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
