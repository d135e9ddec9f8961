"""What several tests share: small images, scripts, stand-ins."""

import contextlib
import csv
import dataclasses
import functools
import html.parser
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]

# Begins a script, given the folder of a test module, on a machine of two devices.
TWO_CPUS = """
import json, os, sys
sys.path[:0] = [sys.argv[1], os.path.dirname(sys.argv[1])]
from keras_ft.system import console, startup
console.configure_logging()
startup.import_tensorflow()
import tensorflow as tf
[cpu] = tf.config.list_physical_devices("CPU")
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
"""
TWO_PHASES = {
    "head_epochs": 3,
    "head_learning_rate": 0.01,
    "finetune_epochs": 2,
    "finetune_learning_rate": 1e-3,
    "schedule": "constant",
    "warmup_epochs": 0,
}
COLOURS = {"blue": (20, 30, 220), "green": (20, 200, 40), "red": (220, 40, 30)}


def write_images(folder: Path, colour: tuple[int, int, int], count: int) -> None:
    """Writes PNG files of one colour with noise, 24 x 20 px."""
    rng = np.random.default_rng(sum(colour))
    folder.mkdir(parents=True)
    for i in range(count):
        pixels = np.clip(rng.normal(colour, 25, (24, 20, 3)), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")


def make_flags(folder: Path) -> dict:
    """Flags of a run of seconds on `images` in a folder, with other files there."""
    return {
        "data": str(folder / "images"),
        "workdir": str(folder / "run"),
        "cache_dir": str(folder / "cache"),
        "backbone": "tiny",
        "weights": ("none",),
        "image_size": 16,
        "batch_size": 8,
        "head_epochs": 0,
        "finetune_epochs": 2,
        "finetune_learning_rate": 0.01,
    }


def make_arguments(flags: dict) -> list[str]:
    """Flags as arguments of `cli.main`."""
    flags = flags | {"weights": ",".join(flags["weights"])}
    return ["keras_ft", *(f"--{name}={value}" for name, value in flags.items())]


def read_table(path: str | Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def leave_out_export(setattr: Callable[..., None]) -> None:
    """Leaves out SavedModel and report, which take most of the time of a tiny run."""
    from keras_ft.jobs import train_results
    from keras_ft.serving import export

    def write_saved_model(model, class_names, folder):
        version = folder / str(len(list(folder.glob("*/"))) + 1)
        version.mkdir(parents=True)
        return version

    setattr(export, "write_saved_model", write_saved_model)
    setattr(export, "check_parity", lambda *args: (0.0, 1.0))
    setattr(train_results, "report", lambda *args: None)


def predict(examples, wrong=()):
    """Makes probabilities whose predictions are correct except for some examples."""
    num_classes = len(examples.class_names)
    predictions = examples.labels.copy()
    predictions[list(wrong)] = (predictions[list(wrong)] + 1) % num_classes
    return np.float32(0.8 * np.eye(num_classes)[predictions] + 0.2 / num_classes)


def measure(examples, probabilities):
    """Computes metrics, with intervals that do not depend on the examples."""
    from keras_ft.evaluation.metrics import compute_metrics

    intervals = {"accuracy_interval": [0.8, 1.0], "macro_f1_interval": [0.7, 1.0]}
    names = examples.class_names
    return compute_metrics(examples.labels, probabilities, names) | intervals


def make_metrics(splits, test_probabilities):
    """Makes the metrics.json of a run of both phases, whose export was left out."""
    names = list(splits.class_names)
    measured = {
        "val": measure(splits.val, predict(splits.val)),
        "test": measure(splits.test, test_probabilities),
    }
    phase = {"seconds": 2.0, "epochs": 2, "best_epoch": 2, "images_per_second": 5.0}
    before = {"loss": 1.2345, "ece": 0.3456}
    counts = {"train": 9, "val": 9, "test": len(splits.test), "skipped": 0}
    metrics = {
        "class_names": names,
        "num_examples": counts,
        "audit": {},
        "weights_used": "starter",
        "weights_attempts": [{"weights": "imagenet", "error": "no <network>"}],
        "best_phase": "finetune",
        "best_epoch": 1,
        "monitor": "val_loss",
        **measured,
        "phases": dict.fromkeys(("head", "finetune"), phase | measured),
        "calibration": {
            "temperature": 1.25,
            "fitted_on": "val",
            "reason": "",
            "before": {"val": before, "test": before},
        },
        "export_difference": None,
        "seconds": {"data": 1.0, "finetune": 3.0, "total": 4.0},
    }
    if len(names) == 2:
        found = {"balanced_accuracy": 0.75, "precision": 0.625, "recall": 0.875}
        metrics["threshold"] = {"class_name": names[1], "value": 0.43, "test": found}
    return metrics


class HtmlPage(html.parser.HTMLParser):
    """The elements, attributes and text of a page, whose elements must be closed."""

    def __init__(self, source):
        super().__init__()
        self.elements, self.open, self.text = [], [], ""
        self.size = len(source.encode())
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br"):  # they have no end tag
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        # Line breaks and spaces between words count as one space.
        self.text += " ".join(data.split()) + " "

    def images(self, kind):
        """The addresses of the images of a kind, `svg` or `jpeg`."""
        sources = [a["src"] for tag, a in self.elements if tag == "img"]
        return [src for src in sources if src.startswith(f"data:image/{kind}")]

    def has(self, text):
        """Whether the page shows a text."""
        return text in " ".join(self.text.split())


class FakeTraining:
    """Stands in for `train_phase`.

    Attributes:
        phases: The phases that were trained. All weights of the n-th one's model are n.
        of_label: By phase, the probability that it predicts for the right class.
        error: Raised after this phase has begun, once.
    """

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.of_label = {"head": 0.8, "finetune": 0.9}
        self.error: dict[str, Exception] = {}

    def train_phase(self, config, phase, examples, classifier, paths):
        """Has the arguments and the result of `training.phase.train_phase`."""
        from keras_ft.training.phase_result import PhaseResult

        self.phases.append(phase.name)
        if phase.name in self.error:
            raise self.error.pop(phase.name)
        for weight in classifier.weights:
            weight.assign(np.full(weight.shape, len(self.phases)))
        of_label, num_classes = self.of_label[phase.name], len(examples.class_names)
        others = (1 - of_label) / (num_classes - 1)
        by_label = others + (of_label - others) * np.eye(num_classes)
        is_loss = config.selection.monitor == "val_loss"
        return PhaseResult(
            name=phase.name,
            epoch=phase.epochs,
            epochs=phase.epochs,
            seconds=1.0,
            features_seconds=0.25,
            monitored=1 - of_label if is_loss else of_label,
            probabilities={
                name: by_label[examples.split(name).labels].astype("float32")
                for name in ("val", "test")
            },
        )


def make_pixels(size: int, batch: int = 4) -> np.ndarray:
    """Random images float32 [batch, size, size, 3] of whole numbers in [0, 255]."""
    pixels = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3))
    return pixels.astype("float32")


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """Layers made in this block are float64, so that only mistakes make differences."""
    import keras

    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)


def randomise(model):
    """Gives every BatchNorm and every bias values that would show if left out."""
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if variable.name == "gamma":
            # With larger ones the largest EfficientNets magnify any rounding.
            variable.assign(rng.uniform(0.4, 1.0, variable.shape))
        elif variable.name == "moving_variance":
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif variable.name in ("beta", "moving_mean", "bias"):
            variable.assign(rng.uniform(-0.2, 0.2, variable.shape))
    return model


def layers_of(model, layer_type):
    """The layers of a type, those inside containers included."""
    layers = model._flatten_layers(include_self=False)
    return [layer for layer in layers if isinstance(layer, layer_type)]


def infer(model, inputs):
    """The output of a model in inference, as an array."""
    return np.array(model(inputs, training=False))


def assert_close(actual, expected, tolerance):
    """Compares arrays; `tolerance` is a share of the largest expected value."""
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=tolerance * np.abs(expected).max()
    )


def png_header(width, height):
    """A PNG file that promises a size and holds no pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT5\xaf\x06\x1e"


def set_trainable(backbone, unfreeze, batch_norm="fixed"):
    """Makes the stages that `--unfreeze` names trainable."""
    from keras_ft.models import backbones, classifier

    stages = backbones.stages_to_train(backbone.name, unfreeze)
    classifier.set_trainable(backbone, stages, batch_norm)


def split(model, unfreeze, fold=True):
    """Splits a classifier where the stages that `--unfreeze` names begin."""
    from keras_ft.models import backbones, classifier

    name = classifier.get_backbone(model).name
    return classifier.split(model, backbones.stages_to_train(name, unfreeze), fold)


def write_run(config, examples, findings=(), unfinished=None, **changes):
    """Begins a run, as training does, or resumes it; returns the files of its workdir.

    Args:
        changes: Fields of its record.
    """
    from keras_ft.models.backbones import Weights
    from keras_ft.runs import workdir
    from keras_ft.runs.record import RunRecord

    record = RunRecord("running", Weights("none"), {}, "float32", (), {})
    record = dataclasses.replace(unfinished or record, **changes)
    return workdir.begin_or_resume(config, examples, findings, record, unfinished)


def run_metrics(loss, accuracy=None, **others):
    """What a comparison reads of the metrics.json of a run."""
    accuracy = 1 - loss if accuracy is None else accuracy
    split = {"loss": loss, "accuracy": accuracy}
    metrics = {
        "class_names": ["a", "b"],
        "num_examples": {"train": 8, "val": 50},
        "val": split,
        "test": split,
        "seconds": {"total": 4.0},
        "model_bytes": 7,
        "inference_images_per_second": 5.0,
    }
    return metrics | others


def list_images(folder):
    """The examples of an image folder, in order."""
    from keras_ft.data.examples import make_examples

    files = [str(f) for name in COLOURS for f in sorted((folder / name).iterdir())]
    return make_examples(files, labels=[0] * len(files))


@functools.cache
def make_frozen(seed=0):
    """The frozen part of a tiny network, which has features [8, 8, 16]."""
    import keras

    from keras_ft.models import classifier

    keras.utils.set_random_seed(seed)
    backbone = classifier.make_backbone("tiny", 16)
    for layer in backbone.layers:  # random statistics, or BatchNorm would do nothing
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(np.random.uniform(-1, 1, layer.moving_mean.shape))
    set_trainable(backbone, "from:conv2")
    return split(classifier.make_classifier(backbone, 3, 0.0), "from:conv2").frozen


def request_features(examples, weights_seed=0, views=2, dtype="float32", **reader):
    """A request for the features of examples.

    Args:
        reader: Arguments of `ImageReader`.
    """
    from keras_ft.images.pipeline import ImageReader
    from keras_ft.training.features import Request

    options = {"image_size": 16, "batch_size": 8, "augment": "none", "seed": 1}
    return Request(
        name="train",
        frozen=make_frozen(weights_seed),
        reader=ImageReader(examples, **(options | reader)),
        views=views,
        dtype=dtype,
        origin={"backbone": "tiny", "frozen before": "from:conv2", "jit": "auto"},
    )


def load_features(*requests, cache, limit_gb=1.0):
    """Features of the requests, computed or from the cache in a folder."""
    from keras_ft.training import features

    return features.load_features(requests, cache, limit_gb, jit=False)
