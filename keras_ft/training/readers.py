"""What a phase reads: images, or what its frozen prefix computes of them once."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np

from keras_ft.config.config import Config
from keras_ft.data.examples import Examples
from keras_ft.errors import UserError
from keras_ft.images.pipeline import FeatureReader, ImageReader, Reader
from keras_ft.models.classifier import Parts, get_backbone, set_trainable, split
from keras_ft.training.features import Request, load_features

log = logging.getLogger("keras_ft")


def cut(config: Config, stages: Sequence[str], classifier: keras.Model) -> Parts:
    """Freezes what does not learn, and cuts a classifier where learning begins.

    Args:
        config: `batch_norm` and `fold_batch_norm`.
        stages: Names of the stages to train.
        classifier: Float32 model of `make_classifier`.
    """
    batch_norm = config.model.resolved_batch_norm
    set_trainable(get_backbone(classifier), stages, batch_norm)
    return split(classifier, stages, config.speed.fold_batch_norm != "off")


def make_readers(
    config: Config, stages: Sequence[str], examples: Examples, parts: Parts
) -> dict[str, Reader]:
    """Readers of train, val and test: of kept features if it can be, else images.

    Args:
        config: What is asked for.
        stages: Names of the stages to train.
        examples: The examples.
        parts: The classifier as `cut` left it.

    Raises:
        UserError: Features can't be kept, and `--cache_features=on`.
    """
    images = make_image_readers(config, examples)
    if parts.prefix is None or config.speed.cache_features == "off":
        return images
    try:
        arrays = load_kept(config, stages, images, parts, config.speed.feature_views)
    except OSError as error:
        if config.speed.cache_features == "on":
            raise UserError(
                f"--cache_features=on, but features can't be kept: {error}"
            ) from error
        log.warning("Trains on images, since features can't be kept: %s.", error)
        return images
    return {
        name: FeatureReader(array, config.data.batch_size)
        for name, array in arrays.items()
    }


def make_image_readers(config: Config, examples: Examples) -> dict[str, ImageReader]:
    """Readers of the images of train, val and test."""

    def make(of_split: Examples) -> ImageReader:
        return ImageReader(
            of_split,
            config.data.image_size,
            config.data.batch_size,
            config.data.augment,
            config.run.seed,
        )

    return {
        "train": make(examples.train),
        "val": make(examples.val),
        "test": make(examples.test),
    }


def load_kept(
    config: Config,
    stages: Sequence[str],
    images: Mapping[str, ImageReader],
    parts: Parts,
    views: int,
) -> dict[str, np.ndarray]:
    """Features of images, from the cache or computed and kept; see `load_features`.

    Args:
        config: Where they are kept, and what they depend on.
        stages: Names of the stages to train.
        images: Some of `make_image_readers`, by split.
        parts: The classifier as `cut` left it, with a prefix.
        views: V, how many views of each training image.

    Returns:
        Memory maps by split: [V, N, ...] of train, [1, N, ...] of val and test.

    Raises:
        OSError: They can't be kept.
    """
    arrays = load_features(
        _make_requests(config, stages, images, parts, views),
        Path(config.data.cache_dir).expanduser(),
        config.speed.cache_limit_gb,
        config.speed.jit == "on",
    )
    return dict(zip(images, arrays, strict=True))


def _make_requests(
    config: Config,
    stages: Sequence[str],
    images: Mapping[str, ImageReader],
    parts: Parts,
    views: int,
) -> list[Request]:
    is_map = len(parts.prefix.output_shape) > 2
    origin = {
        "backbone": parts.backbone.name,
        "trained stages": list(stages),
        "fold": config.speed.fold_batch_norm,
        "jit": config.speed.jit,
    }
    return [
        Request(
            name=name,
            prefix=parts.prefix,
            reader=reader,
            views=views if name == "train" else 1,
            # Maps are large, and training bears the rounding; val and test tell
            # what the saved model will do.
            dtype="float16" if is_map and name == "train" else "float32",
            origin=origin,
        )
        for name, reader in images.items()
    ]
