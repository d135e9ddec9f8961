import dataclasses

import numpy as np
import pytest
from helpers import make_examples, make_task

from keras_ft.audit.name_findings import report_names
from keras_ft.kinds.task import MULTILABEL


def find(*class_names):
    """The names that are alike, and the names that read like a missing value."""
    labels = range(len(class_names))
    findings = report_names(make_examples(class_names, None, labels, class_names))
    return [(f.path, f.name, f.detail) for f in findings]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Cat", "cat"),
        ("1", "1.0"),
        ("01", "1"),
        ("caf\u00e9", "cafe\u0301"),
        ("cat", "cat\u200b"),
        ("t-shirt", "T shirt"),
        ("traffic_light", "traffic light"),
        ("\uff11", "1"),
        ("cat", "cat."),
    ],
)
def test_names_that_mean_the_same_are_found(one, other):
    [(path, name, detail)] = find(one, other, "dog")
    assert (path, name) == (one, "similar_classes")
    assert detail in (f"looks like the class {show(other)}" for show in (repr, ascii))


def test_a_name_that_looks_the_same_is_shown_with_escapes():
    [(_, _, detail)] = find("\u00e9", "e\u0301")
    assert detail == r"looks like the class 'e\u0301'"


@pytest.mark.parametrize(
    "names",
    [
        ("-1", "+1", "0"),
        ("1", "10", "1.5", "2"),
        ("c", "c++", "c#"),
        ("a", "b", "\u00e4"),
        ("cat", "cats", "none of them"),
        ("\u2600", "\u2601"),
    ],
)
def test_other_names_are_fine(names):
    assert find(*names) == []


@pytest.mark.parametrize("name", ["nan", "NaN", "None", "null", "<NA>"])
def test_a_missing_value_as_a_class_is_found(name):
    detail = "a class of 1 image, which reads like a missing value"
    assert find("cat", name) == [(name, "missing_value", detail)]


def test_classes_of_several_tasks_and_groups_are_looked_at():
    tags = make_task(0, name="tags", kind=MULTILABEL, class_names=("Nan", "nan", "x"))
    species = make_task(2, name="species")
    examples = dataclasses.replace(
        make_examples(["0", "1"]),
        tasks=(species, tags),
        targets=(np.array([0, 1]), np.array([[1, 0, 0], [0, 1, 1]])),
        groups=np.array(["nan", "Nan"], object),
    )
    assert {(f.path, f.name) for f in report_names(examples)} == {
        ("tags/Nan", "missing_value"),
        ("tags/nan", "missing_value"),
        ("tags/Nan", "similar_classes"),
        ("nan", "missing_value"),
        ("Nan", "missing_value"),
        ("nan", "similar_groups"),
    }
