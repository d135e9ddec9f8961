"""Draws val and test from train: stratified, seeded, nothing in two splits."""

import numpy as np
import scipy.sparse.csgraph

from keras_ft.data.examples import SPLIT_NAMES, Examples
from keras_ft.errors import UserError

# Beside `seed`, so that the subset is not drawn like the splits.
_SUBSET = 1


def assign_splits(
    examples: Examples,
    twins: np.ndarray,
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> Examples:
    """Gives every example a split.

    A split that an example has, it keeps. Where some have one and train is among them,
    those without are new: they are shared out among the splits that there are. Else
    those without are train. A val or test that is missing then is drawn from train: of
    each class its fraction, and at least one example.

    Examples of one group, or with the same bytes, go into one split; new ones to that
    of the old ones. Where their splits are given, nothing is changed.

    Args:
        examples: N examples.
        twins: int64 [N], equal for examples with the same bytes.
        val_fraction: Part of each class that is drawn for val.
        test_fraction: Part of each class that is drawn for test.
        seed: Seed of the draw.

    Raises:
        UserError: A class has too few examples, or none in train.
    """
    fractions = {"val": val_fraction, "test": test_fraction}
    units = _find_units(examples.groups, twins)
    rng = np.random.default_rng(seed)
    splits = examples.splits.copy()
    if "train" in splits:
        _follow(splits, units)
        present = {name: f for name, f in fractions.items() if name in splits}
        new = np.flatnonzero(splits == "")
        _Draw(examples, splits, units, new, present, at_least=0).run(rng)
    splits[splits == ""] = "train"
    _check_train(examples, splits)
    missing = {name: f for name, f in fractions.items() if name not in splits}
    train = np.flatnonzero(splits == "train")
    _Draw(examples, splits, units, train, missing, at_least=1).run(rng)
    return examples.with_splits(splits)


def limit_train(examples: Examples, examples_per_class: int, seed: int) -> Examples:
    """Leaves N examples of each class in train; the others become `unused`.

    With the same seed, a smaller N gives a subset of what a larger one gives.
    """
    rng = np.random.default_rng([seed, _SUBSET])
    splits = examples.splits.copy()
    for label in range(len(examples.class_names)):
        train = np.flatnonzero((splits == "train") & (examples.labels == label))
        splits[rng.permutation(train)[examples_per_class:]] = "unused"
    return examples.with_splits(splits)


def _find_units(groups: np.ndarray, twins: np.ndarray) -> np.ndarray:
    """int [N], equal for examples that belong together: linked by group or bytes."""
    # A graph whose nodes are the examples, and one more for each group.
    numbers = {}
    links = [
        numbers.setdefault(group, len(groups) + len(numbers)) if group else i
        for i, group in enumerate(groups)
    ]
    nodes = np.arange(len(groups))
    size = len(groups) + len(numbers)
    ends = np.concatenate([nodes, nodes]), np.concatenate([links, twins])
    graph = scipy.sparse.coo_array((np.ones(2 * len(groups)), ends), (size, size))
    units = scipy.sparse.csgraph.connected_components(graph, directed=False)[1]
    return units[: len(groups)]


def _follow(splits: np.ndarray, units: np.ndarray) -> None:
    """Examples without a split go where others of their unit are."""
    known = {}
    for name in reversed(SPLIT_NAMES):  # of several, to train
        known |= dict.fromkeys(units[splits == name].tolist(), name)
    for i in np.flatnonzero(splits == ""):
        splits[i] = known.get(units[i], "")


def _check_train(examples: Examples, splits: np.ndarray) -> None:
    present = set(examples.labels[splits == "train"].tolist())
    missing = [
        c for label, c in enumerate(examples.class_names) if label not in present
    ]
    if missing:
        raise UserError(
            "--data needs readable images of each class in train. Received: none of "
            f"{', '.join(map(repr, missing))}"
        )


class _Draw:
    """Moves units of examples to other splits, class by class.

    scikit-learn's stratified draw can leave a small class out of a split, and the one
    for groups knows no fractions.

    Args:
        examples: N examples.
        splits: str [N], changed by `run`.
        units: int [N], equal for examples that go together.
        candidates: int [M], the examples that may move.
        fractions: Part of each class that each split gets.
        at_least: How many examples of each class each split gets at least.
    """

    def __init__(
        self,
        examples: Examples,
        splits: np.ndarray,
        units: np.ndarray,
        candidates: np.ndarray,
        fractions: dict[str, float],
        at_least: int,
    ):
        self.examples = examples
        self.splits = splits
        self.units = units
        self.fractions = fractions
        self.at_least = at_least
        self.candidates = candidates
        self.left = self._count(candidates)
        self.free = np.zeros(len(examples), bool)
        self.free[candidates] = True
        order = candidates[np.argsort(units[candidates], kind="stable")]
        found, starts = np.unique(units[order], return_index=True)
        self.members = dict(
            zip(found.tolist(), np.split(order, starts[1:]), strict=False)
        )

    def run(self, rng: np.random.Generator) -> None:
        """Draws.

        Raises:
            UserError: A class has too few examples.
        """
        total = self.left.copy()
        orders = [
            rng.permutation(self.candidates[self._labels(self.candidates) == label])
            for label in range(len(total))
        ]
        for later, (name, fraction) in enumerate(self.fractions.items()):
            # For train and for each split that comes after this one.
            reserve = self.at_least * (len(self.fractions) - later)
            need = np.maximum(self.at_least, np.round(fraction * total)).astype(int)
            need[total == 0] = 0
            for label, order in enumerate(orders):
                self._fill(name, order, label, need, reserve)
                if self.at_least and total[label] and name not in self.splits[order]:
                    self._take_smallest(name, order, label, reserve)

    def _fill(
        self, name: str, order: np.ndarray, label: int, need: np.ndarray, reserve: int
    ) -> None:
        """Moves units in their order, each that brings the classes closer to need."""
        for i in order:
            if need[label] <= 0:
                return
            counts = self._count(self.members[self.units[i]])
            helps = np.abs(need - counts).sum() < np.abs(need).sum()
            if self.free[i] and helps and self._spares(counts, reserve):
                self._move(i, name)
                need -= counts

    def _take_smallest(
        self, name: str, order: np.ndarray, label: int, reserve: int
    ) -> None:
        """Moves the smallest unit of a class, where all are larger than its part."""
        for i in sorted(order, key=lambda i: len(self.members[self.units[i]])):
            counts = self._count(self.members[self.units[i]])
            if self.free[i] and self._spares(counts, reserve):
                self._move(i, name)
                return
        count = len(np.unique(self.units[order]))
        grouped = len(np.unique(order)) > count
        raise UserError(
            f"Each class needs at least {len(self.fractions) + 1} images, so that "
            f"train, {' and '.join(self.fractions)} get one each. Received: "
            f"{count} of class {self.examples.class_names[label]!r}"
            + (" that are not of one group or equal" if grouped else "")
        )

    def _spares(self, counts: np.ndarray, reserve: int) -> bool:
        return bool(((self.left - counts >= reserve) | (counts == 0)).all())

    def _move(self, i: int, name: str) -> None:
        members = self.members[self.units[i]]
        self.splits[members] = name
        self.free[members] = False
        self.left -= self._count(members)

    def _labels(self, which: np.ndarray) -> np.ndarray:
        return self.examples.labels[which]

    def _count(self, which: np.ndarray) -> np.ndarray:
        """int [K], examples of each class."""
        return np.bincount(
            self._labels(which), minlength=len(self.examples.class_names)
        )
