"""A data set ready to train on: its examples, checked and in splits.

Every example is one encoded image file on disk, whatever the source, so everything
after this module reads files, and nothing holds a data set in memory.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_ft.config.schema import DataConfig
from keras_ft.data import scan, sources
from keras_ft.data.examples import SPLIT_NAMES, Dataset, Examples, make_examples
from keras_ft.data.sources import EXTENSIONS
from keras_ft.data.splits import assign_splits, limit_train
from keras_ft.errors import UserError

log = logging.getLogger("keras_ft")


def load_dataset(config: DataConfig) -> Dataset:
    """Lists a data set's examples and reads the heads of their files.

    Raises:
        UserError: The source does not exist, or is malformed.
    """
    examples, findings = sources.load_examples(config)
    facts = scan.scan(examples.files, Path(config.cache_dir).expanduser())
    return Dataset(examples, facts, findings)


def make_splits(dataset: Dataset, config: DataConfig, seed: int) -> Examples:
    """Leaves out what can't be trained on, and puts the others into splits.

    Args:
        dataset: What `load_dataset` found.
        config: `on_bad_image`, the fractions and `examples_per_class`.
        seed: Seed of the draw.

    Returns:
        Non-empty splits.

    Raises:
        UserError: The source can't be trained on, or has files that can't be read and
            `on_bad_image` is `error`.
    """
    examples = dataset.examples
    check_trainable(dataset, config)
    good = np.flatnonzero(dataset.facts["problem"] == 0)
    drawn = assign_splits(
        examples.take(good),
        scan.find_twins(examples.files[good], dataset.facts[good]),
        config.val_fraction,
        config.test_fraction,
        seed,
    )
    if config.examples_per_class:
        drawn = limit_train(drawn, config.examples_per_class, seed)
    splits = np.full(len(examples), "skipped", dtype=object)
    splits[good] = drawn.splits
    examples = examples.with_splits(splits)
    _log_splits(examples)
    return examples


def load_splits(config: DataConfig, seed: int) -> Examples:
    """`make_splits` of what `load_dataset` finds."""
    return make_splits(load_dataset(config), config, seed)


def load_images(config: DataConfig) -> Examples:
    """Lists the images that `--data` names, labelled or not: a set, folder or file.

    Raises:
        UserError: There are none.
    """
    if config.data.startswith(("builtin:", "tfds:")):
        return sources.load_examples(config)[0]
    if sources.is_table(config.data):
        return make_examples(*sources.load_table_images(config))
    files = sources.list_images(config.data)
    if not files:
        raise UserError(
            f"--data must hold image files ({', '.join(EXTENSIONS)}). "
            f"Received: {config.data} without any"
        )
    return make_examples(files)


def load_test(config: DataConfig) -> Examples:
    """Reads labelled images to evaluate on: test, or all of a set without splits.

    Raises:
        UserError: The source does not exist, or has splits but no test.
    """
    examples, _ = sources.load_examples(config)
    if "test" in examples.splits:
        return examples.test
    if "val" in examples.splits:
        raise UserError(
            "--mode=evaluate needs a data set with a test split, or with no splits. "
            f"Received: {config.data} with train and val"
        )
    return examples


def check_trainable(dataset: Dataset, config: DataConfig) -> None:
    """Raises a UserError where one can't train on a source, as far as it is known."""
    class_names = dataset.examples.class_names
    if len(class_names) < 2:
        raise UserError(
            f"A classifier needs images of at least 2 classes. Received: {config.data} "
            f"with {', '.join(map(repr, class_names))} only"
        )
    empty = [f.path for f in dataset.findings if f.name == "empty_folder"]
    if empty:
        raise UserError(
            f"A class folder must hold image files ({', '.join(EXTENSIONS)}). "
            f"Received: none in {', '.join(empty[:10])}"
        )
    if config.on_bad_image == "error":
        bad = dataset.examples.paths[dataset.facts["problem"] > 0]
        check_readable(bad, len(dataset.examples))


def check_readable(bad: Sequence[str], count: int) -> None:
    """Raises a UserError that names the images that can't be read, if there are any."""
    if len(bad):
        raise UserError(
            "Image files must be readable JPEG, PNG, BMP, GIF or WebP; mend or remove "
            "them, or give --on_bad_image=skip. --mode=check says what is wrong with "
            f"each. Received: {list_bad(bad, count)}"
        )


def list_bad(bad: Sequence[str], count: int) -> str:
    """Names the first ten images that can't be read, of `count`."""
    more = f" and {len(bad) - 10} more" if len(bad) > 10 else ""
    return f"{len(bad)} of {count} that are not: {', '.join(bad[:10])}{more}"


def _log_splits(examples: Examples) -> None:
    left_out = [
        f"{count} {name}"
        for name in ("skipped", "unused")
        if (count := np.sum(examples.splits == name))
    ]
    log.info(
        "Data: %d classes, %d train, %d val, %d test images%s.",
        len(examples.class_names),
        *(np.sum(examples.splits == name) for name in SPLIT_NAMES),
        f" ({', '.join(left_out)})" if left_out else "",
    )
