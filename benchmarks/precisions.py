"""Is a training step of a network faster in bfloat16 than in float32 on this machine?

Steps of all weights, BatchNorm fixed, on random images in memory; both precisions take
turns. Weights are random, a preset of KerasHub has its own. TensorFlow decides whether
it uses oneDNN, or TF_ENABLE_ONEDNN_OPTS=1 does.

    python benchmarks/precisions.py resnet50 mobilenet_v2 hub:FOLDER
"""

import argparse
import statistics

import keras
import numpy as np
from measure import describe_machine, time_round

from keras_ft.models.weights import load_backbone
from keras_ft.system.devices import precision
from keras_ft.training.optimizer import Adam

PRECISIONS = ("float32", "mixed_bfloat16")
WARM_UPS = 2


def make_model(name: str, size: int) -> keras.Model:
    """A classifier of ten classes, compiled."""
    weights = "preset" if name.startswith("hub:") else "none"
    backbone = load_backbone(name, (size, size), (weights,))[0]
    for layer in backbone._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    outputs = backbone.output
    if len(outputs.shape) > 2:
        outputs = keras.layers.GlobalAveragePooling2D()(outputs)
    outputs = keras.layers.Dense(10, dtype="float32")(outputs)
    model = keras.Model(backbone.input, outputs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(Adam(1e-5), loss)
    return model


def measure(name: str, size: int, batch_size: int, rounds: int) -> dict[str, float]:
    """Median seconds of a step by precision."""
    rng, cases = np.random.default_rng(0), {}
    images = rng.uniform(-1, 1, (batch_size, size, size, 3)).astype("float32")
    labels = rng.integers(0, 10, batch_size)
    for policy in PRECISIONS:
        with precision(policy):
            model = make_model(name, size)
        cases[policy] = lambda model=model: model.train_on_batch(images, labels)
    rows = [time_round({"step": cases})["step"] for _ in range(WARM_UPS + rounds)]
    return {
        policy: statistics.median(row[policy] for row in rows[WARM_UPS:])
        for policy in PRECISIONS
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("backbones", nargs="+", help="as --backbone of run.py")
    parser.add_argument("--image_size", type=int, default=128)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=6)
    args = parser.parse_args()
    print(", ".join(f"{name}: {value}" for name, value in describe_machine().items()))
    print("| network | float32, ms | bfloat16, ms | float32 / bfloat16 |")
    print("| --- | --- | --- | --- |")
    for name in args.backbones:
        seconds = measure(name, args.image_size, args.batch_size, args.rounds)
        single, half = (1000 * seconds[policy] for policy in PRECISIONS)
        cells = f"{single:.0f} | {half:.0f} | {single / half:.2f}"
        print(f"| {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
