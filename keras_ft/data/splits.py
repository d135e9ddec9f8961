"""Draws val and test from train: stratified, seeded, no group in two splits."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import scipy.sparse.csgraph

from keras_ft.data.examples import SPLIT_NAMES, Examples
from keras_ft.errors import UserError
from keras_ft.kinds.task import is_plain

# Part of the seed, so that the subset is not drawn like the splits.
_SUBSET = 1


def are_drawn(splits: np.ndarray) -> bool:
    """Whether `assign_splits` draws some of the splits, str [N]; else all are given."""
    return "" in splits or not {"val", "test"} <= set(splits)


def assign_splits(
    examples: Examples,
    duplicates: np.ndarray,
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> Examples:
    """Assigns a split to every example.

    Examples that have a split keep it. If some have one and train is among these
    splits, the others are new: they are distributed over the existing splits.
    Otherwise the others are train. If val or test is still missing, it is drawn from
    train: a fraction of each class, and at least one example.

    With several tasks or a multilabel one, an example counts for each of its classes,
    and the rarest classes are drawn first, as in iterative stratification (Sechidis et
    al., ECML PKDD 2011). A rare class may be missing in val or test, but not in train.

    A connected group goes into one split: examples that are linked by their group or
    as duplicates. New examples follow the older ones of their connected group.
    Splits that examples already have are never changed, even across a group.

    Args:
        examples: N examples.
        duplicates: int64 [N], equal for duplicates, see `join_near_duplicates`.
        val_fraction: Fraction of each class to draw for val.
        test_fraction: The same for test.
        seed: Of the draw.

    Raises:
        UserError: A class has too few examples, or none in train, or no example in
            some split is labelled for a task.
    """
    fractions = {"val": val_fraction, "test": test_fraction}
    groups = _find_connected_groups(examples.groups, duplicates)
    rng = np.random.default_rng(seed)
    splits = examples.splits.copy()
    if "train" in splits:
        _follow_group(splits, groups)
        existing = {name: f for name, f in fractions.items() if name in splits}
        new = splits == ""
        splits[new] = _draw(examples.take(new), groups[new], existing, 0, rng)
    splits[splits == ""] = "train"
    _check_train(examples, splits)
    missing = {name: f for name, f in fractions.items() if name not in splits}
    train = splits == "train"
    splits[train] = _draw(examples.take(train), groups[train], missing, 1, rng)
    examples = examples.with_splits(splits)
    check_labelled(examples)
    return examples


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
    pool = _Pool(examples, _find_connected_groups(examples.groups, duplicates))
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


def check_labelled(examples: Examples) -> None:
    """Raises a UserError if a split has no example that is labelled for some task."""
    for name, of_task in examples.by_task.items():
        present = set(of_task.splits)
        missing = [s for s in SPLIT_NAMES if s in examples.splits and s not in present]
        if missing:
            raise UserError(
                f"Each task needs labelled images in train, val and test. Received: "
                f"none for {name} in {' and '.join(missing)}"
            )


def limit_train(examples: Examples, examples_per_class: int, seed: int) -> Examples:
    """Keeps N examples of each class in train; the others become `unused`.

    With the same seed, the examples of a smaller N are a subset of those of a larger N.
    With several tasks, a class may keep more: those that are kept for another one.
    """
    rng = np.random.default_rng([seed, _SUBSET])
    train = examples.splits == "train"
    kept = ~train
    for in_class in _list_classes(examples):
        in_train = in_class[train[in_class]]
        kept[rng.permutation(in_train)[:examples_per_class]] = True
    splits = examples.splits.copy()
    splits[~kept] = "unused"
    return examples.with_splits(splits)


def _list_classes(examples: Examples) -> list[np.ndarray]:
    """The examples of each class of each task: int [n], indices in order."""
    by_class = _count_by_class(examples).tocsc()
    by_class.sort_indices()
    return np.split(by_class.indices, by_class.indptr[1:-1])


def _count_by_class(examples: Examples) -> scipy.sparse.csr_array:
    """Returns int [N, C]: 1 for the classes of each example, those of all tasks."""
    blocks = []
    for task, target in zip(examples.tasks, examples.targets, strict=True):
        rows, classes = task.kind.list_classes(target)
        shape = (len(target), len(task.class_names))
        entries = np.ones(len(rows), np.int64), (rows, classes)
        blocks.append(scipy.sparse.csr_array(entries, shape))
    return scipy.sparse.hstack(blocks, format="csr")


def _find_connected_groups(groups: np.ndarray, duplicates: np.ndarray) -> np.ndarray:
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


def _follow_group(splits: np.ndarray, groups: np.ndarray) -> None:
    """Moves examples without a split to the split of their connected group."""
    known: dict[int, str] = {}
    for name in reversed(SPLIT_NAMES):  # if a group has several, train wins
        known |= dict.fromkeys(groups[splits == name].tolist(), name)
    for i in np.flatnonzero(splits == ""):
        splits[i] = known.get(groups[i], "")


def _check_train(examples: Examples, splits: np.ndarray) -> None:
    in_train = examples.take(splits == "train")
    missing = []
    for task, target in zip(in_train.tasks, in_train.targets, strict=True):
        names = np.array(task.class_names, object)
        missing += names[task.count_classes(target) == 0].tolist()
    if missing:
        raise UserError(
            "--data needs readable images of each class in train. Received: none of "
            f"{', '.join(map(repr, missing))}"
        )


def _draw(
    examples: Examples,
    groups: np.ndarray,
    fractions: Mapping[str, float],
    at_least: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draws connected groups of examples, class by class: str [N], train for the rest.

    Each split gets `at_least` examples of each class, with several tasks or a
    multilabel one only train. scikit-learn's stratified splitters can leave a small
    class out of a split, and those for groups do not take fractions.
    """
    pool = _Pool(examples, groups)
    num_examples = pool.remaining.copy()
    # Groups in the random order of their examples, for each class.
    orders = [pool.groups[rng.permutation(i)] for i in _list_classes(examples)]
    plain = is_plain(examples.tasks)
    by_rarity = np.argsort(num_examples, kind="stable")
    for drawn, (name, fraction) in enumerate(fractions.items()):
        # What must remain for train and for the splits after this one.
        reserve = at_least * (len(fractions) - drawn)
        need = np.maximum(at_least, np.round(fraction * num_examples)).astype(int)
        need[num_examples == 0] = 0
        labels = range(len(orders)) if plain else by_rarity
        if not plain:
            for label in labels:
                pool.fill(name, orders[label], label, need, reserve, exceed=False)
        for label in labels:
            order = orders[label]
            pool.fill(name, order, label, need, reserve, exceed=True)
            if not at_least or not len(order) or name in pool.splits[order]:
                continue
            if not pool.move_smallest(name, order, reserve) and plain:
                raise _too_few(examples.class_names[label], order, fractions)
    return pool.splits[pool.groups]


class _Pool:
    """Connected groups of examples, some of which move to another split.

    Attributes:
        groups: int [N], index of each example's group.
        splits: str [G], the split of each group.
        remaining: int [C], number of examples of each class that are still in train.
        counts: int [G, C], sparse, number of examples of each class in each group.
    """

    def __init__(self, examples: Examples, groups: np.ndarray):
        names, self.groups = np.unique(groups, return_inverse=True)
        by_class = _count_by_class(examples)
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


def _too_few(name: str, order: np.ndarray, fractions: Mapping[str, float]) -> UserError:
    num_groups = len(np.unique(order))
    grouped = " that are not of one group or equal" if len(order) > num_groups else ""
    return UserError(
        f"Each class needs at least {len(fractions) + 1} images, so that train, "
        f"{' and '.join(fractions)} get one each. Received: {num_groups} of class "
        f"{name!r}{grouped}"
    )
