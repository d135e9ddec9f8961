"""Findings about the data -> those that a page shows, with thumbnails."""

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from keras_ft.data.examples import Examples, Finding
from keras_ft.report import gallery

# Maximum number of cards: of all kinds, or of each.
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
    by_kind = _by_kind(findings)
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*by_kind.values()))
    arranged = _arrange(filter(None, in_turn))
    shown = list(itertools.chain.from_iterable(arranged))
    thumbnails = _make_thumbnails(shown, examples)
    arranged.sort(key=lambda of_card: findings.index(of_card[0]))
    return {
        "counts": {name: len(of_kind) for name, of_kind in by_kind.items()},
        "shown": [_make_card(of_card, thumbnails) for of_card in arranged],
        "rest": len(findings) - len(shown),
    }


def group(findings: Sequence[Finding], examples: Examples) -> list[dict[str, Any]]:
    """The first findings of each kind, with thumbnails of their images."""
    by_kind = _by_kind(findings)
    arranged = {name: _arrange(of_kind) for name, of_kind in by_kind.items()}
    shown = {name: list(itertools.chain(*cards)) for name, cards in arranged.items()}
    thumbnails = _make_thumbnails(itertools.chain(*shown.values()), examples)
    return [
        {
            "name": name,
            "count": len(of_kind),
            "shown": [_make_card(of_card, thumbnails) for of_card in arranged[name]],
            "rest": len(of_kind) - len(shown[name]),
        }
        for name, of_kind in by_kind.items()
    ]


def _by_kind(findings: Iterable[Finding]) -> dict[str, list[Finding]]:
    by_kind = collections.defaultdict(list)
    for finding in findings:
        by_kind[finding.name].append(finding)
    return by_kind


def _arrange(findings: Iterable[Finding]) -> list[list[Finding]]:
    """The findings of each of the first `_SHOWN` cards; no image is on two of them."""
    arranged: dict[frozenset[str], list[Finding]] = {}
    seen: set[str] = set()
    for finding in findings:
        paths = frozenset({finding.path, finding.other} - {""})
        if paths in arranged:
            arranged[paths].append(finding)
        elif len(arranged) < _SHOWN and not paths & seen:
            arranged[paths] = [finding]
            seen |= paths
    return list(arranged.values())


def _make_thumbnails(findings: Iterable[Finding], examples: Examples) -> dict[str, str]:
    """The `data:` URI of each readable image that findings are about, by its path."""
    paths = {path for finding in findings for path in (finding.path, finding.other)}
    readable = examples.take(examples.splits != "skipped")
    return {
        path: gallery.make_thumbnail(file)
        for path, file in zip(readable.paths, readable.files, strict=True)
        if path in paths
    }


def _make_card(
    findings: Sequence[Finding], thumbnails: Mapping[str, str]
) -> FindingCard:
    paths = findings[0].path, findings[0].other
    pictures = {path: thumbnails[path] for path in paths if thumbnails.get(path)}
    return FindingCard(findings, pictures)
