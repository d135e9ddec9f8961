"""Training images as the network saw them -> the values of a part of the page."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_ft.catalog.backbones import find_backbone
from keras_ft.config.recipe import Recipe
from keras_ft.data.examples import Examples
from keras_ft.images.pipeline import ImageReader
from keras_ft.report.gallery import shrink, to_uri
from keras_ft.runs.run import Run
from keras_ft.runs.run_metrics import RunMetrics

# Maximum number of images, and of augmented views of each.
_IMAGES, _VIEWS = 4, 4


@dataclasses.dataclass(frozen=True)
class Views:
    """Training images, and augmented views of them that a phase was trained on.

    Attributes:
        seen: When the views were seen, in words.
        rows: The `data:` URIs of each image, as it is and then augmented.
    """

    seen: str
    rows: Sequence[Sequence[str]]


def show_views(run: Run, train: Examples, metrics: RunMetrics) -> Views | None:
    """Repeats augmented views of some images; None if no phase saw any."""
    numbers, seen = _find_views(run, metrics)
    if not numbers or run.recipe.data.augment == "none":
        return None
    which = np.unique(np.linspace(0, len(train) - 1, _IMAGES).astype(np.int64))
    try:
        batches = _read(run.recipe, train, which, [0, *numbers])
    except (OSError, tf.errors.OpError):  # an image is gone
        return None
    rows = np.stack(batches, axis=1)
    return Views(seen, [[_encode(pixels) for pixels in row] for row in rows])


def _find_views(run: Run, metrics: RunMetrics) -> tuple[range, str]:
    """Numbers of views for `ImageReader`, and when they were seen."""
    for phase in run.phases:
        if phase.name not in metrics["phases"]:
            continue
        # Without a frozen part, each epoch has a view of its own.
        first = find_backbone(run.recipe.model.backbone).stage_names[:1]
        if phase.stages and phase.stages[:1] == first:
            count = min(metrics["phases"][phase.name]["epochs"], _VIEWS)
            return range(1, count + 1), f"in the first epochs of phase {phase.name}"
    # View 0 is the plain image.
    count = min(run.recipe.speed.feature_views, _VIEWS + 1)
    return range(1, count), "in the cached variations (--feature_views)"


def _read(
    recipe: Recipe, train: Examples, which: np.ndarray, views: Sequence[int]
) -> list[np.ndarray]:
    """One batch float32 [N, S, T, 3] for each view; `which` are N of the examples."""
    data = recipe.data
    # Of all examples: a view depends on the place of its example among them.
    reader = ImageReader(
        train,
        data.preprocessing,
        len(which),
        data.augment,
        data.mirror,
        recipe.run.seed,
    )
    examples = tf.data.Dataset.from_tensor_slices(which)
    dataset = tf.data.Dataset.from_tensor_slices(views)
    dataset = dataset.flat_map(lambda view: reader.read(examples, view))
    return list(dataset.as_numpy_iterator())


def _encode(pixels: np.ndarray) -> str:
    return to_uri(shrink(np.rint(pixels).astype(np.uint8)))
