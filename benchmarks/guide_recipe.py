"""Two-phase fine-tuning of ResNet50 as Keras's guide to transfer learning does it.

The steps of the end-to-end example in https://keras.io/guides/transfer_learning/, with
ResNet50, K classes and images from folders: float32, the frozen network recomputed
in each epoch, augmented images cached in memory after the first. In Keras 3.15 its
`training=False` no longer holds once the network is unfrozen, so BatchNorm learns.

Like `run.py`, it writes history.csv and metrics.json, with the same names for what both
have.

    python benchmarks/guide_recipe.py --data=FOLDER --workdir=FOLDER
"""

import argparse
import json
import time
from pathlib import Path

START = time.perf_counter()  # before TensorFlow, whose import is part of the total

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

BATCH_SIZE = 32


def load_datasets(data: Path, image_size: int, seed: int) -> list[tf.data.Dataset]:
    """Reads train, val and test; train is augmented.

    Returns:
        Three datasets of (images float32 [B, S, S, 3] in [0, 255], labels int32 [B]).
    """
    datasets = [
        keras.utils.image_dataset_from_directory(
            data / split,
            label_mode="int",
            image_size=(image_size, image_size),
            batch_size=BATCH_SIZE,
            shuffle=split == "train",
            seed=seed,
        )
        for split in ("train", "val", "test")
    ]
    flip = keras.layers.RandomFlip("horizontal")
    rotate = keras.layers.RandomRotation(0.1)
    datasets[0] = datasets[0].map(lambda x, y: (rotate(flip(x)), y))
    # The cache comes after augmentation, as in the guide: each image is augmented once.
    return [dataset.prefetch(tf.data.AUTOTUNE).cache() for dataset in datasets]


def make_model(
    weights: str | None, image_size: int, num_classes: int
) -> tuple[keras.Model, keras.Model]:
    """Builds the classifier.

    Args:
        weights: `imagenet`, a weights file of ResNet50 without top, or None (random).
        image_size: S.
        num_classes: K.

    Returns:
        The classifier, from images float32 [B, S, S, 3] in [0, 255] to logits
        float32 [B, K], and the network inside it.
    """
    shape = (image_size, image_size, 3)
    base = keras.applications.ResNet50(
        include_top=False, weights=weights, input_shape=shape
    )
    inputs = keras.Input(shape)
    x = keras.applications.resnet50.preprocess_input(inputs)
    x = base(x, training=False)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(0.2)(x)
    outputs = keras.layers.Dense(num_classes)(x)
    return keras.Model(inputs, outputs), base


def compile_phase(model: keras.Model, base: keras.Model, phase: str) -> None:
    """Prepares a phase: `head` (network frozen) or `finetune`."""
    base.trainable = phase == "finetune"
    learning_rate = {"head": 1e-3, "finetune": 1e-5}[phase]
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--image_size", type=int, default=160)
    parser.add_argument("--head_epochs", type=int, default=10)
    parser.add_argument("--finetune_epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workdir", type=Path, required=True)
    args = parser.parse_args()

    keras.utils.set_random_seed(args.seed)
    num_classes = sum(folder.is_dir() for folder in (args.data / "train").iterdir())
    train, val, test = load_datasets(args.data, args.image_size, args.seed)
    model, base = make_model(args.weights, args.image_size, num_classes)
    args.workdir.mkdir(parents=True, exist_ok=True)
    history_file, phases = args.workdir / "history.csv", {}
    for phase, epochs in (
        ("head", args.head_epochs),
        ("finetune", args.finetune_epochs),
    ):
        start = time.perf_counter()
        compile_phase(model, base, phase)
        history = model.fit(
            train,
            validation_data=val,
            epochs=epochs,
            callbacks=[keras.callbacks.CSVLogger(history_file, append=True)],
            verbose=2,
        )
        phases[phase] = {"seconds": time.perf_counter() - start}
    _, accuracy = model.evaluate(test, verbose=0)
    model.export(args.workdir / "saved_model", verbose=False)
    metrics = {
        "val": {"accuracy": history.history["val_accuracy"][-1]},
        "test": {"accuracy": accuracy},
        "phases": phases,
        "seconds": {"total": time.perf_counter() - START},
    }
    (args.workdir / "metrics.json").write_text(json.dumps(metrics, indent=2))


if __name__ == "__main__":
    main()
