import hashlib

import numpy as np
import pytest
from helpers import make_labelled as make
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_ft.data.connected_groups import join_near_duplicates
from keras_ft.data.examples import SPLIT_NAMES
from keras_ft.data.splits import assign_splits, limit_train
from keras_ft.errors import UserError


def assign(examples, duplicates=None, val=0.15, test=0.15, seed=0):
    first = np.arange(len(examples)) if duplicates is None else np.array(duplicates)
    return assign_splits(examples, first, val, test, seed).splits


def test_each_split_gets_its_fraction_of_each_class():
    labels = [0] * 100 + [1] * 40 + [2] * 3
    splits = assign(make(labels), val=0.1, test=0.2)
    labels = np.array(labels)
    for label, expected in enumerate([(70, 10, 20), (28, 4, 8), (1, 1, 1)]):
        of_class = splits[labels == label]
        found = tuple(np.sum(of_class == n) for n in ("train", "val", "test"))
        assert found == expected


def test_the_splits_depend_on_the_seed():
    examples = make([0, 1] * 50)
    assert assign(examples).tolist() == assign(examples).tolist()
    assert assign(examples).tolist() != assign(examples, seed=1).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_groups_never_cross_splits_and_classes_stay_balanced(seed):
    rng = np.random.default_rng(seed)
    patient = rng.integers(0, 60, 400)
    labels = (rng.random(400) < 0.2 + 0.3 * (patient % 2)).astype(int)
    examples = make(labels.tolist(), groups=[f"p{p}" for p in patient])
    splits = assign(examples, val=0.2, test=0.2, seed=seed)
    for p in range(60):
        assert len(set(splits[patient == p])) <= 1
    for label in (0, 1):
        of_class = splits[labels == label]
        for name in ("val", "test"):
            assert 0.15 < np.mean(of_class == name) < 0.25


def test_exact_duplicates_stay_in_one_split():
    duplicates = np.arange(60)
    duplicates[1::2] = duplicates[::2]  # two of each image
    for seed in range(5):
        splits = assign(make([0] * 30 + [1] * 30), duplicates, seed=seed)
        np.testing.assert_array_equal(splits[::2], splits[1::2])
        assert set(splits) == {"train", "val", "test"}


def test_groups_with_a_common_duplicate_stay_together():
    groups = ["p"] * 5 + ["q"] * 5 + [""] * 30
    duplicates = np.arange(40)
    duplicates[7] = 2
    for seed in range(10):
        splits = assign(make([0] * 20 + [1] * 20, groups=groups), duplicates, seed=seed)
        assert len(set(splits[:10])) == 1


def assign_near(examples, pairs, seed=0, fraction=0.15):
    alone = np.arange(len(examples))
    joined = join_near_duplicates(examples, alone, pairs, fraction)
    return assign(examples, joined, val=fraction, test=fraction, seed=seed)


def test_near_duplicates_stay_in_one_split_also_of_two_classes():
    examples = make([0, 1] * 30, groups=["p", *[""] * 57, "p", ""])
    pairs = [(0, 2), (2, 4), (10, 11), (59, 7)]
    for seed in range(5):
        splits = assign_near(examples, pairs, seed)
        for together in ([0, 2, 4, 58], [10, 11], [7, 59]):
            assert len(set(splits[together])) == 1


def test_a_series_of_near_duplicates_is_divided_at_its_largest_differences():
    count = 100
    pairs = [(i, i + 1) for i in range(count - 1) if i % 5 != 4]
    pairs += [(i, i + 1) for i in range(4, count - 1, 5)]
    examples = make([0] * count + [1] * count)
    splits = assign_near(examples, pairs)
    for label in (0, 1):
        of_class = splits[label * count :][:count]
        found = [np.sum(of_class == name) for name in SPLIT_NAMES]
        assert found == pytest.approx([70, 15, 15], abs=5)
    for i in range(0, count, 5):
        assert len(set(splits[i : i + 5])) == 1


def test_near_duplicates_never_leave_a_class_without_a_split():
    examples = make([0] * 20 + [1] * 4)
    splits = assign_near(examples, [(20, 21), (22, 23), (21, 22)])
    assert set(splits[20:]) == {"train", "val", "test"}
    assert splits[20] == splits[21]


def test_without_near_duplicates_splits_stay_the_same():
    examples, duplicates = make_mixed(3)
    joined = join_near_duplicates(examples, duplicates, [(299, 299)], 0.15)
    np.testing.assert_array_equal(joined, duplicates)


def test_new_examples_follow_their_near_duplicates():
    given = ["train"] * 8 + ["val"] * 4 + ["test"] * 4 + [""] * 4
    splits = assign_near(make([0, 1] * 10, given), [(13, 17), (9, 19)])
    assert splits[[17, 19]].tolist() == ["test", "val"]


def test_the_smallest_groups_of_a_class_move_if_all_are_large():
    labels = [0] * 20 + [1] * 24
    groups = [""] * 20 + ["p"] * 10 + ["q"] * 8 + ["r"] * 6
    for seed in range(5):
        splits = assign(make(labels, groups=groups), seed=seed)
        assert set(splits[20:30]) == {"train"}
        assert {splits[30], splits[38]} == {"val", "test"}


def test_a_class_of_two_groups_is_too_small():
    labels = [0] * 20 + [1] * 10
    groups = [""] * 20 + ["p"] * 5 + ["q"] * 5
    match = "Received: 2 of class 'b'; images of one group, or equal ones, count as one"
    with pytest.raises(UserError, match=match):
        assign(make(labels, groups=groups))


def test_all_classes_that_are_too_small_are_named():
    with pytest.raises(UserError, match="1 of class 'b', 2 of class 'c'; --on_rare"):
        assign(make([0] * 10 + [1] + [2] * 2))


def test_given_splits_are_kept_and_only_a_missing_one_is_drawn():
    labels = [0, 1] * 30
    given = ["test"] * 10 + ["train"] * 50
    splits = assign(make(labels, given), val=0.2)
    assert splits[:10].tolist() == ["test"] * 10
    assert np.sum(splits == "val") == 10
    assert "test" not in splits[10:]


def test_given_splits_are_kept_even_if_a_group_crosses_them():
    given = (["train"] * 8 + ["val"] * 2 + ["test"] * 2) * 2
    examples = make([0] * 12 + [1] * 12, given, ["p"] * 24)
    assert assign(examples).tolist() == given


def test_if_only_test_is_given_the_others_are_train():
    splits = assign(make([0, 1] * 20, ["test"] * 8 + [""] * 32), val=0.25)
    assert splits[:8].tolist() == ["test"] * 8
    assert sorted(splits[8:]) == ["train"] * 24 + ["val"] * 8


def test_new_examples_are_distributed_and_old_ones_keep_their_split():
    old = assign(make([0, 1] * 50)).tolist()
    splits = assign(make([0, 1] * 100, old + [""] * 100), val=0.1, test=0.2, seed=7)
    assert splits[:100].tolist() == old
    new = splits[100:]
    assert [np.sum(new == n) for n in ("train", "val", "test")] == [70, 10, 20]


def test_new_examples_follow_their_group_or_duplicate():
    given = ["train"] * 4 + ["val"] * 4 + ["test"] * 4 + [""] * 2
    groups = ["p"] + [""] * 7 + ["q"] + [""] * 3 + ["q", ""]
    duplicates = np.arange(14)
    duplicates[13] = 5
    examples = make([0, 1] * 7, given, groups)
    for seed in range(5):
        assert assign(examples, duplicates, seed=seed)[12:].tolist() == ["test", "val"]


def test_a_single_new_example_may_stay_in_train():
    given = ["train", "train", "val", "val", "test", "test", ""]
    assert assign(make([0, 1] * 3 + [0], given))[6] == "train"


def test_a_class_without_train_is_an_error():
    with pytest.raises(UserError, match="in train. Received: none of 'b'"):
        assign(make([0, 0, 1], ["train", "train", "test"]))


def test_a_subset_has_n_of_each_class_and_contains_smaller_subsets():
    splits = ["train"] * 60 + ["test"] * 30
    examples = make([0, 1, 2] * 30, splits)
    few, more = (limit_train(examples, n, seed=3).splits for n in (4, 9))
    for chosen, n in ((few, 4), (more, 9)):
        train = examples.labels[chosen == "train"]
        assert np.bincount(train).tolist() == [n] * 3
        assert chosen[60:].tolist() == ["test"] * 30
        assert np.sum(chosen == "unused") == 60 - 3 * n
    assert set(np.flatnonzero(few == "train")) < set(np.flatnonzero(more == "train"))
    other = limit_train(examples, 4, seed=4).splits
    assert other.tolist() != few.tolist()


def test_a_class_with_fewer_than_n_keeps_all():
    examples = make([0] * 10 + [1] * 2, ["train"] * 12)
    splits = limit_train(examples, 5, seed=0).splits
    assert np.bincount(examples.labels[splits == "train"]).tolist() == [5, 2]


def make_mixed(seed):
    """300 examples of 4 classes: some in groups, some exact duplicates, some split."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(4, 300, p=[0.5, 0.3, 0.15, 0.05]).tolist()
    groups = [f"g{g}" if g < 40 else "" for g in rng.integers(0, 80, 300)]
    duplicates = np.arange(300)
    copies = rng.choice(np.arange(100, 300), 40, replace=False)
    duplicates[copies] = rng.integers(0, 100, 40)
    splits = [""] * 300
    if seed % 2:  # old examples with splits, new ones without
        splits[:150] = rng.choice(["train", "val", "test"], 150, p=[0.7, 0.2, 0.1])
    return make(labels, splits, groups), duplicates


@pytest.mark.parametrize(
    ("seed", "expected"),
    [
        (0, "cf26abb510bd"),
        (1, "523347a967bd"),
        (2, "05cbd976367e"),
        (3, "c1c5836289d0"),
        (4, "576bfc191a23"),
        (5, "6aa572504f60"),
        (6, "30c0d3523adc"),
        (7, "a1978916e135"),
    ],
)
def test_splits_stay_those_of_earlier_releases(seed, expected):
    examples, duplicates = make_mixed(seed)
    drawn = assign_splits(examples, duplicates, 0.15, 0.2, seed)
    splits = [*drawn.splits, *limit_train(drawn, 20, seed).splits]
    assert hashlib.sha256(",".join(splits).encode()).hexdigest()[:12] == expected


@st.composite
def tables(draw):
    count = draw(st.integers(6, 60))
    few = st.sampled_from(["", "", "", "p", "q", "r"])
    labels = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    groups = draw(st.lists(few, min_size=count, max_size=count))
    splits = draw(
        st.just([""] * count)
        | st.lists(st.sampled_from(["", *SPLIT_NAMES]), min_size=count, max_size=count)
    )
    return make(labels, splits, groups, num_classes=3)


@given(tables(), st.floats(0.01, 0.49), st.floats(0.01, 0.49), st.integers(0, 9))
@settings(max_examples=300, deadline=None)
def test_any_draw_keeps_given_splits_and_groups_together(examples, val, test, seed):
    duplicates = np.arange(len(examples))
    duplicates[1] = 0
    try:
        splits = assign_splits(examples, duplicates, val, test, seed).splits
    except UserError:
        return  # a class has too few
    assert set(splits) == set(SPLIT_NAMES)
    fixed = np.isin(examples.splits, ["val", "test"])
    np.testing.assert_array_equal(splits[fixed], examples.splits[fixed])
    assert set(examples.labels[splits == "train"]) == {0, 1, 2}
    if not any(examples.splits):
        for group in ("p", "q", "r"):
            assert len(set(splits[examples.groups == group])) <= 1
        assert splits[0] == splits[1]
        for name in SPLIT_NAMES:
            assert set(examples.labels[splits == name]) == {0, 1, 2}
    limited = limit_train(examples.with_splits(splits), 2, seed).splits
    assert np.bincount(examples.labels[limited == "train"]).max() <= 2
