import dataclasses

import numpy as np
from helpers import make_examples

from keras_ft.audit.findings import warn_of_leaks
from keras_ft.data.examples import Finding


def make_split_examples(groups=("", "", "", "", "")):
    splits = np.array(["train", "val", "test", "test", "test"], object)
    examples = make_examples(list("abcde")).with_splits(splits)
    return dataclasses.replace(examples, groups=np.array(groups, object))


def test_images_with_leaks_are_counted_once():
    findings = [
        Finding("c", "leak", "the same bytes as a in train"),
        Finding("d", "near_leak", "looks like a in train"),
        Finding("d", "near_leak", "looks like b in val"),
        Finding("e", "near_duplicate", "looks like d"),
    ]
    assert warn_of_leaks(make_split_examples(), findings) == [
        "Results on test are likely too good: 2 of 3 images are identical to or "
        "similar to images in train or val."
    ]
    [warning] = warn_of_leaks(make_split_examples(), findings[1:3])
    assert warning.startswith(
        "Results on test may be too good: 1 of 3 images is similar"
    )
    findings = [Finding("b", "leak", "the same bytes as a in train")]
    assert warn_of_leaks(make_split_examples(), findings) == [
        "Results on val are likely too good: 1 of 1 images is identical to images "
        "in train."
    ]


def test_images_of_a_group_in_an_earlier_split_are_counted():
    """A finding stands for the whole group."""
    examples = make_split_examples(groups=["p", "", "p", "p", "q"])
    assert warn_of_leaks(examples, [Finding("d", "group_leak", "")]) == [
        "Results on test are likely too good: 2 of 3 images are in the same group as "
        "images in train or val."
    ]


def test_without_leaks_there_is_no_warning():
    examples = make_split_examples(groups=["p", "q", "r", "r", ""])
    assert warn_of_leaks(examples, [Finding("e", "duplicate", "")]) == []
