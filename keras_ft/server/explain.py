"""The answer for one image as the page shows it: probabilities and Grad-CAM."""

from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from keras_ft.evaluation.multilabel import decide
from keras_ft.images import decode
from keras_ft.models.heads import select_task
from keras_ft.report.gallery import overlay, to_uri
from keras_ft.report.gradcam import compute_heatmaps
from keras_ft.serving.classifier import Classifier
from keras_ft.tasks import Task

_SIDE = 480
_TOP = 5


def explain(
    classifier: Classifier, content: bytes, answer: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Explains the answer for an image.

    Args:
        classifier: The classifier.
        content: The image, as TensorFlow decodes it.
        answer: Its probabilities float32 [K] by task.

    Returns:
        JSON: the image, and for each task the classes of the highest probabilities,
        and the heatmap of the first one; images are `data:` URIs, empty if there is no
        heatmap.
    """
    pixels = decode.decode_image(tf.constant(content)).numpy()
    thumbnail = Image.fromarray(pixels)
    thumbnail.thumbnail((_SIDE, _SIDE))
    return {
        "image": to_uri(thumbnail),
        "tasks": [
            _explain_task(classifier, task, pixels, thumbnail, answer[task.name])
            for task in classifier.tasks
        ],
    }


def _explain_task(
    classifier: Classifier,
    task: Task,
    pixels: np.ndarray,
    thumbnail: Image.Image,
    probabilities: np.ndarray,
) -> dict[str, Any]:
    order = np.argsort(-probabilities, kind="stable")[:_TOP].tolist()
    applies = decide(task, probabilities) > 0
    classes = [
        {
            "class_name": task.class_names[i],
            "probability": float(probabilities[i]),
            "applies": bool(applies[i]) if task.is_multilabel else i == order[0],
        }
        for i in order
    ]
    heatmap = _make_heatmap(classifier, task, pixels, thumbnail, order[0])
    return {"name": task.name, "classes": classes, "heatmap": heatmap}


def _make_heatmap(
    classifier: Classifier,
    task: Task,
    pixels: np.ndarray,
    thumbnail: Image.Image,
    explained: int,
) -> str:
    if classifier.network is None:
        return ""
    size = classifier.network.input_shape[1:3]
    images = decode.resize(pixels, size, classifier.resize)[None].numpy()
    network = select_task(classifier.network, task)
    [heatmap] = compute_heatmaps(network, images, np.array([explained]))
    seen = decode.find_seen(pixels.shape[:2], size, classifier.resize)
    return overlay(thumbnail, heatmap, seen)
