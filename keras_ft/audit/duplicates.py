"""Findings about images that are alike: duplicates, leaks and conflicting labels."""

import collections
import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from sklearn.neighbors import NearestNeighbors

from keras_ft.audit.decoding import HASH_SIZE
from keras_ft.data.examples import SPLIT_NAMES, Examples, Finding
from keras_ft.data.file_facts import MIN_CONTRAST

# Hashes of photographs of different things differ in 60 of 256 bits and more; hashes of
# one photograph, resized, compressed again or cropped by 3 %, differ in fewer than 48.
# See benchmarks/audit.py.
_MAX_BITS = 52
# Of how many others an image is kept in one split with, directly.
_MAX_LINKS = 8
# Images with a shorter side have similar hashes, whatever they show.
_MIN_SIDE = 32


def report_duplicates(examples: Examples, duplicates: np.ndarray) -> Iterator[Finding]:
    """Reports files with the same bytes, see `find_exact_duplicates`."""
    members = collections.defaultdict(list)
    for i, first in enumerate(duplicates.tolist()):
        members[first].append(i)
    for same in members.values():
        if len(same) > 1:
            yield from _compare(examples, same, same, "", "the same bytes as")


def report_near_duplicates(
    examples: Examples, pairs: Iterable[tuple[int, int, int]]
) -> Iterator[Finding]:
    """Reports images that look alike, see `find_near_pairs`."""
    for i, j, bits in sorted(pairs):
        relation = f"looks like ({bits} of {HASH_SIZE**2} bits differ)"
        yield from _compare(examples, [i], [j, i], "near_", relation)


def find_near_pairs(
    examples: Examples, facts: np.ndarray, duplicates: np.ndarray
) -> set[tuple[int, int, int]]:
    """Finds near duplicates by their perceptual hashes.

    Compares each image with the most similar one in its split, and with the most
    similar one in each earlier split. `duplicates`, int64 [N], are equal for files with
    the same bytes, which are no near duplicates.

    Returns:
        Triples: index of the image, index of the similar one, number of bits in which
        their hashes differ.
    """
    by_split = _select_comparable(examples, facts, duplicates)
    pairs: dict[tuple[int, int], int] = {}
    for number, queries in enumerate(by_split):
        for others in by_split[: number + 1]:
            for column in ("hash", "mirrored"):
                for i, j, bits in _find_nearest(facts, queries, others, column):
                    if bits <= _MAX_BITS and duplicates[i] != duplicates[j]:
                        # In one split, each may be the most similar one of the other.
                        pair = (max(i, j), min(i, j)) if others is queries else (i, j)
                        pairs[pair] = min(bits, pairs.get(pair, bits))
    return {(*pair, bits) for pair, bits in pairs.items()}


def find_near_links(facts: np.ndarray) -> list[tuple[int, int]]:
    """Finds near duplicates among N images, in whatever splits, by `FACTS` [N].

    Returns:
        Pairs of indices, the most similar first. Of many that look alike, each is in
        pairs with the most similar ones.
    """
    images = np.flatnonzero(_are_comparable(facts))
    images = images[np.argsort(facts["hash"][images], kind="stable")]
    is_new = np.ones(len(images), bool)
    is_new[1:] = facts["hash"][images[1:]] != facts["hash"][images[:-1]]
    same = np.flatnonzero(~is_new)
    bits_of = dict.fromkeys(
        zip(images[same - 1].tolist(), images[same].tolist(), strict=True), 0
    )
    unlike = np.sort(images[is_new])
    for column in ("hash", "mirrored"):
        for i, j, bits in _find_nearest(facts, unlike, unlike, column, _MAX_LINKS):
            if bits <= _MAX_BITS:
                pair = (min(i, j), max(i, j))
                bits_of[pair] = min(bits, bits_of.get(pair, bits))
    return sorted(bits_of, key=lambda pair: (bits_of[pair], pair))


def _are_comparable(facts: np.ndarray) -> np.ndarray:
    is_large = np.minimum(facts["width"], facts["height"]) >= _MIN_SIDE
    # Blank images have the same hash, whatever their colour.
    has_content = facts["decoded"] & (facts["contrast"] >= MIN_CONTRAST)
    return is_large & has_content & (facts["problem"] == 0)


def _select_comparable(
    examples: Examples, facts: np.ndarray, duplicates: np.ndarray
) -> list[np.ndarray]:
    """Returns the indices of the images to compare, by split."""
    # One of several exact duplicates: they would be the nearest of each other.
    is_first = np.zeros(len(duplicates), bool)
    for name in SPLIT_NAMES:
        in_split = np.flatnonzero(examples.splits == name)
        is_first[in_split[np.unique(duplicates[in_split], return_index=True)[1]]] = True
    comparable = is_first & _are_comparable(facts)
    return [np.flatnonzero(comparable & (examples.splits == s)) for s in SPLIT_NAMES]


def _find_nearest(
    facts: np.ndarray,
    queries: np.ndarray,
    others: np.ndarray,
    column: str,
    count: int = 1,
) -> Iterator[tuple[int, int, int]]:
    """Yields each query, the most similar of the others and the number of unequal bits.

    `column` is the hash of the queries, `hash` or `mirrored`; `count` is how many of
    the others to yield with each query, if there are as many.
    """
    if not len(queries) or not len(others):
        return
    # The squared distance of vectors of bits is the number of unequal bits.
    search = NearestNeighbors(
        n_neighbors=min(count + 1, len(others)), algorithm="brute", metric="sqeuclidean"
    ).fit(_unpack_bits(facts["hash"][others]))
    distances, found = search.kneighbors(_unpack_bits(facts[column][queries]))
    for i, row, neighbours in zip(queries, distances, others[found], strict=True):
        alike = ((b, j) for b, j in zip(row, neighbours, strict=True) if j != i)
        for bits, j in itertools.islice(alike, count):
            yield int(i), int(j), int(round(bits))


def _unpack_bits(hashes: np.ndarray) -> np.ndarray:
    """Converts hashes, V32 [N], to float32 [N, 256]."""
    as_bytes = np.frombuffer(hashes.tobytes(), np.uint8).reshape(len(hashes), -1)
    return np.unpackbits(as_bytes, axis=1).astype(np.float32)


def _compare(
    examples: Examples,
    which: Sequence[int],
    alike: Sequence[int],
    prefix: str,
    relation: str,
) -> Iterator[Finding]:
    """Reports which of the images that are alike are duplicates, leaks and conflicts.

    `prefix` begins the names of the findings, `relation` their details.
    """
    in_split = {examples.splits[i]: i for i in reversed(alike)}
    labels = [
        {i: task.kind.to_cell(task, target[i]) for i in alike}
        for task, target in zip(examples.tasks, examples.targets, strict=True)
    ]
    with_label = [
        {of_task[i]: i for i in reversed(alike) if of_task[i]} for of_task in labels
    ]
    for i in which:
        path, split = examples.paths[i], examples.splits[i]
        earlier = SPLIT_NAMES[: SPLIT_NAMES.index(split)]
        leak = next((name for name in earlier if name in in_split), "")
        if leak:
            other = examples.paths[in_split[leak]]
            detail = f"{relation} {other} in {leak}"
            yield Finding(path, f"{prefix}leak", detail, other)
        elif in_split[split] != i:
            other = examples.paths[in_split[split]]
            yield Finding(path, f"{prefix}duplicate", f"{relation} {other}", other)
        conflicts = (
            (f"{relation} {examples.paths[j]} of class {label}", examples.paths[j])
            for of_task, by_label in zip(labels, with_label, strict=True)
            for label, j in by_label.items()
            if of_task[i] and label != of_task[i]
        )
        for detail, other in itertools.islice(conflicts, 1):
            yield Finding(path, f"{prefix}conflict", detail, other)
