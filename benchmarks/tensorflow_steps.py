"""Speed of single steps of the guide's recipe and of keras_ft, and of a matrix product.

ResNet50 on a batch held in memory. For each line on standard input it times every case
once and prints the seconds as a line of JSON, so that other processes can take turns
with it. The first rounds warm up. See step_rates.py.

    yes | head -5 | python benchmarks/tensorflow_steps.py
"""

import argparse
import json
import sys
from collections.abc import Callable

import guide_recipe
import keras
import numpy as np
import tensorflow as tf
from measure import Cases, time_round

from keras_ft.catalog.backbones import stages_to_train
from keras_ft.models.classifier import (
    Parts,
    make_backbone,
    make_classifier,
    set_trainable,
    split,
)
from keras_ft.tasks import Task

NUM_CLASSES = 10
TASKS = [Task(class_names=tuple(map(str, range(NUM_CLASSES))))]


def make_cases(args: argparse.Namespace) -> Cases:
    """The calls to time, by kind and name."""
    rng = np.random.default_rng(0)
    shape = (args.batch_size, args.image_size, args.image_size, 3)
    images = rng.uniform(0, 255, shape).astype("float32")
    labels = rng.integers(NUM_CLASSES, size=args.batch_size)
    one_hot = {TASKS[0].name: np.eye(NUM_CLASSES, dtype="float32")[labels]}

    guide, base = guide_recipe.make_model(args.weights, args.image_size, NUM_CLASSES)
    guide_recipe.compile_phase(guide, base, "finetune")
    head = split_classifier(args, "none")
    everything = split_classifier(args, "all").trainable
    last_stage = split_classifier(args, "from:conv5")
    features = last_stage.frozen.predict_on_batch(images)
    return {
        "forward": {
            "guide": lambda: base.predict_on_batch(images),
            "ours": lambda: head.frozen.predict_on_batch(images),
        },
        "step": {
            "guide": lambda: guide.train_on_batch(images, labels),
            "ours": lambda: everything.train_on_batch(images, one_hot),
        },
        "step_conv5": {
            "ours": lambda: last_stage.trainable.train_on_batch(features, one_hot)
        },
        "roof": {
            dtype: make_product(args.roof_size, dtype)
            for dtype in ("float32", "bfloat16")
        },
    }


def split_classifier(args: argparse.Namespace, unfreeze: str) -> Parts:
    """What keras_ft trains, and what it computes once, for a value of --unfreeze."""
    backbone = make_backbone("resnet50", (args.image_size, args.image_size))
    if args.weights:
        backbone.load_weights(args.weights)
    classifier = make_classifier(backbone, TASKS, 0.2)
    stages = stages_to_train("resnet50", unfreeze)
    set_trainable(backbone, stages, "fixed")
    parts = split(classifier, TASKS, stages, fold=True)
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


def count_multiply_adds(image_size: int) -> int:
    """Multiply-adds of ResNet50's convolutions for one image, forward."""
    total = 0
    for layer in make_backbone("resnet50", (image_size, image_size)).layers:
        if isinstance(layer, keras.layers.Conv2D):
            _, height, width, _ = layer.output.shape
            total += height * width * int(np.prod(layer.kernel.shape))
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", help="a .weights.h5 of ResNet50; default: random")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--roof_size", type=int, default=4096)
    args = parser.parse_args()

    # Keras prints progress; nothing but JSON may reach the reader.
    output, sys.stdout = sys.stdout, sys.stderr
    cases = make_cases(args)
    for _ in sys.stdin:
        print(json.dumps(time_round(cases)), file=output, flush=True)


if __name__ == "__main__":
    main()
