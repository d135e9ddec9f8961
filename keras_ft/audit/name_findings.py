"""Findings about names: those that look alike, and missing values as text."""

import collections
from collections.abc import Iterator, Mapping

from keras_ft.data.examples import Examples, Finding
from keras_ft.host.text import counted, find_alike, quote
from keras_ft.kinds.task import name_field

# What pandas and others write for a cell without a value.
_MISSING = {"#n/a", "<na>", "n/a", "na", "nan", "nat", "none", "null"}


def report_names(examples: Examples) -> Iterator[Finding]:
    """Reports classes and groups that may mean the same or be missing values."""
    for task, target in zip(examples.tasks, examples.targets, strict=True):
        counts = task.count_classes(target).tolist()
        sizes = dict(zip(task.class_names, counts, strict=True))
        for path, name, detail in _report("class", "similar_classes", sizes):
            yield Finding(name_field(path, task, examples.tasks), name, detail)
    groups = collections.Counter(filter(None, examples.groups.tolist()))
    for found in _report("group", "similar_groups", groups):
        yield Finding(*found)


def _report(
    kind: str, similar: str, sizes: Mapping[str, int]
) -> Iterator[tuple[str, str, str]]:
    """Yields path, name and detail of findings about names, given their images."""
    for name, size in sizes.items():
        if name.casefold() in _MISSING:
            images = counted(size, "image")
            detail = f"a {kind} of {images}, which reads like a missing value"
            yield name, "missing_value", detail
    for first, *others in find_alike(sizes):
        alike = ", ".join(quote(name, first) for name in others)
        yield first, similar, f"looks like the {kind} {alike}"
