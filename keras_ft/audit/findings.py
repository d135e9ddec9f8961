"""Findings as text."""

import collections
from collections.abc import Iterable, Sequence

import numpy as np

from keras_ft.data.examples import SPLIT_NAMES, Examples, Finding

# What images with these findings are to images in an earlier split.
_LEAKS = {"leak": "identical to", "near_leak": "similar to"}


def count_findings(findings: Iterable[Finding]) -> dict[str, int]:
    """Counts findings by name, the most frequent first."""
    return dict(collections.Counter(finding.name for finding in findings).most_common())


def summarize_findings(findings: Sequence[Finding]) -> str:
    """Returns one line per kind of finding: their number and the first of them."""
    first = {finding.name: finding for finding in reversed(findings)}
    return "\n".join(
        f"  {number:7}  {name:20}{first[name].path}: {first[name].detail}"
        for name, number in count_findings(findings).items()
    )


def warn_of_leaks(examples: Examples, findings: Sequence[Finding]) -> list[str]:
    """Says how many images of val and test are in an earlier split, too, if any are.

    Images are counted, not findings: one can be similar to several others.
    """
    paths = {
        name: [finding.path for finding in findings if finding.name == name]
        for name in _LEAKS
    }
    warnings = []
    for number, split in enumerate(SPLIT_NAMES[1:], 1):
        earlier, held_out = SPLIT_NAMES[:number], examples.split(split)
        before = examples.groups[np.isin(examples.splits, earlier)]
        leaks = {
            relation: np.isin(held_out.paths, paths[name])
            for name, relation in _LEAKS.items()
        }
        shared = np.isin(held_out.groups, before) & (held_out.groups != "")
        leaks["in the same group as"] = shared
        if count := np.logical_or.reduce([*leaks.values()]).sum():
            found = [relation for relation, mask in leaks.items() if mask.any()]
            relations = " or ".join(found)
            # What looks similar need not show the same thing.
            are = "may be" if found == [_LEAKS["near_leak"]] else "are likely"
            warnings.append(
                f"Results on {split} {are} too good: {count} of {len(held_out)} "
                f"images {'is' if count == 1 else 'are'} {relations} images in "
                f"{' or '.join(earlier)}."
            )
    return warnings
