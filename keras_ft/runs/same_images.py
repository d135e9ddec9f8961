"""Whether a run still has its images: by their content, wherever they are now."""

import contextlib
import dataclasses
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_ft.config.schema import DataConfig
from keras_ft.data.dataset import load_headers
from keras_ft.data.examples import SET_PREFIXES, Dataset, Row
from keras_ft.data.tables import make_find_file, read_table, reading
from keras_ft.errors import UserError
from keras_ft.host import files
from keras_ft.runs.split_tables import LEFT_OUT, list_rows

log = logging.getLogger("keras_ft")


def check_same_images(table: Path, dataset: Dataset, remedy: str) -> None:
    """Raises a UserError with a remedy if images are not those of a run's splits.csv.

    Labels and groups are compared, too, and splits that are assigned.
    """
    then, now, basis = _read_both(table, dataset)
    if changes := _describe_changes(then, now):
        raise UserError(
            f"The images have changed since the run in {table.parent} began: "
            f"{changes}{basis}. {remedy}"
        )


def check_same_data(
    table: Path, then: DataConfig, now: DataConfig, remedy: str
) -> None:
    """The same of what `--data` names now; logs a warning if that can't be read.

    If the images have only been moved, the table gets their new places.
    """
    if then.data == now.data and now.data.startswith(SET_PREFIXES):
        return
    try:
        dataset = load_headers(now)
    except UserError as error:
        log.warning(
            "Whether the images of %s have changed is not known: %s",
            table.parent,
            error,
        )
        return
    check_same_images(table, dataset, remedy)
    relocate(table, dataset)


def check_same_splits(table: Path, dataset: Dataset, remedy: str) -> None:
    """Raises a UserError if a run's examples have other splits now, or another order.

    What a run has computed so far is in the order of splits.csv, and splits are drawn
    in the order of the files.
    """
    without_splits = np.full(len(dataset.examples), "", object)
    examples = dataset.examples.with_splits(without_splits)
    check_same_images(table, dataclasses.replace(dataset, examples=examples), remedy)
    then, now, _ = _read_both(table, dataset)
    if [*map(without_place, then)] != [*map(without_place, now)]:
        raise UserError(
            f"The images of the run in {table.parent} are the same, but in another "
            "order or other splits than when it began, as when files are renamed. "
            f"{remedy}"
        )


def relocate(table: Path, dataset: Dataset) -> None:
    """Writes the present places of images to a run's splits.csv, if they were moved."""
    places = defaultdict(list)
    for row in list_rows(dataset):
        places[row.sha256].append((row.path, row.relative_to))
    with reading(str(table)) as reader:
        header, *lines = filter(None, reader)
    names = [name.strip() for name in header]
    if not {"relative_to", "sha256"} <= {*names}:  # of an earlier version
        return
    path, relative_to, sha256 = map(names.index, ("path", "relative_to", "sha256"))
    recorded = {(cells[path], cells[relative_to]) for cells in lines}
    is_moved = False
    for cells in lines:
        now = places[cells[sha256]] if cells[sha256] else []
        free = [place for place in now if place not in recorded]
        if free and not _exists(cells[path], cells[relative_to]):
            cells[path], cells[relative_to] = free[0]
            recorded.add(free[0])
            is_moved = True
    if is_moved:
        with contextlib.suppress(OSError):  # a finished run may be read-only
            files.write_csv(table, [header, *lines])


def _exists(path: str, relative_to: str) -> bool:
    is_in_set = path.startswith(SET_PREFIXES)
    return is_in_set or os.path.exists(os.path.join(relative_to, path))


def find_place(path: str, file: str) -> str:
    """One name for all paths that lead to the same image."""
    return path if path.startswith(SET_PREFIXES) else os.path.realpath(file)


def _read_both(table: Path, dataset: Dataset) -> tuple[list[Row], list[Row], str]:
    """The rows of a splits.csv, those that it would have now, and how they compare.

    The hash of a row is replaced by the image's place in a table of an earlier version,
    which has none. Files without a hash are left out: they can't be read.
    """
    find_file = make_find_file(str(table))
    rows = read_table(str(table), [task.name for task in dataset.examples.tasks])
    then = [row._replace(file=find_file(row)) for _, row in rows]
    now, basis = list(list_rows(dataset)), ""
    if not any(row.sha256 for row in then):
        then, now = (
            [row._replace(sha256=find_place(row.path, row.file)) for row in both]
            for both in (then, now)
        )
        basis = ", by their paths: an earlier version has recorded no content"
    then, now = ([row for row in both if row.sha256] for both in (then, now))
    return then, now, basis


def _describe_changes(then: Sequence[Row], now: Sequence[Row]) -> str:
    """How many images differ, by the kind of the difference; empty if none does."""
    then_hashes, now_hashes = (Counter(row.sha256 for row in r) for r in (then, now))
    new, gone = now_hashes - then_hashes, then_hashes - now_hashes
    replaced = {find_place(row.path, row.file) for row in now if row.sha256 in new}
    replaced &= {find_place(row.path, row.file) for row in then if row.sha256 in gone}
    then_labels, now_labels = (
        Counter((row.sha256, row.labels, row.group) for row in r) for r in (then, now)
    )
    splits = defaultdict(set)
    for row in then:
        splits[row.sha256].add(row.split)
    num_moved = sum(
        splits[row.sha256].isdisjoint({row.split, *LEFT_OUT})
        for row in now
        if row.split and row.sha256 in splits
    )
    counts = {
        "new": new.total() - len(replaced),
        "gone": gone.total() - len(replaced),
        "with other content": len(replaced),
        "with another label or group": (now_labels - then_labels).total() - new.total(),
        "in another split": num_moved,
    }
    return ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)


def without_place(row: Row) -> tuple:
    """What of a row must be the same wherever the image is."""
    return row.sha256, row.labels, row.split, row.group
