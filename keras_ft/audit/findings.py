"""Findings as text."""

import collections
from collections.abc import Iterable, Sequence

from keras_ft.data.examples import Finding


def count_findings(findings: Iterable[Finding]) -> dict[str, int]:
    """Counts findings by name, the most frequent first."""
    return dict(collections.Counter(finding.name for finding in findings).most_common())


def summarize_findings(findings: Sequence[Finding]) -> str:
    """Returns one line per kind of finding: their number and the first of them."""
    first = {finding.name: finding for finding in reversed(findings)}
    return "\n".join(
        f"  {number:7}  {name:18}{first[name].path}: {first[name].detail}"
        for name, number in count_findings(findings).items()
    )
