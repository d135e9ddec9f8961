"""Loads the data set that `--data` names, checks it and assigns splits.

Every example is one encoded image file on disk, whatever the source, so no other
package depends on the source, and no data set has to fit in memory.
"""

import collections
import contextlib
import dataclasses
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_ft.config.schema import DataConfig
from keras_ft.data import sources
from keras_ft.data.connected_groups import join_near_duplicates
from keras_ft.data.examples import SPLIT_NAMES, Dataset, Examples, Finding, Strings
from keras_ft.data.facts_cache import load_header_facts
from keras_ft.data.file_facts import (
    ADVICE,
    DETAILS,
    FORMAT_NAMES,
    NEEDS_PACKAGE,
    Problem,
    find_exact_duplicates,
)
from keras_ft.data.layout import count_ignored, list_some
from keras_ft.data.missing import explain_missing
from keras_ft.data.splits import (
    assign_splits,
    check_labelled,
    find_rare_classes,
    limit_train,
)
from keras_ft.data.to_png import convert_images
from keras_ft.errors import UserError
from keras_ft.host.text import counted
from keras_ft.kinds.task import is_plain

log = logging.getLogger("keras_ft")


def load_dataset(config: DataConfig) -> Dataset:
    """Lists examples and reads their headers; converts what TensorFlow can't decode.

    Raises:
        UserError: The source does not exist or is malformed, or the cache can't be
            written.
    """
    dataset = load_headers(config)
    examples, facts = convert_images(
        dataset.examples, dataset.facts, Path(config.cache_dir)
    )
    return dataclasses.replace(dataset, examples=examples, facts=facts)


def load_headers(config: DataConfig) -> Dataset:
    """The same without the conversion, for what needs no pixels."""
    examples, findings = sources.load_examples(config)
    facts = load_header_facts(examples.files, Path(config.cache_dir))
    dataset = Dataset(examples, facts, findings, examples.files)
    return _leave_out_rare(dataset) if config.on_rare_class == "skip" else dataset


def _leave_out_rare(dataset: Dataset) -> Dataset:
    """Leaves out the classes with too few readable images for each split."""
    examples, readable = dataset.examples, dataset.facts["problem"] == 0
    alike = find_exact_duplicates(dataset.facts[readable])
    rare = find_rare_classes(examples.take(readable), alike)
    if not len(rare):
        return dataset
    counts, names = examples.count_classes(), examples.class_names
    findings = [
        Finding(names[i], "rare_class", f"left out: {counted(counts[i], 'image')}")
        for i in rare.tolist()
    ]
    kept = ~np.isin(examples.labels, rare)
    remaining = np.delete(np.arange(len(names)), rare)
    task = dataclasses.replace(
        examples.task, class_names=tuple(names[i] for i in remaining)
    )
    labels = np.searchsorted(remaining, examples.labels[kept])
    return Dataset(
        dataclasses.replace(examples.take(kept), tasks=(task,), targets=(labels,)),
        dataset.facts[kept],
        [*dataset.findings, *findings],
        dataset.originals[kept],
    )


def make_splits(
    dataset: Dataset,
    config: DataConfig,
    seed: int,
    near: Sequence[tuple[int, int]] = (),
) -> Examples:
    """Assigns splits, none of them empty; unreadable examples are `skipped`.

    Args:
        dataset: What to assign splits to.
        config: Of the run.
        seed: Of the draw.
        near: Indices of readable near duplicates, the most similar first. They are kept
            in one split if they can, see `join_near_duplicates`.

    Raises:
        UserError: See `check_trainable`.
    """
    examples = dataset.examples
    check_trainable(dataset, config)
    readable = dataset.facts["problem"] == 0
    images = examples.take(readable)
    alike = find_exact_duplicates(dataset.facts[readable])
    fractions = config.val_fraction, config.test_fraction
    draw = seed, config.on_rare_class
    assigned = None
    if near:
        pairs = (np.cumsum(readable) - 1)[near]
        joined = join_near_duplicates(images, alike, pairs, min(fractions))
        # A class that then has too few images to draw from is no reason to stop.
        with contextlib.suppress(UserError):
            assigned = assign_splits(images, joined, *fractions, *draw)
    if assigned is None:
        assigned = assign_splits(images, alike, *fractions, *draw)
    if config.examples_per_class:
        assigned = limit_train(assigned, config.examples_per_class, seed)
    splits = np.full(len(examples), "skipped", dtype=object)
    splits[readable] = assigned.splits
    return examples.with_splits(splits)


def load_splits(config: DataConfig, seed: int) -> Examples:
    """Loads a data set and assigns splits to its examples."""
    return make_splits(load_dataset(config), config, seed)


def load_test(config: DataConfig) -> Examples:
    """Lists labelled images to evaluate on: test, or all if there are no splits.

    Raises:
        UserError: The source does not exist, or has splits but no test.
    """
    examples, findings = sources.load_examples(config)
    if counts := count_ignored(findings):
        log.warning(
            "Not all of %s is read: %s. --mode=check says more.", config.data, counts
        )
    if "test" in examples.splits:
        return examples.test
    if given := sorted({*examples.splits} - {""}):
        doubts = [
            f"; {finding.path} {finding.detail}"
            for finding in findings
            if finding.name == "unlabelled_split"
        ]
        raise UserError(
            "--mode=evaluate needs a data set with a test split, or without splits. "
            f"Received: {config.data} with {' and '.join(given)}{''.join(doubts)}"
        )
    return examples


def check_trainable(dataset: Dataset, config: DataConfig) -> None:
    """Checks that a classifier can be trained on a data set.

    Raises:
        UserError: A task has fewer than two classes, a class has no readable image, a
            split has no image that is labelled for some task, or a file can't be read
            and `on_bad_image` is `error`.
    """
    for task in dataset.examples.tasks:
        if len(task.class_names) < task.kind.min_classes:
            column = f", column {task.name}," if config.label_columns else ""
            doubts = [
                f"; {finding.path} {finding.detail}"
                for finding in dataset.findings
                if finding.name == "suspicious_layout"
            ]
            raise UserError(
                f"A classifier needs images of at least {task.kind.min_classes} "
                f"classes. Received: {config.data}{column} with "
                f"{', '.join(map(repr, task.class_names))} only{''.join(doubts)}"
            )
    if config.on_rare_class != "skip":
        _check_folders(dataset)
    _check_has_train(dataset, config)
    examples, problems = dataset.examples, dataset.facts["problem"]
    reasons = [ADVICE.get(i, "") for i in np.unique(problems)]
    if config.on_bad_image == "error":
        check_readable(examples.paths[problems > 0], len(examples), reasons)
    _check_classes(dataset)
    check_labelled(examples.take(problems == 0))


def _check_folders(dataset: Dataset) -> None:
    """Raises a UserError if a class has a folder, but no image in any split."""
    known = {name for task in dataset.examples.tasks for name in task.class_names}
    empty = [
        f"{finding.path}, which {finding.detail}"
        for finding in dataset.findings
        if finding.name == "empty_folder"
        and os.path.basename(finding.path).strip() not in known
    ]
    if empty:
        raise UserError(
            f"A class folder must contain image files, {FORMAT_NAMES}. "
            f"Received: {list_some(empty)}"
        )


def _check_classes(dataset: Dataset) -> None:
    """Raises a UserError if a class has no readable image, and says why."""
    examples, problems = dataset.examples, dataset.facts["problem"]
    for task, target in zip(examples.tasks, examples.targets, strict=True):
        rows, classes = task.kind.list_classes(target)
        is_missing = task.count_classes(target[problems == 0]) == 0
        if is_missing.any():
            names = np.array(task.class_names, object)[is_missing]
            first = rows[is_missing[classes]][0]
            reason = explain_missing(examples.paths, dataset.originals) or (
                f"{dataset.originals[first]}: {DETAILS[Problem(problems[first])]}"
            )
            raise UserError(
                "--data needs readable images of each class. Received: none of "
                f"{list_some([*map(repr, names)])}; {reason}"
            )


def _check_has_train(dataset: Dataset, config: DataConfig) -> None:
    """Raises a UserError if all images are in other splits."""
    splits = {*dataset.examples.splits}
    if splits & {"", "train"}:
        return
    others = [
        f"{finding.path} {finding.detail}"
        for finding in dataset.findings
        if finding.name == "suspicious_folder"
    ]
    raise UserError(
        "--data with splits must have images in train. Received: "
        f"{config.data} with {' and '.join(sorted(splits))}"
        f"{'; ' * bool(others)}{list_some(others)}"
    )


def check_readable(bad: Strings, count: int, reasons: Sequence[str] = ()) -> None:
    """Raises a UserError if there are `bad` paths among `count` images."""
    if len(bad):
        raise UserError(
            f"Image files must be readable {FORMAT_NAMES}. Repair or remove those "
            "that are not, or pass --on_bad_image=skip; --mode=check reports the "
            f"problem of each. Received: {list_bad(bad, count)}{advise(reasons)}"
        )


def list_bad(bad: Strings, count: int) -> str:
    """Describes the images that can't be read, of `count`, by the first ten paths."""
    return f"{len(bad)} of {count} that are not: {list_some(bad)}"


def advise(reasons: Sequence[str]) -> str:
    """Returns the end of an error: which package to install, if one is a reason."""
    return f"; {NEEDS_PACKAGE}" if NEEDS_PACKAGE in reasons else ""


def describe_classes(examples: Examples) -> str:
    """Returns the number, the names and the sizes of the classes, in words."""
    described = []
    for task, target in zip(examples.tasks, examples.targets, strict=True):
        counts = zip(task.class_names, task.count_classes(target), strict=True)
        names = list_some([f"{name} ({count})" for name, count in counts])
        of_task = "" if is_plain(examples.tasks) else f" of {task.name}"
        number = counted(len(task.class_names), "class")
        described.append(f"{number}{of_task}: {names}")
    return "; ".join(described)


def log_splits(examples: Examples) -> None:
    """Logs how many images each split and each class has."""
    counts = collections.Counter(examples.splits)
    left_out = [f"{counts[s]} {s}" for s in ("skipped", "unused") if counts[s]]
    used = examples.take(np.isin(examples.splits, SPLIT_NAMES))
    log.info(
        "Data: %d train, %d val, %s%s in %s.",
        *(counts[name] for name in SPLIT_NAMES[:-1]),
        counted(counts[SPLIT_NAMES[-1]], "test image"),
        f" ({', '.join(left_out)})" if left_out else "",
        describe_classes(used),
    )
