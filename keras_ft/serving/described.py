"""A trained classifier and image files -> predictions with features and heatmaps."""

import functools
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from keras_ft.errors import UserError
from keras_ft.images import decode
from keras_ft.models.heads import select_task
from keras_ft.report.gallery import blend
from keras_ft.report.gradcam import make_explainer
from keras_ft.serving.batches import process_batches
from keras_ft.serving.encoded import NO_IMAGE
from keras_ft.serving.signatures import get_probabilities
from keras_ft.serving.trained_classifier import Classifier, answer_files

_SIDE = 512  # longer side of a heatmap's image

Probabilities = Mapping[str, np.ndarray]
# From an image file that TensorFlow decodes, and its probabilities, to the image with a
# heatmap of the most probable class, by task.
Explain = Callable[[bytes, Probabilities], dict[str, Image.Image]]


class Described(NamedTuple):
    """A prediction, and more about the image if that is asked for."""

    probabilities: Probabilities | None  # float32 [K] by task; None if it can't be read
    error: str  # why it can't; else empty
    features: np.ndarray | None = None  # float32 [D]
    # By task, the image with a heatmap of the most probable class.
    heatmaps: Mapping[str, Image.Image] = {}


def describe(
    classifier: Classifier,
    files: Iterable[str],
    batch_size: int,
    features: bool,
    heatmaps: bool,
) -> Generator[Described, None, None]:
    """Classifies image files, see `classify`, and describes them.

    For heatmaps, the classifier must have its network.

    Raises:
        UserError: The classifier can't compute features.
    """
    if features and classifier.describe is None:
        raise UserError(
            "--features needs a workdir, a model.keras, or a SavedModel with a "
            "signature features, as --mode=export writes it, as --model."
        )
    explain = make_explain(classifier) if heatmaps else None
    process = functools.partial(_describe_batch, classifier, features, explain)
    return process_batches(process, files, batch_size)


def _describe_batch(
    classifier: Classifier,
    features: bool,
    explain: Explain | None,
    files: Sequence[str],
) -> list[Described]:
    serve = (features and classifier.describe) or classifier.serve
    described = []
    for image, answer in answer_files(serve, files):
        if answer is None:
            described.append(Described(None, image.error or NO_IMAGE))
            continue
        probabilities = get_probabilities(answer, classifier.tasks)
        heatmaps = explain(image.content, probabilities) if explain else {}
        described.append(Described(probabilities, "", answer.get("features"), heatmaps))
    return described


def make_explain(classifier: Classifier) -> Explain:
    """Makes the function that makes heatmaps, of a classifier with its `network`.

    This thread must have loaded it: Keras counts the names of networks by thread.
    """
    network: Any = classifier.network
    preprocessing: Any = classifier.preprocessing
    explainers = {
        task.name: tf.function(
            make_explainer(select_task(network, task)), autograph=False
        )
        for task in classifier.tasks
    }

    def explain(content: bytes, probabilities: Probabilities) -> dict[str, Image.Image]:
        pixels = decode.decode_image(tf.constant(content)).numpy()
        image = Image.fromarray(pixels)
        image.thumbnail((_SIDE, _SIDE))
        resized = decode.resize(pixels, preprocessing)[None]
        seen = decode.find_seen(pixels.shape[:2], preprocessing)
        heatmaps = {}
        for name, compute in explainers.items():
            predicted = tf.constant([probabilities[name].argmax()], tf.int64)
            [heatmap] = compute(resized, predicted).numpy()
            heatmaps[name] = blend(image, heatmap, seen)
        return heatmaps

    return explain
