"""Findings about images that are alike: duplicates, leaks and conflicting labels."""

import collections
import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from sklearn.neighbors import NearestNeighbors

from keras_ft.audit.decoding import HASH_SIZE
from keras_ft.data.examples import SPLIT_NAMES, Examples, Finding

# Hashes of photographs of different things differ in 60 of 256 bits and more; hashes of
# one photograph, resized, compressed again or cropped by 3 %, differ in fewer than 48.
# See benchmarks/audit.py.
_MAX_BITS = 52
# Images with a shorter side have similar hashes, whatever they show.
_MIN_SIDE = 32


def report_duplicates(examples: Examples, duplicates: np.ndarray) -> Iterator[Finding]:
    """Reports files with the same bytes.

    Args:
        examples: N examples in train, val and test.
        duplicates: int64 [N], the first file with the same bytes.
    """
    members = collections.defaultdict(list)
    counts = np.bincount(duplicates, minlength=len(duplicates))
    for i in np.flatnonzero(counts[duplicates] > 1).tolist():
        members[duplicates[i]].append(i)
    for same in members.values():
        yield from _compare(examples, same, same, "", "the same bytes as")


def report_near_duplicates(
    examples: Examples, pairs: Iterable[tuple[int, int, int]]
) -> Iterator[Finding]:
    """Reports images that look alike.

    Args:
        examples: N examples in train, val and test.
        pairs: The pairs that `find_near_pairs` returns.
    """
    for i, j, bits in sorted(pairs):
        relation = f"looks like ({bits} of {HASH_SIZE**2} bits differ)"
        yield from _compare(examples, [i], [j, i], "near_", relation)


def find_near_pairs(
    examples: Examples, facts: np.ndarray, duplicates: np.ndarray
) -> set[tuple[int, int, int]]:
    """Finds near duplicates by their perceptual hashes.

    Compares each image with the most similar one in its split, and with the most
    similar one in each earlier split.

    Args:
        examples: N examples in train, val and test.
        facts: `file_facts.FACTS` [N].
        duplicates: int64 [N], the first file with the same bytes; files with the same
            bytes are no near duplicates.

    Returns:
        Triples: index of the image, index of the similar one, number of bits in which
        their hashes differ.
    """
    by_split = _select_comparable(examples, facts, duplicates)
    pairs: dict[tuple[int, int], int] = {}
    for number, queries in enumerate(by_split):
        for others in by_split[: number + 1]:
            found = itertools.chain(
                _find_nearest(facts, queries, others, "hash"),
                _find_nearest(facts, queries, others, "mirrored"),
            )
            for i, j, bits in found:
                if bits <= _MAX_BITS and duplicates[i] != duplicates[j]:
                    # In one split, each may be the most similar one of the other.
                    pair = (max(i, j), min(i, j)) if others is queries else (i, j)
                    pairs[pair] = min(bits, pairs.get(pair, bits))
    return {(i, j, bits) for (i, j), bits in pairs.items()}


def _select_comparable(
    examples: Examples, facts: np.ndarray, duplicates: np.ndarray
) -> list[np.ndarray]:
    """Returns, for each split, the indices of the images to compare."""
    # One of several exact duplicates: they would be the nearest of each other.
    is_first = np.zeros(len(duplicates), bool)
    for name in SPLIT_NAMES:
        in_split = np.flatnonzero(examples.splits == name)
        is_first[in_split[np.unique(duplicates[in_split], return_index=True)[1]]] = True
    is_large = np.minimum(facts["width"], facts["height"]) >= _MIN_SIDE
    comparable = is_first & is_large & facts["decoded"]
    return [np.flatnonzero(comparable & (examples.splits == s)) for s in SPLIT_NAMES]


def _find_nearest(
    facts: np.ndarray, queries: np.ndarray, others: np.ndarray, column: str
) -> Iterator[tuple[int, int, int]]:
    """Yields each query, the most similar other image and the number of unequal bits.

    Args:
        facts: `file_facts.FACTS` [N].
        queries: int64 [M], indices of images.
        others: int64 [L], indices of images to compare them with.
        column: The hash of the queries: `hash` or `mirrored`.
    """
    if not len(queries) or not len(others):
        return
    # The squared distance of vectors of bits is the number of unequal bits.
    search = NearestNeighbors(
        n_neighbors=min(2, len(others)), algorithm="brute", metric="sqeuclidean"
    ).fit(_unpack_bits(facts["hash"][others]))
    distances, found = search.kneighbors(_unpack_bits(facts[column][queries]))
    for i, row, neighbours in zip(queries, distances, others[found], strict=True):
        for bits, j in zip(row, neighbours, strict=True):
            if j != i:
                yield int(i), int(j), int(round(bits))
                break


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
    """Reports duplicates, leaks and conflicts among images that are alike.

    Args:
        examples: The examples.
        which: Indices of the images to report.
        alike: Indices of all images that are alike.
        prefix: Prefix of the names of the findings.
        relation: Start of their details; the path of the other image follows.
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
        leaks = [in_split[name] for name in earlier if name in in_split]
        if leaks:
            other = leaks[0]
            detail = f"{relation} {examples.paths[other]} in {examples.splits[other]}"
            yield Finding(path, f"{prefix}leak", detail)
        elif in_split[split] != i:
            detail = f"{relation} {examples.paths[in_split[split]]}"
            yield Finding(path, f"{prefix}duplicate", detail)
        conflicts = [
            (label, j)
            for of_task, by_label in zip(labels, with_label, strict=True)
            for label, j in by_label.items()
            if of_task[i] and label != of_task[i]
        ]
        if conflicts:
            label, j = conflicts[0]
            detail = f"{relation} {examples.paths[j]} of class {label}"
            yield Finding(path, f"{prefix}conflict", detail)
