"""splits.csv and audit.csv."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from keras_ft.data.examples import SPLIT_NAMES, Examples, Finding
from keras_ft.host import files
from keras_ft.host.text import as_text


def split_rows(examples: Examples) -> Iterator[tuple[str, ...]]:
    """The rows of splits.csv: path, the label of each task, split, group."""
    for name in (*SPLIT_NAMES, "skipped", "unused"):
        part = examples.split(name)
        labels = (
            [task.kind.to_cell(task, label) for label in target]
            for task, target in zip(part.tasks, part.targets, strict=True)
        )
        yield from zip(part.paths, *labels, part.splits, part.groups, strict=True)


def write_splits(path: Path, examples: Examples) -> None:
    """Writes the table of all examples, which `--data` accepts."""
    header = ("path", *(task.name for task in examples.tasks), "split", "group")
    files.write_csv(path, [header, *split_rows(examples)])


def write_audit(path: Path, findings: Iterable[Finding]) -> None:
    """Writes findings as a CSV file."""
    rows = [(as_text(each.path), each.name, as_text(each.detail)) for each in findings]
    files.write_csv(path, [("path", "finding", "detail"), *rows])
