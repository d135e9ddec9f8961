"""Image files -> thumbnails in a page, with heatmaps of a classifier's predictions."""

import base64
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import matplotlib
import numpy as np
import tensorflow as tf
from PIL import Image

from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.data.examples import Examples
from keras_ft.evaluation.multilabel_metrics import cross_entropies, decide
from keras_ft.images import decode
from keras_ft.models.heads import select_task
from keras_ft.report.gradcam import compute_heatmaps
from keras_ft.tasks import Task

_SIDE = 160


@dataclasses.dataclass(frozen=True)
class Card:
    """An image and its prediction.

    Attributes:
        path: Name of the image.
        thumbnail: `data:` URI of a small JPEG; empty if the file can't be read.
        heatmap: The same with the Grad-CAM heatmap; empty if there is none to show.
        label: Name of its class, or of all its classes in a multilabel task.
        prediction: The same of the predicted ones.
        probabilities: The probabilities worth showing, in [0, 1], by class: those of
            the label and of the prediction, or in a multilabel task that of the class
            whose answer is the least right.
        explained: The class that the heatmap is about.
    """

    path: str
    thumbnail: str
    heatmap: str
    label: str
    prediction: str
    probabilities: Mapping[str, float]
    explained: str

    @property
    def is_correct(self) -> bool:
        """Whether the prediction is the label."""
        return self.prediction == self.label


def find_errors(
    task: Task, labels: np.ndarray, probabilities: np.ndarray
) -> np.ndarray:
    """Finds the wrong predictions.

    Args:
        task: The task.
        labels: int [N], or [N, K] if it is multilabel.
        probabilities: float [N, K].

    Returns:
        int [M], indices of the examples, highest loss first.
    """
    if task.is_multilabel:
        wrong = np.flatnonzero((decide(task, probabilities) != labels).any(axis=1))
        losses = cross_entropies(labels[wrong], probabilities[wrong]).mean(axis=1)
        return wrong[np.argsort(-losses, kind="stable")]
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    return wrong[np.argsort(probabilities[wrong, labels[wrong]], kind="stable")]


def sort_by_confidence(task: Task, probabilities: np.ndarray) -> np.ndarray:
    """Sorts examples by confidence: the probability of the prediction.

    Args:
        task: The task. If it is multilabel, an example's confidence is that of its
            least confident answer, the distance from the threshold.
        probabilities: float [N, K].

    Returns:
        int [N], indices of the examples, lowest confidence first.
    """
    confidence = probabilities.max(axis=1)
    if task.is_multilabel:
        confidence = np.abs(probabilities - np.array(task.thresholds)).min(axis=1)
    return np.argsort(confidence, kind="stable")


def make_cards(
    model: keras.Model,
    task: Task,
    examples: Examples,
    probabilities: np.ndarray,
    preprocessing: Preprocessing,
) -> list[Card]:
    """Makes the cards of examples, with heatmaps that explain the predictions.

    Args:
        model: Classifier of images float32 [N, S, T, 3] in [0, 255].
        task: One of its tasks.
        examples: N examples that are labelled for it.
        probabilities: float [N, K], the classifier's predictions.
        preprocessing: How images become its input.
    """
    if not len(examples):
        return []
    images = np.zeros((len(examples), *preprocessing.size, 3), np.float32)
    thumbnails: list[Image.Image | None] = []
    seen = np.zeros((len(examples), 2, 2))
    for i, file in enumerate(examples.files):
        pixels = read_pixels(file)  # may be large: one at a time
        thumbnails.append(None if pixels is None else _shrink(pixels))
        if pixels is not None:
            images[i] = decode.resize(pixels, preprocessing)
            seen[i] = decode.find_seen(pixels.shape[:2], preprocessing)
    explained = _choose_class(task, examples.labels, probabilities)
    heatmaps = compute_heatmaps(select_task(model, task), images, explained)
    return [
        Card(
            path=examples.paths[i],
            thumbnail=to_uri(thumbnail) if thumbnail else "",
            heatmap=overlay(thumbnail, heatmaps[i], seen[i]) if thumbnail else "",
            explained=task.class_names[explained[i]],
            **_describe(task, examples.labels[i], probabilities[i], explained[i]),
        )
        for i, thumbnail in enumerate(thumbnails)
    ]


def _choose_class(
    task: Task, labels: np.ndarray, probabilities: np.ndarray
) -> np.ndarray:
    """The class to explain, int [N]: the prediction, or the least right answer."""
    if task.is_multilabel:
        return cross_entropies(labels, probabilities).argmax(axis=1)
    return probabilities.argmax(axis=1)


def _describe(
    task: Task, label: np.ndarray, probabilities: np.ndarray, explained: int
) -> dict[str, Any]:
    """Label and prediction of an example as text, and probabilities."""
    names = task.class_names
    if task.is_multilabel:
        predicted = decide(task, probabilities)
        return {
            "label": _list_names(names, label),
            "prediction": _list_names(names, predicted),
            "probabilities": {names[explained]: float(probabilities[explained])},
        }
    shown = {int(label), int(probabilities.argmax())}
    return {
        "label": names[int(label)],
        "prediction": names[int(probabilities.argmax())],
        "probabilities": {names[i]: float(probabilities[i]) for i in shown},
    }


def _list_names(names: Sequence[str], applies: np.ndarray) -> str:
    return ", ".join(np.array(names, object)[applies > 0]) or "none"


def make_thumbnail(file: str) -> str:
    """Makes a `data:` URI of a small image; empty if the file can't be read."""
    pixels = read_pixels(file)
    return "" if pixels is None else to_uri(_shrink(pixels))


def read_pixels(file: str) -> np.ndarray | None:
    """Reads an image as `decode_image` does: uint8 [H, W, 3], None if it can't be."""
    try:
        # TensorFlow can't report an error about a file whose name is not UTF-8.
        return decode.decode_image(tf.constant(Path(file).read_bytes())).numpy()
    except (OSError, tf.errors.OpError):
        return None


def overlay(image: Image.Image, heatmap: np.ndarray, seen: np.ndarray) -> str:
    """Blends a heatmap with an image, see `blend`.

    Returns:
        `data:` URI; empty if the heatmap is uninformative: a single cell, or all 0.
    """
    if heatmap.size == 1 or not heatmap.any():
        return ""
    return to_uri(blend(image, heatmap, seen))


def blend(image: Image.Image, heatmap: np.ndarray, seen: np.ndarray) -> Image.Image:
    """Blends a heatmap with the part of an image that the network saw.

    The rest of the image is grey.

    Args:
        image: Any size.
        heatmap: float32 [h, w] in [0, 1].
        seen: float [2, 2], the part, see `decode.find_seen`.
    """
    (top, left), (bottom, right) = np.rint(seen * image.size[::-1]).astype(int).tolist()
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    levels = Image.fromarray(np.uint8(255 * heatmap))
    levels = levels.resize((right - left, bottom - top), Image.Resampling.BICUBIC)
    colours = matplotlib.colormaps["inferno"](np.asarray(levels), bytes=True)[..., :3]
    result = image.convert("L").convert("RGB")
    # Where the image was padded, the part goes beyond it.
    part = result.crop((left, top, right, bottom))
    result.paste(Image.blend(part, Image.fromarray(colours), 0.5), (left, top))
    return result


def to_uri(image: Image.Image) -> str:
    """Encodes an image as a `data:` URI of a JPEG."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=80)
    encoded = base64.b64encode(stream.getvalue()).decode("ascii")
    return f"data:image/jpeg;base64,{encoded}"


def _shrink(pixels: np.ndarray) -> Image.Image:
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE))
    return image
