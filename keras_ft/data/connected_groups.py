"""Connected groups of examples, each of which goes into one split."""

from collections.abc import Iterable, Sequence

import numpy as np
import scipy.sparse.csgraph

from keras_ft.data.examples import SPLIT_NAMES, Examples


def find_connected_groups(groups: np.ndarray, duplicates: np.ndarray) -> np.ndarray:
    """Returns int [N], equal for examples that are linked by group or same bytes."""
    # A graph with one node per example, and one more per group.
    nodes: dict[str, int] = {}
    links = [
        nodes.setdefault(group, len(groups) + len(nodes)) if group else i
        for i, group in enumerate(groups)
    ]
    examples = np.arange(len(groups))
    size = len(groups) + len(nodes)
    edges = np.concatenate([examples, examples]), np.concatenate([links, duplicates])
    graph = scipy.sparse.coo_array((np.ones(2 * len(groups)), edges), (size, size))
    connected = scipy.sparse.csgraph.connected_components(graph, directed=False)[1]
    return connected[: len(groups)]


def join_near_duplicates(
    examples: Examples,
    duplicates: np.ndarray,
    pairs: Iterable[Sequence[int]],
    fraction: float,
) -> np.ndarray:
    """Makes near duplicates equal, so that they go into one split.

    A series of images, each similar to the next, could be most of a class. So connected
    groups are joined, the most similar ones first, only as long as they are at most a
    fraction of each of their classes, and as there is a group for each split.

    Args:
        examples: N examples.
        duplicates: int64 [N], equal for examples with the same bytes.
        pairs: Indices of near duplicates, the most similar first.
        fraction: Of each class that the smaller one of val and test gets.

    Returns:
        int64 [N], equal for duplicates: the index of one of them.
    """
    pool = Pool(examples, find_connected_groups(examples.groups, duplicates))
    limits = np.maximum(2, fraction * pool.remaining)
    num_groups = (pool.counts > 0).sum(axis=0)
    sizes = np.bincount(pool.groups)
    classes = np.split(pool.counts.indices, pool.counts.indptr[1:-1])
    joined = np.arange(len(sizes))
    for i, j in pairs:
        one, other = joined[pool.groups[[i, j]]]
        both = np.union1d(classes[one], classes[other])
        common = np.intersect1d(classes[one], classes[other])
        size = sizes[one] + sizes[other]
        if (
            one != other
            and np.all(size <= limits[both])
            and np.all(num_groups[common] > len(SPLIT_NAMES))
        ):
            joined[joined == other] = one
            sizes[one], classes[one] = size, both
            num_groups[common] -= 1
    of_image = joined[pool.groups]
    is_joined = np.bincount(joined)[of_image] > 1
    first = np.unique(pool.groups, return_index=True)[1]
    return np.where(is_joined, first[of_image], duplicates)


def count_by_class(examples: Examples) -> scipy.sparse.csr_array:
    """Returns int [N, C]: 1 for the classes of each example, those of all tasks."""
    blocks = []
    for task, target in zip(examples.tasks, examples.targets, strict=True):
        rows, classes = task.kind.list_classes(target)
        shape = (len(target), len(task.class_names))
        entries = np.ones(len(rows), np.int64), (rows, classes)
        blocks.append(scipy.sparse.csr_array(entries, shape))
    return scipy.sparse.hstack(blocks, format="csr")


class Pool:
    """Connected groups of examples, some of which move to another split.

    Attributes:
        groups: int [N], index of each example's group.
        splits: str [G], the split of each group.
        remaining: int [C], number of examples of each class that are still in train.
        counts: int [G, C], sparse, number of examples of each class in each group.
    """

    def __init__(self, examples: Examples, groups: np.ndarray):
        names, self.groups = np.unique(groups, return_inverse=True)
        by_class = count_by_class(examples)
        # 1 for the members of each group
        entries = np.ones(len(groups), np.int64), (self.groups, np.arange(len(groups)))
        members = scipy.sparse.csr_array(entries, (len(names), len(groups)))
        self.counts = members @ by_class
        self.splits = np.full(len(names), "train", object)
        self.remaining = by_class.sum(axis=0)

    def fill(
        self,
        name: str,
        order: np.ndarray,
        label: int,
        need: np.ndarray,
        reserve: int,
        exceed: bool,
    ) -> None:
        """Moves groups to a split until there are enough examples of a class.

        Each brings all classes closer to their `need`, int [C], which is updated. With
        `exceed` it may exceed that of some, if the others come closer to theirs. Of
        each class, `reserve` examples remain.
        """
        for group in order:
            if need[label] <= 0:
                return
            classes, counts = self._count(group)
            before, after = need[classes], need[classes] - counts
            comes_closer = np.abs(after).sum() < np.abs(before).sum()
            is_useful = comes_closer if exceed else np.all(after >= 0)
            if is_useful and self._move(group, name, reserve):
                need[classes] = after

    def move_smallest(self, name: str, order: np.ndarray, reserve: int) -> bool:
        """Moves the smallest group that can move; returns whether there is one."""
        by_size = sorted(order, key=lambda group: self._count(group)[1].sum())
        return any(self._move(group, name, reserve) for group in by_size)

    def _move(self, group: int, name: str, reserve: int) -> bool:
        classes, counts = self._count(group)
        can_spare = self.remaining[classes] - counts >= reserve
        if self.splits[group] != "train" or not can_spare.all():
            return False
        self.splits[group] = name
        self.remaining[classes] -= counts
        return True

    def _count(self, group: int) -> tuple[np.ndarray, np.ndarray]:
        """The classes in a group, and the number of examples of each."""
        entries = slice(*self.counts.indptr[group : group + 2])
        return self.counts.indices[entries], self.counts.data[entries]
