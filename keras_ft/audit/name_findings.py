"""Findings about names: classes that look alike, and missing values as text."""

import collections
import re
import unicodedata
from collections.abc import Iterator

from keras_ft.data.examples import Examples, Finding
from keras_ft.kinds.task import name_field

# What pandas and others write for a cell without a value.
_MISSING = {"#n/a", "<na>", "n/a", "na", "nan", "nat", "none", "null"}


def report_names(examples: Examples) -> Iterator[Finding]:
    """Reports names of classes that may mean the same, and missing values as names."""
    for task, target in zip(examples.tasks, examples.targets, strict=True):
        alike = collections.defaultdict(list)
        counts = task.count_classes(target)
        for name, count in zip(task.class_names, counts, strict=True):
            alike[_simplify(name)].append(name)
            if name.casefold() in _MISSING:
                path = name_field(name, task, examples.tasks)
                yield _report_missing(path, f"class of {count} images")
        for names in filter(lambda names: len(names) > 1, alike.values()):
            path = name_field(names[0], task, examples.tasks)
            others = ", ".join(_show(name, names[0]) for name in names[1:])
            detail = f"looks like the class {others}"
            yield Finding(path, "similar_classes", detail)
    for group, size in collections.Counter(examples.groups.tolist()).items():
        if group.casefold() in _MISSING:
            yield _report_missing(group, f"group of {size} images")


def _report_missing(name: str, what: str) -> Finding:
    detail = f"a {what}, which reads like a missing value"
    return Finding(name, "missing_value", detail)


def _show(name: str, other: str) -> str:
    """Quotes a name, with escapes if the other one would be shown alike."""
    same = unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", other)
    return ascii(name) if same else repr(name)


def _simplify(name: str) -> str:
    """Returns the same text for names that a reader takes for one.

    They differ in case, in how Unicode encodes them, in characters that can't be seen,
    in blanks, hyphens and underscores between words, or in how a number is written.
    """
    name = unicodedata.normalize("NFKC", name).casefold()
    name = "".join(c for c in name if unicodedata.category(c) != "Cf")
    name = re.sub(r"(?<=\w)[\s_-]+(?=\w)", " ", name).strip()
    if re.fullmatch(r"[+-]?\d+(\.\d*)?", name):
        return f"{float(name):g}" if len(name) < 16 else name
    return name.strip(".,;:'\"_ ") or name
