import numpy as np
import pytest

from keras_ft.report.classes import describe_classes


def describe(counts, names=None):
    """What a page shows of a confusion matrix."""
    names = names or [str(i) for i in range(len(counts))]
    row = {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 1}
    per_class = dict.fromkeys(names, row)
    measured = {"per_class": per_class, "confusion_matrix": np.array(counts).tolist()}
    return describe_classes(measured, names)


def test_a_matrix_has_counts_and_shares_of_the_label():
    [(name, cells), empty] = describe([[3, 1], [0, 0]], ["cat", "dog"])["confusion"]
    assert (name, cells) == ("cat", [(3, 0.75), (1, 0.25)])
    assert empty == ("dog", [(0, 0), (0, 0)])


@pytest.mark.parametrize(("num_classes", "has_matrix"), [(30, True), (31, False)])
def test_many_classes_have_pairs_instead_of_a_matrix(num_classes, has_matrix):
    description = describe(np.full((num_classes, num_classes), 1))
    assert ("confusion" in description) == has_matrix
    assert len(description["pairs"]) == (12 if has_matrix else 50)


def test_pairs_are_sorted_by_count_then_by_share():
    pairs = describe([[9, 2, 0], [2, 1, 0], [3, 0, 7]])["pairs"]
    assert [(p["label"], p["prediction"], p["count"]) for p in pairs] == [
        ("2", "0", 3),
        ("1", "0", 2),
        ("0", "1", 2),
    ]
    assert pairs[0]["fraction"] == pytest.approx(0.3)
