"""Image files -> thumbnails in a page, with heatmaps of a classifier's predictions."""

import base64
import dataclasses
import io
from collections.abc import Mapping

import keras
import matplotlib
import numpy as np
import tensorflow as tf
from PIL import Image

from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.data.examples import Examples
from keras_ft.host.files import read_bytes
from keras_ft.images import decode
from keras_ft.kinds.task import Task, agree
from keras_ft.models.heads import select_task
from keras_ft.report.gradcam import compute_heatmaps

_SIDE = 160


@dataclasses.dataclass(frozen=True)
class Card:
    """An image and its prediction.

    Attributes:
        path: As in splits.csv.
        thumbnail: `data:` URI of a small JPEG; empty if the file can't be read.
        heatmap: The same with the Grad-CAM heatmap; empty if there is none to show.
        label: Names of its classes.
        prediction: Names of the predicted ones.
        probabilities: The probabilities worth showing, in [0, 1], by class.
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
    """Indices of wrong predictions, int [M], the highest loss first.

    `labels` are those of N labelled examples, `probabilities` float [N, K].
    """
    wrong = np.flatnonzero(~agree(task.kind.decide(task, probabilities), labels))
    losses = task.kind.compute_losses(labels[wrong], probabilities[wrong])
    of_example = losses.mean(axis=tuple(range(1, losses.ndim)))
    return wrong[np.argsort(-of_example, kind="stable")]


def make_cards(
    model: keras.Model | None,
    task: Task,
    examples: Examples,
    probabilities: np.ndarray,
    preprocessing: Preprocessing | None,
) -> list[Card]:
    """Makes the cards of examples, with heatmaps that explain the predictions.

    Args:
        model: Classifier of images float32 [N, S, T, 3] in [0, 255]. Without it, or its
            preprocessing, there are no heatmaps.
        task: One of its tasks.
        examples: N examples that are labelled for it.
        probabilities: float [N, K], the classifier's predictions.
        preprocessing: How images become its input.
    """
    if not len(examples):
        return []
    size = preprocessing.size if preprocessing else (1, 1)
    images = np.zeros((len(examples), *size, 3), np.float32)
    thumbnails: list[Image.Image | None] = []
    seen = np.zeros((len(examples), 2, 2))
    for i, file in enumerate(examples.files):
        pixels = _read_pixels(file)  # may be large: one at a time
        thumbnails.append(None if pixels is None else shrink(pixels))
        if pixels is not None and preprocessing:
            images[i] = decode.resize(pixels, preprocessing)
            seen[i] = decode.find_seen(pixels.shape[:2], preprocessing)
    shown = [
        task.kind.explain(label, of_image)
        for label, of_image in zip(examples.labels, probabilities, strict=True)
    ]
    explained = np.array([classes[0] for classes in shown])
    heatmaps = np.zeros((len(examples), 1, 1), np.float32)  # nothing to show
    if model and preprocessing:
        heatmaps = compute_heatmaps(select_task(model, task), images, explained)
    return [
        Card(
            path=examples.paths[i],
            thumbnail=to_uri(thumbnail) if thumbnail else "",
            heatmap=overlay(thumbnail, heatmaps[i], seen[i]) if thumbnail else "",
            label=_list_names(task, examples.labels[i]),
            prediction=_list_names(task, task.kind.decide(task, probabilities[i])),
            probabilities={
                task.class_names[k]: float(probabilities[i, k])
                for k in sorted(shown[i])
            },
            explained=task.class_names[explained[i]],
        )
        for i, thumbnail in enumerate(thumbnails)
    ]


def _list_names(task: Task, label: np.ndarray) -> str:
    return ", ".join(task.names_of(label)) or "none"


def make_thumbnail(file: str) -> str:
    """Makes a `data:` URI of a small image; empty if the file can't be read."""
    pixels = _read_pixels(file)
    return "" if pixels is None else to_uri(shrink(pixels))


def _read_pixels(file: str) -> np.ndarray | None:
    """Reads an image as `decode_image` does: uint8 [H, W, 3], None if it can't be."""
    try:
        # TensorFlow can't report an error about a file whose name is not UTF-8.
        return decode.decode_image(tf.constant(read_bytes(file))).numpy()
    except (OSError, tf.errors.OpError):
        return None


def overlay(image: Image.Image, heatmap: np.ndarray, seen: np.ndarray) -> str:
    """A blended image as `data:` URI; empty if the heatmap is one cell, or all 0."""
    if heatmap.size == 1 or not heatmap.any():
        return ""
    return to_uri(blend(image, heatmap, seen))


def blend(image: Image.Image, heatmap: np.ndarray, seen: np.ndarray) -> Image.Image:
    """Blends a heatmap with what the network saw of an image; the rest is grey.

    The heatmap is float32 [h, w] in [0, 1]; `seen` is as from `decode.find_seen`.
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


def shrink(pixels: np.ndarray) -> Image.Image:
    """Makes a small image of pixels uint8 [H, W, 3]."""
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE))
    return image
