"""Findings about the data -> those that a page shows, with thumbnails."""

import collections
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from keras_ft.data.examples import Examples, Finding
from keras_ft.report import gallery

# Maximum number of findings: of all kinds, or of each.
_SHOWN = 12


def select(findings: Sequence[Finding], examples: Examples) -> dict[str, Any]:
    """Selects findings of each kind in turn, with thumbnails of their images."""
    by_kind = _by_kind(findings)
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*by_kind.values()))
    shown = list(itertools.islice(filter(None, in_turn), _SHOWN))
    shown.sort(key=findings.index)
    thumbnails = _make_thumbnails(shown, examples)
    return {
        "counts": {name: len(of_kind) for name, of_kind in by_kind.items()},
        "shown": [(finding, thumbnails.get(finding.path, "")) for finding in shown],
        "rest": len(findings) - len(shown),
    }


def group(findings: Sequence[Finding], examples: Examples) -> list[dict[str, Any]]:
    """The first findings of each kind, with thumbnails of their images."""
    by_kind = _by_kind(findings)
    shown = {name: of_kind[:_SHOWN] for name, of_kind in by_kind.items()}
    thumbnails = _make_thumbnails([*itertools.chain(*shown.values())], examples)
    return [
        {
            "name": name,
            "count": len(of_kind),
            "shown": [(each, thumbnails.get(each.path, "")) for each in shown[name]],
            "rest": len(of_kind) - len(shown[name]),
        }
        for name, of_kind in by_kind.items()
    ]


def _by_kind(findings: Iterable[Finding]) -> dict[str, list[Finding]]:
    by_kind = collections.defaultdict(list)
    for finding in findings:
        by_kind[finding.name].append(finding)
    return by_kind


def _make_thumbnails(findings: Iterable[Finding], examples: Examples) -> dict[str, str]:
    """The `data:` URI of each readable image that findings are about, by its path."""
    paths = {finding.path for finding in findings}
    readable = examples.take(examples.splits != "skipped")
    return {
        path: gallery.make_thumbnail(file)
        for path, file in zip(readable.paths, readable.files, strict=True)
        if path in paths
    }
