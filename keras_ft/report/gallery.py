"""Image files -> small pictures inside a page, beside what a classifier saw in them."""

import base64
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import matplotlib
import numpy as np
import tensorflow as tf
from PIL import Image

from keras_ft.data.examples import Examples, Finding
from keras_ft.images.decode import decode_image, resize
from keras_ft.report.gradcam import heatmaps

_SIDE = 160


@dataclasses.dataclass(frozen=True)
class Card:
    """An image that a classifier was asked about.

    Attributes:
        path: Its name.
        picture: `data:` address of a small JPEG; empty if the file can't be read.
        heat: The same under Grad-CAM's heat; empty if that would say nothing.
        label: Its class.
        prediction: The most probable class.
        label_probability: In [0, 1].
        probability: Of the prediction.
    """

    path: str
    picture: str
    heat: str
    label: str
    prediction: str
    label_probability: float
    probability: float

    @property
    def is_right(self) -> bool:
        """Whether the prediction is the label."""
        return self.prediction == self.label


def worst_errors(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The wrong predictions, int [M], that with the least probable label first.

    Args:
        labels: int [N].
        probabilities: float [N, K].
    """
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    return wrong[np.argsort(probabilities[wrong, labels[wrong]], kind="stable")]


def least_certain(probabilities: np.ndarray) -> np.ndarray:
    """All examples, int [N], that with the least probable prediction first."""
    return np.argsort(probabilities.max(axis=1), kind="stable")


def make_cards(
    model: keras.Model,
    split: Examples,
    probabilities: np.ndarray,
    class_names: Sequence[str],
) -> list[Card]:
    """Shows examples, each with where the classifier found its prediction.

    Args:
        model: Classifier of images float32 [N, S, S, 3] in [0, 255].
        split: N examples.
        probabilities: float [N, K], the classifier's answers.
        class_names: K names.
    """
    if not len(split):
        return []
    side = model.input_shape[1]
    images = np.zeros((len(split), side, side, 3), np.float32)
    small = []
    for file, image in zip(split.files, images, strict=True):
        pixels = read_pixels(file)  # may be large: one at a time
        small.append(None if pixels is None else _shrink(pixels))
        if pixels is not None:
            image[:] = resize(pixels, side)
    predictions = probabilities.argmax(axis=1)
    heat = heatmaps(model, images, predictions)
    return [
        Card(
            path=split.paths[i],
            picture="" if small[i] is None else to_uri(small[i]),
            heat="" if small[i] is None else lay_on(small[i], heat[i]),
            label=class_names[split.labels[i]],
            prediction=class_names[predictions[i]],
            label_probability=float(probabilities[i, split.labels[i]]),
            probability=float(probabilities[i, predictions[i]]),
        )
        for i in range(len(split))
    ]


def show_findings(
    findings: Sequence[Finding], files: Mapping[str, str]
) -> list[tuple[Finding, str]]:
    """Findings, each with a picture of its image as of `make_thumbnail`, or empty.

    Args:
        findings: What to show.
        files: From paths of images to files that can be read.
    """
    return [
        (finding, make_thumbnail(files[finding.path]) if finding.path in files else "")
        for finding in findings
    ]


def make_thumbnail(file: str) -> str:
    """A small picture of a file as a `data:` address, empty if it can't be read."""
    pixels = read_pixels(file)
    return "" if pixels is None else to_uri(_shrink(pixels))


def read_pixels(file: str) -> np.ndarray | None:
    """Reads an image as `decode_image` does: uint8 [H, W, 3], None if it can't be."""
    try:
        # By Python: where TensorFlow can't, it fails to say so if the name is no UTF-8.
        return decode_image(tf.constant(Path(file).read_bytes())).numpy()
    except (OSError, tf.errors.OpError):
        return None


def lay_on(image: Image.Image, heat: np.ndarray) -> str:
    """Lays heat on an image.

    Args:
        image: Any size; the network saw all of it, stretched to a square.
        heat: float32 [h, w] in [0, 1].

    Returns:
        `data:` address, empty if the heat says nothing: of one cell, or 0 everywhere.
    """
    if heat.size == 1 or not heat.any():
        return ""
    levels = Image.fromarray(np.uint8(255 * heat)).resize(image.size, Image.BICUBIC)
    colours = matplotlib.colormaps["inferno"](np.asarray(levels), bytes=True)[..., :3]
    grey = image.convert("L").convert("RGB")
    return to_uri(Image.blend(grey, Image.fromarray(colours), 0.5))


def to_uri(image: Image.Image) -> str:
    """An image as a `data:` address of a JPEG."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=80)
    encoded = base64.b64encode(stream.getvalue()).decode("ascii")
    return f"data:image/jpeg;base64,{encoded}"


def _shrink(pixels: np.ndarray) -> Image.Image:
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE))
    return image
