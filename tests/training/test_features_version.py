"""Features equal stored ones, or `FEATURES_VERSION` must be raised.

Cached features of an earlier version of the program are used as long as the version is
the same. After a change that alters them on purpose, raise the version and run

    python tests/training/test_features_version.py
"""

import io
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import make_examples, make_task
from PIL import Image

from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.images.pipeline import ImageReader, make_inputs
from keras_ft.models import classifier
from keras_ft.training.features import FEATURES_VERSION

GOLDEN = Path(__file__).with_name("golden_features.npz")
CASES = {"plain": ("none", 0), "light": ("light", 2), "strong": ("strong", 1)}
STAGES = {"pooled": (), "map": ("conv3",)}


def make_frozen(stages):
    """The frozen part of a tiny network whose weights are the same everywhere."""
    backbone = classifier.make_backbone("tiny", (16, 16))
    rng = np.random.default_rng(0)
    for weight in backbone.weights:
        low = 0.5 if "variance" in weight.path else -0.5
        weight.assign(rng.uniform(low, 1.0, weight.shape))
    classifier.set_trainable(backbone, stages, "fixed")
    tasks = [make_task(3)]
    model = classifier.make_classifier(backbone, tasks, dropout=0.0)
    return classifier.split(model, tasks, stages, fold=True).frozen


def compute(files, stages, augment, view):
    reader = ImageReader(
        make_examples(files), Preprocessing(16, 16), 2, augment, mirror=True, seed=3
    )
    return make_frozen(stages).predict(
        make_inputs(reader, range(len(files)), view), verbose=0
    )


def write_images(folder, images):
    """Writes the stored files; returns their names."""
    files = [str(folder / str(i)) for i in range(len(images))]
    for file, content in zip(files, images, strict=True):
        Path(file).write_bytes(content.tobytes())
    return files


@pytest.mark.parametrize("stages", STAGES)
@pytest.mark.parametrize("case", CASES)
def test_features_of_this_version_stay_as_they_are(case, stages, tmp_path):
    with np.load(GOLDEN) as stored:
        golden = dict(stored)
    assert golden["version"] == FEATURES_VERSION, "see this file's docstring"
    files = write_images(tmp_path, [golden[f"image_{i}"] for i in range(3)])
    features = compute(files, STAGES[stages], *CASES[case])
    np.testing.assert_allclose(features, golden[f"{case}_{stages}"], atol=1e-3)


def encode(pixels, kind, **options):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return np.frombuffer(stream.getvalue(), np.uint8)


def make_images():
    """A JPEG to turn upright, a PNG with alpha, and a grey one that is larger."""
    rng = np.random.default_rng(1)
    exif = Image.Exif()
    exif[0x0112] = 6
    coarse = rng.integers(0, 255, (5, 4, 4), np.uint8).repeat(9, 0).repeat(9, 1)
    return [
        encode(coarse[..., :3], "jpeg", exif=exif),
        encode(coarse, "png"),
        encode(coarse[..., 0].repeat(3, 0), "png"),
    ]


if __name__ == "__main__":
    import tempfile

    keras.utils.set_random_seed(0)
    arrays = {f"image_{i}": image for i, image in enumerate(make_images())}
    with tempfile.TemporaryDirectory() as folder:
        names = write_images(Path(folder), list(arrays.values()))
        for name, (augment, view) in CASES.items():
            for kind, stages in STAGES.items():
                arrays[f"{name}_{kind}"] = compute(names, stages, augment, view)
    np.savez_compressed(GOLDEN, version=FEATURES_VERSION, **arrays)
