"""The answer for one image as the page shows it: probabilities and Grad-CAM."""

from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from keras_ft.extras.server.loaded import Loaded
from keras_ft.images.decode import decode_image
from keras_ft.kinds.task import Task
from keras_ft.report.gallery import to_uri

_SIDE = 512
_TOP = 5


def explain(
    loaded: Loaded, content: bytes, answer: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Explains the answer for an image: probabilities float32 [K] by task.

    Returns:
        JSON: the image, and for each task the classes of the highest probabilities,
        and the heatmap of the first one; images are `data:` URIs, empty if the model
        can't make heatmaps.
    """
    pixels = decode_image(tf.constant(content))
    step = max(1, max(pixels.shape) // (4 * _SIDE))
    image = Image.fromarray(pixels[::step, ::step].numpy())
    image.thumbnail((_SIDE, _SIDE))
    heatmaps = loaded.explain(content, answer) if loaded.explain else {}
    tasks = [
        {
            "name": task.name,
            "classes": _list_classes(task, answer[task.name]),
            "heatmap": to_uri(heatmaps[task.name]) if heatmaps else "",
        }
        for task in loaded.classifier.tasks
    ]
    return {"image": to_uri(image), "tasks": tasks}


def _list_classes(task: Task, probabilities: np.ndarray) -> list[dict[str, Any]]:
    order = np.argsort(-probabilities, kind="stable")[:_TOP].tolist()
    named = task.names_of(task.kind.decide(task, probabilities))
    return [
        {
            "class_name": task.class_names[i],
            "probability": float(probabilities[i]),
            "applies": task.class_names[i] in named,
        }
        for i in order
    ]
