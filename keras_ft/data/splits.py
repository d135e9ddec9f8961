"""Draws val and test from train: stratified, seeded, no group in two splits."""

from collections.abc import Mapping, Sequence

import numpy as np

from keras_ft.data.connected_groups import (
    Pool,
    count_by_class,
    find_connected_groups,
)
from keras_ft.data.examples import SPLIT_NAMES, Examples
from keras_ft.data.layout import list_some
from keras_ft.errors import UserError
from keras_ft.host.text import hint_alike
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
    on_rare_class: str = "error",
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
        duplicates: int64 [N], equal for duplicates, see `connected_groups`.
        val_fraction: Fraction of each class to draw for val.
        test_fraction: The same for test.
        seed: Of the draw.
        on_rare_class: `train` keeps classes in train that have too few examples for
            each split; otherwise they are an error.

    Raises:
        UserError: A class has too few examples, or none in train, or no example in
            some split is labelled for a task.
    """
    fractions = {"val": val_fraction, "test": test_fraction}
    groups = find_connected_groups(examples.groups, duplicates)
    rng = np.random.default_rng(seed)
    splits = examples.splits.copy()
    if "train" in splits:
        _follow_group(splits, groups)
        existing = {name: f for name, f in fractions.items() if name in splits}
        new = splits == ""
        nothing = np.zeros(0, int)
        splits[new] = _draw(examples.take(new), groups[new], existing, 0, rng, nothing)
    splits[splits == ""] = "train"
    _check_train(examples, splits)
    missing = {name: f for name, f in fractions.items() if name not in splits}
    rare = np.zeros(0, int)
    if on_rare_class == "train":
        rare = find_rare_classes(examples.with_splits(splits), duplicates)
    train = splits == "train"
    splits[train] = _draw(examples.take(train), groups[train], missing, 1, rng, rare)
    examples = examples.with_splits(splits)
    check_labelled(examples)
    return examples


def find_rare_classes(examples: Examples, duplicates: np.ndarray) -> np.ndarray:
    """Finds the classes with too few examples for train and each split that is drawn.

    Examples of one connected group count as one, see `assign_splits`.

    Returns:
        int, indices of classes; none with several tasks or a multilabel one, of which a
        class may be missing in val and test.
    """
    if not is_plain(examples.tasks):
        return np.zeros(0, int)
    drawn = [name for name in SPLIT_NAMES[1:] if name not in examples.splits]
    groups = find_connected_groups(examples.groups, duplicates)
    is_free = np.isin(examples.splits, ("", "train"))
    by_class = np.unique([examples.labels[is_free], groups[is_free]], axis=1)[0]
    num_groups = np.bincount(by_class, minlength=len(examples.class_names))
    return np.flatnonzero(num_groups < 1 + len(drawn))


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
    by_class = count_by_class(examples).tocsc()
    by_class.sort_indices()
    return np.split(by_class.indices, by_class.indptr[1:-1])


def _follow_group(splits: np.ndarray, groups: np.ndarray) -> None:
    """Moves examples without a split to the split of their connected group."""
    known: dict[int, str] = {}
    for name in reversed(SPLIT_NAMES):  # if a group has several, train wins
        known |= dict.fromkeys(groups[splits == name].tolist(), name)
    for i in np.flatnonzero(splits == ""):
        splits[i] = known.get(groups[i], "")


def _check_train(examples: Examples, splits: np.ndarray) -> None:
    in_train = examples.take(splits == "train")
    missing, alike = [], ""
    for task, target in zip(in_train.tasks, in_train.targets, strict=True):
        is_missing = task.count_classes(target) == 0
        names = np.array(task.class_names, object)
        missing += names[is_missing].tolist()
        alike += hint_alike(names[is_missing], names[~is_missing])
    if missing:
        raise UserError(
            "--data needs readable images of each class in train. Received: none of "
            f"{', '.join(map(repr, missing))}{alike}"
        )


def _draw(
    examples: Examples,
    groups: np.ndarray,
    fractions: Mapping[str, float],
    at_least: int,
    rng: np.random.Generator,
    rare: np.ndarray,
) -> np.ndarray:
    """Draws connected groups of examples, class by class: str [N], train for the rest.

    Each split gets `at_least` examples of each class, except of `rare` ones; with
    several tasks or a multilabel one only train. scikit-learn's stratified splitters
    can leave a small class out of a split, and those for groups take no fractions.
    """
    pool = Pool(examples, groups)
    num_examples = pool.remaining.copy()
    # Groups in the random order of their examples, for each class.
    orders = [pool.groups[rng.permutation(i)] for i in _list_classes(examples)]
    plain = is_plain(examples.tasks)
    by_rarity = np.argsort(num_examples, kind="stable")
    few = []
    for drawn, (name, fraction) in enumerate(fractions.items()):
        # What must remain for train and for the splits after this one.
        reserve = at_least * (len(fractions) - drawn)
        need = np.maximum(at_least, np.round(fraction * num_examples)).astype(int)
        need[num_examples == 0] = 0
        need[rare] = 0
        labels = range(len(orders)) if plain else by_rarity
        if not plain:
            for label in labels:
                pool.fill(name, orders[label], label, need, reserve, exceed=False)
        for label in labels:
            order = orders[label]
            pool.fill(name, order, label, need, reserve, exceed=True)
            is_there = name in pool.splits[order]
            if not at_least or not len(order) or is_there or label in rare:
                continue
            if not pool.move_smallest(name, order, reserve) and plain:
                few.append(label)
        if few:
            raise _too_few(examples, pool.groups, few, fractions)
    return pool.splits[pool.groups]


def _too_few(
    examples: Examples,
    groups: np.ndarray,
    few: Sequence[int],
    fractions: Mapping[str, float],
) -> UserError:
    described, grouped = [], ""
    for label in few:
        of_class = groups[examples.labels == label]
        number = len(np.unique(of_class))
        described.append(f"{number} of class {examples.class_names[label]!r}")
        if len(of_class) > number:
            grouped = "; images of one group, or equal ones, count as one"
    return UserError(
        f"Each class needs at least {len(fractions) + 1} images, so that train, "
        f"{' and '.join(fractions)} get one each. Received: {list_some(described)}"
        f"{grouped}; --on_rare_class=skip leaves these classes out, "
        "--on_rare_class=train keeps them in train"
    )
