"""Decodes images to find the unreadable ones and to compute perceptual hashes."""

import dataclasses
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import imagehash
import numpy as np
import tensorflow as tf
from PIL import Image

from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.data.examples import Dataset, Strings
from keras_ft.data.facts_cache import load_facts
from keras_ft.data.file_facts import PIXEL_FACTS, Problem, read_header
from keras_ft.images.decode import decode_image, resize

log = logging.getLogger("keras_ft")

# Hashes have 16 x 16 bits, from the cosine transform of 64 x 64 pixels.
HASH_SIZE = 16
_PREPROCESSING = Preprocessing(4 * HASH_SIZE, 4 * HASH_SIZE)


def decode_images(
    dataset: Dataset, cache_dir: Path, max_images: int | None = None
) -> Dataset:
    """Adds facts that only pixels contain, unless over `max_images` are not cached."""
    is_new = (dataset.facts["problem"] == 0) & ~dataset.facts["decoded"]
    num_new = np.sum(is_new)
    if not num_new:
        return dataset
    if max_images is not None and num_new > max_images:
        log.warning(
            "%d images were never decoded: only their headers are checked. "
            "--mode=check decodes all of them once and caches the results.",
            num_new,
        )
        return dataset
    facts = dataset.facts.copy()
    decoded = load_decoded_facts(dataset.examples.files, cache_dir)
    for name in PIXEL_FACTS:  # the header of a converted file is not the user's
        facts[name] = decoded[name]
    return dataclasses.replace(dataset, facts=facts)


def load_decoded_facts(files: Strings, cache_dir: Path) -> np.ndarray:
    """Loads the facts that only pixels contain, see `load_facts`: `FACTS` [N]."""
    # Otherwise several threads begin with it, which TensorFlow warns of.
    _read_resized.get_concrete_function()
    return load_facts(
        files,
        cache_dir,
        _decode_file,
        lambda facts: bool(facts["decoded"] or facts["problem"] > 0),
        "Decoding images",
    )


@tf.function(input_signature=[tf.TensorSpec([], tf.string)])
def _read_resized(file: tf.Tensor) -> tf.Tensor:
    return resize(decode_image(tf.io.read_file(file)), _PREPROCESSING)


def _decode_file(file: str, facts: np.void) -> None:
    if not facts["header_read"]:
        read_header(file, facts)
    if facts["problem"]:
        return
    try:
        pixels = _read_resized(os.fsencode(file)).numpy()
    except (tf.errors.NotFoundError, tf.errors.PermissionDeniedError):
        facts["problem"] = Problem.MISSING_FILE
    # No other errors: that the memory is full says nothing about the image.
    except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):
        facts["problem"] = Problem.UNREADABLE
    else:
        facts["hash"], facts["mirrored"] = _compute_hashes(pixels)
        facts["decoded"] = True


def _compute_hashes(pixels: np.ndarray) -> Iterator[bytes]:
    """Hashes float32 [64, 64, 3] in [0, 255] and its mirror image, 32 bytes each.

    The signs of low frequencies of the cosine transform (Zauner, "Implementation and
    benchmarking of perceptual image hash functions", 2010), by the package ImageHash.
    """
    grey = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).convert("L")
    for image in (grey, grey.transpose(Image.Transpose.FLIP_LEFT_RIGHT)):
        yield np.packbits(imagehash.phash(image, HASH_SIZE).hash).tobytes()
