"""Decodes images to find the unreadable ones and to compute perceptual hashes."""

import dataclasses
import io
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import imagehash
import numpy as np
import tensorflow as tf
from PIL import Image

from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.data.examples import Dataset, Strings
from keras_ft.data.facts_cache import load_facts
from keras_ft.data.file_facts import FORMATS, PIXEL_FACTS, Problem, read_header
from keras_ft.host import jpeg_lines
from keras_ft.host.files import read_bytes
from keras_ft.images.damage import find_damaged
from keras_ft.images.decode import composite_on_white, decode_channels, resize

log = logging.getLogger("keras_ft")

# Hashes have 16 x 16 bits, from the cosine transform of 64 x 64 pixels.
HASH_SIZE = 16
_PREPROCESSING = Preprocessing(4 * HASH_SIZE, 4 * HASH_SIZE)
# Larger images are subsampled evenly, to roughly this many rows and columns.
_SAMPLES = 170


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
    _examine.get_concrete_function()
    with jpeg_lines.caught():
        jpeg_lines.take()  # those of other images
        return load_facts(
            files,
            cache_dir,
            _decode_file,
            lambda facts: bool(facts["decoded"] or facts["problem"] > 0),
            "Decoding images",
            _note_damage,
        )


@tf.function(input_signature=[tf.TensorSpec([], tf.string)])
def _examine(image_bytes: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Decodes an image; returns it resized, and statistics of its pixels.

    These are the standard deviation of each channel, float32 [3]; and, float32 [] from
    0 to 1, the mean transparency, and how many pixels are transparent in part.
    """
    channels = decode_channels(image_bytes)
    pixels = composite_on_white(channels)
    # Odd: an even step would always meet the same side of a fine pattern.
    step = tf.shape(pixels)[:2] // (2 * _SAMPLES) * 2 + 1
    sample = tf.cast(pixels[:: step[0], :: step[1]], tf.float32)
    alpha = channels[:: step[0], :: step[1], 3:]
    is_partial = (alpha > 0) & (alpha < 255)
    return (
        resize(pixels, _PREPROCESSING),
        tf.math.reduce_std(sample, axis=(0, 1)),
        _mean(255 - alpha) / 255,
        _mean(is_partial),
    )


def _mean(values: tf.Tensor) -> tf.Tensor:
    """The mean, float32 []; 0 of no values: those of an image without alpha."""
    count = tf.cast(tf.size(values), tf.float32)
    return tf.math.divide_no_nan(tf.reduce_sum(tf.cast(values, tf.float32)), count)


def _decode_file(file: str, facts: np.void) -> None:
    if not facts["header_read"]:
        read_header(file, facts)
    if facts["problem"]:
        return
    try:
        content = read_bytes(file)
        resized, deviation, transparent, translucent = _examine(content)
    except OSError:
        facts["problem"] = Problem.MISSING_FILE
    # No other errors: that the memory is full says nothing about the image.
    except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):
        facts["problem"] = Problem.UNREADABLE
    else:
        pixels = resized.numpy().clip(0, 255)
        facts["hash"], facts["mirrored"] = _compute_hashes(pixels)
        facts["largest"] = _round_up(pixels.max())
        # A fine pattern vanishes if it is resized, a spot hardly changes the deviation.
        contrast = max(np.ptp(pixels, axis=(0, 1)).max(), 4 * deviation.numpy().max())
        facts["contrast"] = _round_up(contrast)
        if FORMATS[facts["format"]] == "gif":
            transparent = _find_transparent_part(content)
        facts["transparent"] = round(100 * float(transparent))
        facts["translucent"] = round(100 * float(translucent))
        facts["decoded"] = True


def _note_damage(files: Sequence[str], facts: Sequence[np.void]) -> None:
    """Fills in what libjpeg has said while it decoded some of the files."""
    if jpeg_lines.take():
        used = [i for i, of_file in enumerate(facts) if of_file["decoded"]]
        for i, line in find_damaged([files[i] for i in used], read_bytes):
            facts[used[i]]["damage"] = line.encode()


def _round_up(level: float) -> int:
    # Resizing is not exact.
    return min(math.ceil(level - 0.01), 255)


def _find_transparent_part(gif: bytes) -> float:
    """Which part of a GIF is transparent; TensorFlow does not say."""
    try:
        with Image.open(io.BytesIO(gif), formats=["gif"]) as image:
            if "transparency" not in image.info:
                return 0.0
            return float(np.mean(np.asarray(image.convert("RGBA"))[..., 3] == 0))
    except Exception:  # a broken file can make Pillow raise any exception
        return 0.0


def _compute_hashes(pixels: np.ndarray) -> Iterator[bytes]:
    """Hashes float32 [64, 64, 3] in [0, 255] and its mirror image, 32 bytes each.

    The signs of low frequencies of the cosine transform (Zauner, "Implementation and
    benchmarking of perceptual image hash functions", 2010), by the package ImageHash.
    """
    grey = Image.fromarray(pixels.astype(np.uint8)).convert("L")
    for image in (grey, grey.transpose(Image.Transpose.FLIP_LEFT_RIGHT)):
        yield np.packbits(imagehash.phash(image, HASH_SIZE).hash).tobytes()
