"""What is wrong with a data set: unreadable, duplicate, leaking, conflicting, odd."""

import collections
import dataclasses
import itertools
import logging
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import imagehash
import numpy as np
import tensorflow as tf
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from keras_ft.config.config import Config
from keras_ft.data import scan
from keras_ft.data.dataset import make_splits
from keras_ft.data.examples import SPLIT_NAMES, Dataset, Examples, Finding
from keras_ft.data.scan import FORMATS, MAX_PIXELS, PROBLEMS
from keras_ft.errors import UserError
from keras_ft.images.decode import decode_image, resize

log = logging.getLogger("keras_ft")

# Hashes of 16 x 16 bits. Photographs of different things differ in 60 bits and more,
# the same one scaled, compressed anew or cropped by 3 % in fewer than 48; see
# benchmarks/audit.py.
_HASH_SIZE = 16
_SMALL = 4 * _HASH_SIZE  # what phash takes the transform of
NEAR_BITS = 52
# What each training decodes beforehand, if it was not done before.
CHEAP = 20_000
_LEAST_SIDE = 32
_FEW = 10
_TINY = 8

_FORMAT_OF = {
    ".bmp": "bmp",
    ".gif": "gif",
    ".jfif": "jpeg",
    ".jpe": "jpeg",
    ".jpeg": "jpeg",
    ".jpg": "jpeg",
    ".png": "png",
    ".webp": "webp",
}
_DETAILS = {
    "missing_file": "can't be opened",
    "too_large": f"more than {2 * MAX_PIXELS} pixels",
    "empty_file": "zero bytes",
    "not_an_image": "its content is no JPEG, PNG, BMP, GIF or WebP",
    "unreadable": "can't be decoded: truncated, damaged or of a kind that is not read",
}


def look_closer(
    source: Dataset, cache_dir: Path, at_most: int | None = None
) -> Dataset:
    """Decodes all images and hashes what they show, unless that was done before.

    Args:
        source: N examples.
        cache_dir: Where facts are remembered.
        at_most: Where more images than that were never decoded, nothing is done.

    Returns:
        The source with more facts.
    """
    new = np.sum((source.facts["problem"] == 0) & ~source.facts["decoded"])
    if at_most is not None and new > at_most:
        log.warning(
            "%d images were never decoded: only their heads are checked. --mode=check "
            "checks all, and is remembered.",
            new,
        )
        return source
    facts = decode_all(source.examples.files, cache_dir)
    return Dataset(source.examples, facts, source.findings)


def decode_all(files: Sequence[str], cache_dir: Path) -> np.ndarray:
    """Decodes image files, unless that was done before.

    Args:
        files: N files.
        cache_dir: Where facts are remembered.

    Returns:
        `scan.FACTS` [N].
    """
    return scan.recall(files, cache_dir, _decode_file, _is_decoded, "Images")


def find_all(
    examples: Examples, source: Dataset, at_most: float = math.inf
) -> list[Finding]:
    """All findings about a data set.

    Args:
        examples: N examples in splits.
        source: Where they come from: facts of their files, findings about folders.
        at_most: Of more images similar ones are not looked for: that takes time with
            the square of their number.

    Returns:
        The findings, those about single files first.
    """
    used = np.flatnonzero(np.isin(examples.splits, SPLIT_NAMES))
    examples_used, facts = examples.take(used), source.facts[used]
    twins = scan.find_twins(examples_used.files, facts)
    similar = [] if len(used) > at_most else _find_near(examples_used, facts, twins)
    return [
        *_of_files(examples, source.facts),
        *_of_copies(examples_used, twins),
        *_of_similar(examples_used, similar),
        *_find_group_leaks(examples_used),
        *_of_classes(examples_used),
        *source.findings,
    ]


def split_as_training_would(
    source: Dataset, config: Config
) -> tuple[Examples, UserError | None]:
    """The examples in splits, and what would keep a training from starting."""
    data = dataclasses.replace(config.data, on_bad_image="skip")
    try:
        return make_splits(source, data, config.run.seed), None
    except UserError as error:
        splits = source.examples.splits.copy()
        splits[splits == ""] = "train"
        splits[source.facts["problem"] > 0] = "skipped"
        return source.examples.with_splits(splits), error


def count(findings: Iterable[Finding]) -> dict[str, int]:
    """How many findings there are by name, the most frequent first."""
    return dict(collections.Counter(finding.name for finding in findings).most_common())


def summarize(findings: Sequence[Finding]) -> str:
    """One line per kind of finding: how many, and the first of them."""
    first = {finding.name: finding for finding in reversed(findings)}
    return "\n".join(
        f"  {number:7}  {name:18}{first[name].path}: {first[name].detail}"
        for name, number in count(findings).items()
    )


# --- single files ------------------------------------------------------------


@tf.function(input_signature=[tf.TensorSpec([], tf.string)])
def _read_small(file: tf.Tensor) -> tf.Tensor:
    return resize(decode_image(tf.io.read_file(file)), _SMALL)


def _is_decoded(facts: np.void) -> bool:
    return facts["decoded"] or facts["problem"] > 0


def _decode_file(file: str, facts: np.void) -> None:
    """Fills in what the pixels of a file tell."""
    if not facts["scanned"]:
        scan.scan_file(file, facts)
    if facts["problem"]:
        return
    try:
        small = _read_small(os.fsencode(file)).numpy()
    except (tf.errors.NotFoundError, tf.errors.PermissionDeniedError):
        facts["problem"] = PROBLEMS.index("missing_file")
        return
    # Not all errors: that the memory is full says nothing about the image.
    except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):
        facts["problem"] = PROBLEMS.index("unreadable")
        return
    facts["hash"], facts["mirrored"] = _hash(small)
    facts["decoded"] = True


def _hash(small: np.ndarray) -> Iterator[bytes]:
    """Perceptual hashes of an image and of its mirror image, 32 bytes each.

    The signs of low frequencies of the cosine transform (Zauner, "Implementation and
    benchmarking of perceptual image hash functions", 2010), by the package ImageHash.

    Args:
        small: float32 [64, 64, 3] in [0, 255], the image in the size that is hashed.
    """
    grey = Image.fromarray(np.clip(small, 0, 255).astype(np.uint8)).convert("L")
    for image in (grey, grey.transpose(Image.Transpose.FLIP_LEFT_RIGHT)):
        yield np.packbits(imagehash.phash(image, _HASH_SIZE).hash).tobytes()


def _of_files(examples: Examples, facts: np.ndarray) -> Iterator[Finding]:
    extensions = (os.path.splitext(path)[1].lower() for path in examples.paths)
    named = np.array([_FORMAT_OF.get(extension, "") for extension in extensions])
    kinds = np.array(FORMATS)[facts["format"]]
    misnamed = (named != "") & (kinds != "") & (named != kinds)
    small = np.minimum(facts["width"], facts["height"]) < _TINY
    odd = facts["animated"] | (facts["orientation"] > 1)
    for i in np.flatnonzero((facts["problem"] > 0) | misnamed | small | odd):
        path, of_file = examples.paths[i], facts[i]
        size = f"{of_file['width']} x {of_file['height']} pixels"
        problem = PROBLEMS[of_file["problem"]]
        if problem:
            detail = size if problem == "too_large" and of_file["width"] else None
            yield Finding(path, problem, detail or _DETAILS[problem])
        elif small[i]:
            yield Finding(path, "too_small", size)
        if misnamed[i]:
            yield Finding(path, "wrong_extension", f"its content is {kinds[i].upper()}")
        if of_file["animated"]:
            kind = kinds[i].upper()
            detail = f"{kind}: the first frame is used"
            if problem:
                detail = f"{kind}: TensorFlow does not read animations of this kind"
            yield Finding(path, "animated", detail)
        if of_file["orientation"] > 1:
            detail = f"EXIF orientation {of_file['orientation']}: is turned upright"
            yield Finding(path, "exif_orientation", detail)


# --- duplicates --------------------------------------------------------------


def _of_copies(examples: Examples, twins: np.ndarray) -> Iterator[Finding]:
    members = collections.defaultdict(list)
    for i in np.flatnonzero(np.bincount(twins, minlength=len(twins))[twins] > 1):
        members[twins[i]].append(i)
    for equal in members.values():
        yield from _compare(examples, equal, equal, "", "the same bytes as")


def _of_similar(
    examples: Examples, pairs: Iterable[tuple[int, int, int]]
) -> Iterator[Finding]:
    for i, j, bits in sorted(pairs):
        seen = f"looks like ({bits} of {_HASH_SIZE**2} bits differ)"
        yield from _compare(examples, [i], [j, i], "near_", seen)


def _compare(
    examples: Examples,
    which: Sequence[int],
    alike: Sequence[int],
    prefix: str,
    seen: str,
) -> Iterator[Finding]:
    """Findings about some of the images that are alike.

    Args:
        examples: The examples.
        which: Those to report.
        alike: All that are alike.
        prefix: Of the findings' names.
        seen: Their detail, without the other image.
    """
    in_split = {examples.splits[i]: i for i in reversed(alike)}
    of_class = {examples.labels[i]: i for i in reversed(alike)}
    for i in which:
        path, split, label = examples.paths[i], examples.splits[i], examples.labels[i]
        earlier = SPLIT_NAMES[: SPLIT_NAMES.index(split)]
        leaks = [in_split[name] for name in earlier if name in in_split]
        if leaks:
            detail = f"{seen} {examples.paths[leaks[0]]} in {examples.splits[leaks[0]]}"
            yield Finding(path, f"{prefix}leak", detail)
        elif in_split[split] != i:
            detail = f"{seen} {examples.paths[in_split[split]]}"
            yield Finding(path, f"{prefix}duplicate", detail)
        others = [j for other, j in of_class.items() if other != label]
        if others:
            other = examples.class_names[examples.labels[others[0]]]
            detail = f"{seen} {examples.paths[others[0]]} of class {other}"
            yield Finding(path, f"{prefix}conflict", detail)


def _find_near(
    examples: Examples, facts: np.ndarray, twins: np.ndarray
) -> set[tuple[int, int, int]]:
    """Images and the most similar one before them in their split or in an earlier one.

    Returns:
        Numbers of the two, and how many bits of their hashes differ.
    """
    # Of equal files one per split, or they would be each other's nearest.
    once = np.zeros(len(twins), bool)
    for name in SPLIT_NAMES:
        in_split = np.flatnonzero(examples.splits == name)
        once[in_split[np.unique(twins[in_split], return_index=True)[1]]] = True
    once &= facts["decoded"]
    # Pictures of a few pixels look alike to the hash, whatever they show.
    once &= np.minimum(facts["width"], facts["height"]) >= _LEAST_SIDE
    of_split = [np.flatnonzero(once & (examples.splits == s)) for s in SPLIT_NAMES]
    pairs = {}
    for later, queries in enumerate(of_split):
        for others in of_split[: later + 1]:
            found = itertools.chain(
                _nearest(facts, queries, others, "hash"),
                _nearest(facts, queries, others, "mirrored"),
            )
            for i, j, bits in found:
                if bits <= NEAR_BITS and twins[i] != twins[j]:
                    # In one split each may be the other's most similar one.
                    pair = (max(i, j), min(i, j)) if others is queries else (i, j)
                    pairs[pair] = min(bits, pairs.get(pair, bits))
    return {(i, j, bits) for (i, j), bits in pairs.items()}


def _nearest(
    facts: np.ndarray, queries: np.ndarray, others: np.ndarray, column: str
) -> Iterator[tuple[int, int, int]]:
    """For each query the most similar other image, and the number of different bits."""
    if not len(queries) or not len(others):
        return
    # Of bits, the squared distance is the number of different ones.
    search = NearestNeighbors(
        n_neighbors=min(2, len(others)), algorithm="brute", metric="sqeuclidean"
    ).fit(_bits(facts["hash"][others]))
    distances, found = search.kneighbors(_bits(facts[column][queries]))
    for i, row, neighbours in zip(queries, distances, others[found], strict=True):
        for bits, j in zip(row, neighbours, strict=True):
            if j != i:
                yield int(i), int(j), int(round(bits))
                break


def _bits(hashes: np.ndarray) -> np.ndarray:
    """float32 [N, 256] of V32 [N]."""
    as_bytes = np.frombuffer(hashes.tobytes(), np.uint8).reshape(len(hashes), -1)
    return np.unpackbits(as_bytes, axis=1).astype(np.float32)


# --- groups and classes ------------------------------------------------------


def _find_group_leaks(examples: Examples) -> Iterator[Finding]:
    grouped = np.flatnonzero(examples.groups != "")
    seen = collections.defaultdict(dict)
    for i in grouped:
        seen[examples.groups[i]].setdefault(examples.splits[i], i)
    for group, first in seen.items():
        if len(first) > 1:
            names = [name for name in SPLIT_NAMES if name in first]
            detail = f"group {group} is in {' and '.join(names)}"
            yield Finding(examples.paths[first[names[-1]]], "group_leak", detail)


def _of_classes(examples: Examples) -> Iterator[Finding]:
    for label, name in enumerate(examples.class_names):
        counts = collections.Counter(examples.splits[examples.labels == label])
        for split in SPLIT_NAMES:
            if not counts[split]:
                yield Finding(name, "missing_class", f"no image in {split}")
        if 0 < counts["train"] < _FEW:
            detail = f"{counts['train']} images in train, fewer than {_FEW}"
            yield Finding(name, "few_images", detail)
