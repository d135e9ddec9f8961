"""What several tests share: small images, scripts, stand-ins."""

import contextlib
import dataclasses
import re
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
COLOURS = {"blue": (20, 30, 220), "green": (20, 200, 40), "red": (220, 40, 30)}


def write_images(folder: Path, colour: tuple[int, int, int], count: int) -> None:
    """Writes PNG files of one colour with noise, 24 x 20 px."""
    rng = np.random.default_rng(sum(colour))
    folder.mkdir(parents=True)
    for i in range(count):
        pixels = np.clip(rng.normal(colour, 25, (24, 20, 3)), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")


def leave_out_export(setattr: Callable[..., None]) -> None:
    """Leaves out SavedModel and report, which take most of the time of a tiny run."""
    from keras_ft.report import run_page
    from keras_ft.serving import export

    setattr(export, "write_saved_model", lambda *args: None)
    setattr(export, "check_parity", lambda *args: (0.0, 1.0))
    setattr(run_page, "write_report", lambda *args: None)


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


def batch_norms(model):
    """The names of the BatchNorms of a model."""
    import keras

    return {bn.name for bn in layers_of(model, keras.layers.BatchNormalization)}


def bits(model):
    """The weights of a model, to compare them bit for bit."""
    return [w.tobytes() for w in model.get_weights()]


def changed_paths(model, before):
    """The paths of the weights of a model that differ from `before` in any bit."""
    return {
        variable.path
        for variable, old in zip(model.weights, before, strict=True)
        if variable.numpy().tobytes() != old.tobytes()
    }


def infer(model, inputs):
    """The output of a model in inference, as an array."""
    return np.array(model(inputs, training=False))


def assert_close(actual, expected, tolerance):
    """Compares arrays; `tolerance` is a share of the largest expected value."""
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=tolerance * np.abs(expected).max()
    )


def reason_not_used(item, backbone="tiny"):
    """The one line that says why an item of `--weights` was not used."""
    from keras_ft.models import weights

    _, found = weights.load_backbone(backbone, 32, [item, "none"])
    assert found.used == "none"
    [attempt] = found.attempts
    assert attempt["weights"] == item
    assert "\n" not in attempt["error"]
    # Folders and URLs can have any length.
    assert len(re.sub(r"/\S+/", "", attempt["error"])) <= 200
    return attempt["error"]


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
