"""What folders stand for, by their names: classes, or splits of the data set."""

import collections
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from keras_ft.data.examples import SPLIT_ALIASES, SPLIT_NAMES, Finding, Strings
from keras_ft.errors import UserError
from keras_ft.host.text import counted

# What is added to the name of a split and says nothing: `train_images`, `TestSet`.
_ADDITIONS = (
    "set|sets|data|dataset|split|images?|imgs?|photos?|pictures?|files?|frames?"
)
# The detail of a finding.
OUTSIDE = "is not in a class folder"
_NO_CLASS = f"{_ADDITIONS}|all|unknown|unlabell?ed"
_SPLIT_WORD = re.compile(f"({'|'.join(SPLIT_ALIASES)})(?:{_ADDITIONS})?")


def find_splits(names: Sequence[str], nested: Mapping[str, Sequence[str]]) -> list[str]:
    """Finds the folders that are splits; none if the folders are classes.

    They are splits if all have the name of one, or if their names differ by the split
    alone, such as `seg_train` and `seg_test`; others beside them may be anything.

    Args:
        names: The folders of a data set.
        nested: The folders inside of those that `parse_split` recognises.

    Raises:
        UserError: Two folders are the same split, or one is the only split among other
            folders and contains folders, as splits do.
    """
    by_rest = collections.defaultdict(list)
    for name in names:
        split, rest = parse_split(name)
        if split:
            by_rest[rest].append(name)
    groups = [g for g in by_rest.values() if len({parse_split(n)[0] for n in g}) > 1]
    chosen = [name for group in groups for name in group]
    if not chosen and len(by_rest[""]) == len(names):
        chosen = by_rest[""]
    for split, count in collections.Counter(parse_split(n)[0] for n in chosen).items():
        if count > 1:
            several = ", ".join(n for n in chosen if parse_split(n)[0] == split)
            raise UserError(
                "--data must have one folder per split. Received: "
                f"{count} for {split}: {several}"
            )
    if not chosen:
        _check_no_split(names, nested)
    return chosen


def parse_split(name: str) -> tuple[str, str]:
    """Returns the split that a folder is named after, if any, and the rest of the name.

    Upper and lower case are the same, and the rest has no words like `images`.
    """
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).casefold()
    text = re.sub(r"[\W_]+|(?<=\D)(?=\d)|(?<=\d)(?=\D)", " ", text)
    words = text.replace("hold out", "holdout").split()
    found = [match for match in map(_SPLIT_WORD.fullmatch, words) if match]
    if len(found) != 1:
        return "", ""
    rest = [w for w in words if w != found[0][0] and not re.fullmatch(_ADDITIONS, w)]
    return SPLIT_ALIASES[found[0][1]], " ".join(rest)


def is_no_class(name: str) -> bool:
    """Whether a folder of this name in a split has images that are not labelled."""
    return re.fullmatch(_NO_CLASS, name.casefold()) is not None


def _check_no_split(names: Sequence[str], nested: Mapping[str, Sequence[str]]) -> None:
    for name in names:
        if nested.get(name):
            others = [other for other in names if other != name]
            raise UserError(
                "--data must contain one folder per class, or one per split, such as "
                "train, val and test, with one folder per class inside. Received: "
                f"{name}, which contains {list_some(nested[name])}, beside "
                f"{list_some(others)}. If {name} is a split, name the splits train, "
                "val and test, and move other folders elsewhere; if it is a class, "
                "list the images in a CSV file"
            )


def report_layout(
    folder: str, names: Sequence[str], inside: Mapping[str, Collection[str]]
) -> Iterator[Finding]:
    """Reports class folders that may be something else.

    Args:
        folder: What contains the class folders.
        names: The class folders.
        inside: The folders inside of each one, if there are any.

    Raises:
        UserError: The class folders contain splits.
    """
    for name in names:
        if len(names) > 1 and parse_split(name)[0] and not parse_split(name)[1]:
            detail = "has the name of a split, but is read as a class"
            yield Finding(os.path.join(folder, name), "suspicious_layout", detail)
    if not inside:
        return
    in_all = sorted(set.intersection(*(set(inside.get(n, ())) for n in names)))
    if len(names) == 1:
        path = os.path.join(folder, names[0])
        detail = (
            f"is the only class, and contains {list_some(sorted(inside[names[0]]))}; "
            f"if these are classes or splits, pass --data={path}"
        )
        yield Finding(path, "suspicious_layout", detail)
        return
    for name, folders in inside.items():
        splits = sorted(f for f in folders if parse_split(f)[0])
        if len({parse_split(f)[0] for f in splits}) > 1 or set(in_all) & set(splits):
            raise UserError(
                "Splits must be above the classes, as in "
                f"{os.path.join(folder, 'train', name)}, or in the column split of a "
                f"CSV file. Received: {os.path.join(folder, name)} with "
                f"{list_some(splits)}; if it is a data set of its own, pass "
                f"--data={os.path.join(folder, name)}"
            )
    if len(in_all) > 1:
        detail = (
            f"all class folders contain {list_some(in_all)}; if these are the classes, "
            f"and {list_some(names)} are splits, name those train, val and test"
        )
        yield Finding(folder, "suspicious_layout", detail)


def list_some(names: Strings) -> str:
    """Lists the first ten names, and says how many more there are."""
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"{', '.join(names[:10])}{more}"


def report_others(
    folder: str, names: Sequence[str], splits: Collection[str]
) -> Iterator[Finding]:
    """Reports the folders beside splits that are none."""
    known = ", ".join(SPLIT_NAMES)
    for name in names:
        if name not in splits:
            detail = f"is not named as a split ({known}); its files are not read"
            yield Finding(os.path.join(folder, name), "suspicious_folder", detail)


def count_ignored(findings: Iterable[Finding]) -> str:
    """Counts what is left out: `2 files have other extensions (.eps)`, for instance.

    Returns an empty text if there is nothing.
    """
    others: collections.Counter[str] = collections.Counter()
    num_outside = num_folders = 0
    for finding in findings:
        if finding.detail == OUTSIDE:
            num_outside += 1
        elif finding.name == "ignored_file":
            others[os.path.splitext(finding.path)[1].lower() or "none"] += 1
        num_folders += finding.name == "suspicious_folder"
    parts = []
    if number := others.total():
        kinds = [f"{count} {kind}" for kind, count in others.most_common()]
        names = list_some(kinds) if len(kinds) > 1 else next(iter(others))
        verb = "has another extension" if number == 1 else "have other extensions"
        parts.append(f"{counted(number, 'file')} {verb} ({names})")
    if num_outside:
        parts.append(f"{counted(num_outside, 'image')} outside of class folders")
    if num_folders:
        parts.append(f"{counted(num_folders, 'folder')} not read")
    return ", ".join(parts)
