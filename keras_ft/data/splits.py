"""Draws val and test from train: stratified, seeded, no group in two splits."""

from collections.abc import Mapping

import numpy as np
import scipy.sparse.csgraph

from keras_ft.data.examples import SPLIT_NAMES, Examples
from keras_ft.errors import UserError

# Part of the seed, so that the subset is not drawn like the splits.
_SUBSET = 1


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

    A connected group goes into one split: examples that are linked by their group or
    by the same bytes. New examples follow the older ones of their connected group.
    Splits that examples already have are never changed, even across a group.

    Args:
        examples: N examples.
        duplicates: int64 [N], equal for examples with the same bytes.
        val_fraction: Fraction of each class to draw for val.
        test_fraction: Fraction of each class to draw for test.
        seed: Seed of the draw.

    Raises:
        UserError: A class has too few examples, or none in train.
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
    return examples.with_splits(splits)


def limit_train(examples: Examples, examples_per_class: int, seed: int) -> Examples:
    """Keeps N examples of each class in train; the others become `unused`.

    With the same seed, the examples of a smaller N are a subset of those of a larger N.
    """
    rng = np.random.default_rng([seed, _SUBSET])
    splits = examples.splits.copy()
    for label in range(len(examples.class_names)):
        train = np.flatnonzero((splits == "train") & (examples.labels == label))
        splits[rng.permutation(train)[examples_per_class:]] = "unused"
    return examples.with_splits(splits)


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
    present = set(examples.labels[splits == "train"].tolist())
    missing = [
        name for label, name in enumerate(examples.class_names) if label not in present
    ]
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
    """Draws connected groups of examples for other splits, class by class.

    scikit-learn's stratified splitters can leave a small class out of a split, and
    those for groups do not take fractions.

    Args:
        examples: N examples, all in train or all new.
        groups: int [N], equal for examples of one connected group.
        fractions: Fraction of each class to draw for each split.
        at_least: Minimum number of examples of each class in each split.
        rng: Source of the draw.

    Returns:
        str [N], the drawn splits; `train` for the examples that stay.

    Raises:
        UserError: A class has too few examples.
    """
    pool = _Pool(examples, groups)
    num_examples = pool.remaining.copy()
    # Groups in the random order of their examples, for each class.
    orders = [
        pool.groups[rng.permutation(np.flatnonzero(examples.labels == label))]
        for label in range(len(num_examples))
    ]
    for drawn, (name, fraction) in enumerate(fractions.items()):
        # What must remain for train and for the splits after this one.
        reserve = at_least * (len(fractions) - drawn)
        need = np.maximum(at_least, np.round(fraction * num_examples)).astype(int)
        need[num_examples == 0] = 0
        for label, order in enumerate(orders):
            pool.fill(name, order, label, need, reserve)
            if not at_least or not len(order) or name in pool.splits[order]:
                continue
            if not pool.move_smallest(name, order, reserve):
                raise _too_few(examples.class_names[label], order, fractions)
    return pool.splits[pool.groups]


class _Pool:
    """Connected groups of examples, some of which move to another split.

    Attributes:
        groups: int [N], index of each example's group.
        splits: str [G], the split of each group.
        remaining: int [K], number of examples of each class that are still in train.
    """

    def __init__(self, examples: Examples, groups: np.ndarray):
        self.groups = np.unique(groups, return_inverse=True)[1]
        sizes = np.bincount(self.groups)
        by_group = examples.labels[np.argsort(self.groups, kind="stable")]
        self.labels = np.split(by_group, np.cumsum(sizes)[:-1])
        self.splits = np.full(len(sizes), "train", object)
        self.remaining = examples.count_classes()

    def fill(
        self, name: str, order: np.ndarray, label: int, need: np.ndarray, reserve: int
    ) -> None:
        """Moves groups, in order, that bring all classes closer to their need.

        Args:
            name: The split to fill.
            order: int [M], the groups with an example of the class `label`.
            label: The class to fill; the need of it ends the search.
            need: int [K], how many examples of each class to move; is updated.
            reserve: How many examples of each class must remain.
        """
        for group in order:
            if need[label] <= 0:
                return
            counts = self._count(group)
            is_closer = np.abs(need - counts).sum() < np.abs(need).sum()
            if is_closer and self._move(group, name, counts, reserve):
                need -= counts

    def move_smallest(self, name: str, order: np.ndarray, reserve: int) -> bool:
        """Moves the smallest group that can move; returns whether there is one."""
        by_size = sorted(order, key=lambda group: len(self.labels[group]))
        return any(self._move(g, name, self._count(g), reserve) for g in by_size)

    def _move(self, group: int, name: str, counts: np.ndarray, reserve: int) -> bool:
        can_spare = (self.remaining - counts >= reserve) | (counts == 0)
        if self.splits[group] != "train" or not can_spare.all():
            return False
        self.splits[group] = name
        self.remaining -= counts
        return True

    def _count(self, group: int) -> np.ndarray:
        """Returns int [K], the number of examples of each class."""
        return np.bincount(self.labels[group], minlength=len(self.remaining))


def _too_few(
    class_name: str, order: np.ndarray, fractions: Mapping[str, float]
) -> UserError:
    num_groups = len(np.unique(order))
    grouped = len(order) > num_groups
    return UserError(
        f"Each class needs at least {len(fractions) + 1} images, so that train, "
        f"{' and '.join(fractions)} get one each. Received: {num_groups} of class "
        f"{class_name!r}" + (" that are not of one group or equal" if grouped else "")
    )
