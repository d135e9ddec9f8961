"""Findings about the data -> those that a page shows, with thumbnails."""

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from keras_ft.data.examples import Examples, Finding
from keras_ft.report import gallery

# Maximum number of cards.
_SHOWN = 12


@dataclasses.dataclass(frozen=True)
class FindingCard:
    """Findings about the same image or folder, the same class, or two images.

    Attributes:
        pictures: The `data:` URI of each readable image that they are about, by its
            path.
    """

    findings: Sequence[Finding]
    pictures: dict[str, str]


def select(findings: Sequence[Finding], examples: Examples) -> dict[str, Any]:
    """Selects findings of each kind in turn, with thumbnails of their images."""
    by_kind = collections.defaultdict(list)
    for finding in findings:
        by_kind[finding.name].append(finding)
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*by_kind.values()))
    cards = make_cards(filter(None, in_turn), examples)
    return {
        "counts": {name: len(of_kind) for name, of_kind in by_kind.items()},
        "shown": sorted(cards, key=lambda card: findings.index(card.findings[0])),
        "rest": len(findings) - sum(len(card.findings) for card in cards),
    }


def make_cards(
    findings: Iterable[Finding], examples: Examples, most: int = _SHOWN
) -> list[FindingCard]:
    """Makes the first `most` cards; no image is in two of them."""
    shown: dict[frozenset[str], list[Finding]] = {}
    seen: set[str] = set()
    for finding in findings:
        paths = frozenset({finding.path, finding.other} - {""})
        if paths in shown:
            shown[paths].append(finding)
        elif len(shown) < most and not paths & seen:
            shown[paths] = [finding]
            seen |= paths
    readable = examples.take(examples.splits != "skipped")
    thumbnails = {
        path: gallery.make_thumbnail(file)
        for path, file in zip(readable.paths, readable.files, strict=True)
        if path in seen
    }
    return [
        FindingCard(of_card, _pick(thumbnails, of_card[0]))
        for of_card in shown.values()
    ]


def _pick(thumbnails: dict[str, str], finding: Finding) -> dict[str, str]:
    found = {p: thumbnails.get(p) for p in (finding.path, finding.other)}
    return {path: uri for path, uri in found.items() if uri}
