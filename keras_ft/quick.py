"""Ranks pretrained networks on a user's images before anything is trained."""

import logging
import math
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_ft import runtime
from keras_ft.config import Config, UserError
from keras_ft.data import Splits
from keras_ft.failures import explain
from keras_ft.model import make_classifier
from keras_ft.readers import cut, load_kept, make_image_readers
from keras_ft.transferability import log_me, nearest_neighbour_accuracy
from keras_ft.weights import load_backbone

log = logging.getLogger("keras_ft")


def rank(candidates: Sequence[Config], splits: Splits) -> list[dict[str, Any]]:
    """Scores each distinct network among candidates.

    Args:
        candidates: Configs. Those with the same backbone, weights and image size are
            scored once, by the first of them.
        splits: The examples, the same for all.

    Returns:
        One row per network as of `score`, best LogME first. One that can't be used has
        `error` instead of scores, and comes last.
    """
    networks = {}
    for config in candidates:
        networks.setdefault(tuple(describe(config).values()), config)
    rows = []
    for config in networks.values():
        try:
            rows.append(score(config, splits))
        except UserError as error:
            log.warning("Left out: %s", error)
            rows.append(describe(config) | {"error": str(error)})
        keras.backend.clear_session()  # else the memory of all networks adds up
    return sorted(rows, key=lambda row: -row.get("log_me", -math.inf))


def score(config: Config, splits: Splits) -> dict[str, Any]:
    """Says how well a frozen network tells the classes of train apart.

    Its features of the plain images are kept where phase head looks for them, so what
    is trained afterwards does not compute them again.

    Args:
        config: The network, its weights and image size, and how to compute.
        splits: The examples.

    Returns:
        backbone, weights (as asked), image_size, weights_used, num_examples, log_me,
        nearest_neighbour_accuracy (see `transferability`) and seconds.

    Raises:
        UserError: The weights or images can't be used, or features can't be kept.
    """
    start = time.perf_counter()
    try:
        features, used = _compute_features(config, splits)
    except (tf.errors.OpError, OSError, MemoryError) as error:
        raise explain(error, config, splits) from error
    if not np.isfinite(features).all():
        raise UserError(
            f"Features must be finite. Received: {config.model.backbone} with "
            f"--weights={used}, which gives infinity or NaN; give other weights"
        )
    labels = splits.train.labels
    return {
        **describe(config),
        "weights_used": used,
        "num_examples": len(labels),
        "log_me": log_me(features, labels, len(splits.class_names)),
        "nearest_neighbour_accuracy": nearest_neighbour_accuracy(features, labels),
        "seconds": time.perf_counter() - start,
    }


def describe(config: Config) -> dict[str, Any]:
    """What tells one network from another: backbone, weights and image_size."""
    return {
        "backbone": config.model.backbone,
        "weights": ",".join(config.model.weights),
        "image_size": config.data.image_size,
    }


def _compute_features(config: Config, splits: Splits) -> tuple[np.ndarray, str]:
    """Pooled features of train, float32 [N, D], and the weights that were used."""
    strategy = runtime.make_strategy(config.speed.strategy, config.data.batch_size)
    precision = runtime.choose_precision(config.speed.precision)
    with strategy.scope():
        # As in training, for the network and precision are part of the cache's key.
        runtime.set_seed(config.run.seed, config.run.deterministic)
        backbone, weights = load_backbone(
            config.model.backbone, config.data.image_size, config.model.weights
        )
        classifier = make_classifier(
            backbone, len(splits.class_names), config.model.dropout
        )
        with runtime.precision(precision):
            return _load_features(config, splits, classifier), weights.used


def _load_features(
    config: Config, splits: Splits, classifier: keras.Model
) -> np.ndarray:
    train = make_image_readers(config, splits)["train"]
    parts = cut(config, "none", classifier)
    try:
        kept = load_kept(config, "none", {"train": train}, parts, views=1)
    except OSError as error:
        if error.filename in set(splits.train.files):
            raise  # an image and not the cache
        raise UserError(
            "A network is scored on features that are kept in --cache_dir, which "
            f"needs room. Received: {error}"
        ) from error
    [features] = kept["train"]
    return features
