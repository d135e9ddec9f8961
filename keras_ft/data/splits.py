"""A data set ready to train on: its examples, checked and in splits.

Every example is one encoded image file on disk, whatever the source, so everything
after this module reads files, and nothing holds a data set in memory.
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_ft.config.schema import DataConfig
from keras_ft.data import scan, sources
from keras_ft.data.sources import EXTENSIONS, SPLIT_NAMES, Examples, Finding
from keras_ft.data.splitting import assign_splits, limit_train
from keras_ft.errors import UserError

log = logging.getLogger("keras_ft")


@dataclasses.dataclass(frozen=True)
class Split:
    """Some examples of a data set.

    Attributes:
        paths: str [N], names as written in splits.csv and predictions.
        files: str [N], files that hold the encoded images.
        labels: int64 [N], indices into the class names.
    """

    paths: np.ndarray
    files: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, which: np.ndarray) -> "Split":
        """The examples at some indices, or where a mask is true."""
        return Split(self.paths[which], self.files[which], self.labels[which])


@dataclasses.dataclass(frozen=True)
class Splits:
    """A data set ready to train on.

    Attributes:
        train: What the network learns from.
        val: What the best model is chosen by.
        test: What it is measured on.
        class_names: The K classes, sorted.
        examples: All examples of the source, those left out too.
    """

    train: Split
    val: Split
    test: Split
    class_names: tuple[str, ...]
    examples: Examples


@dataclasses.dataclass(frozen=True)
class Source:
    """What a data set's source holds, before it is split.

    Attributes:
        examples: N examples, with the splits that the source gives them.
        facts: `scan.FACTS` [N], what is known of their files.
        findings: What is odd about its folders.
    """

    examples: Examples
    facts: np.ndarray
    findings: Sequence[Finding]


@dataclasses.dataclass(frozen=True)
class Images:
    """Images without labels: N names as written in predictions, and their files."""

    paths: Sequence[str]
    files: Sequence[str]


def load_source(config: DataConfig) -> Source:
    """Lists a data set's examples and reads the heads of their files.

    Raises:
        UserError: The source does not exist, or is malformed.
    """
    examples, findings = sources.load_examples(config)
    facts = scan.scan(examples.files, Path(config.cache_dir).expanduser())
    return Source(examples, facts, findings)


def make_splits(source: Source, config: DataConfig, seed: int) -> Splits:
    """Leaves out what can't be trained on, and puts the others into splits.

    Args:
        source: What `load_source` found.
        config: `on_bad_image`, the fractions and `examples_per_class`.
        seed: Seed of the draw.

    Returns:
        Non-empty splits.

    Raises:
        UserError: The source can't be trained on, or has files that can't be read and
            `on_bad_image` is `error`.
    """
    examples = source.examples
    check_source(source, config)
    good = np.flatnonzero(source.facts["problem"] == 0)
    drawn = assign_splits(
        examples.take(good),
        scan.find_twins(examples.files[good], source.facts[good]),
        config.val_fraction,
        config.test_fraction,
        seed,
    )
    if config.examples_per_class:
        drawn = limit_train(drawn, config.examples_per_class, seed)
    splits = np.full(len(examples), "skipped", dtype=object)
    splits[good] = drawn.splits
    return as_splits(examples.with_splits(splits))


def load_splits(config: DataConfig, seed: int) -> Splits:
    """`make_splits` of what `load_source` finds."""
    return make_splits(load_source(config), config, seed)


def load_images(config: DataConfig) -> Images:
    """Lists the images that `--data` names, labelled or not: a set, folder or file.

    Raises:
        UserError: There are none.
    """
    if config.data.startswith(("builtin:", "tfds:")):
        examples, _ = sources.load_examples(config)
        return Images(examples.paths, examples.files)
    if sources.is_table(config.data):
        return Images(*sources.load_table_images(config))
    files = sources.list_images(config.data)
    if not files:
        raise UserError(
            f"--data must hold image files ({', '.join(EXTENSIONS)}). "
            f"Received: {config.data} without any"
        )
    return Images(files, files)


def load_test(config: DataConfig) -> tuple[Split, tuple[str, ...]]:
    """Reads labelled images to evaluate on: test, or all of a set without splits.

    Raises:
        UserError: The source does not exist, or has splits but no test.
    """
    examples, _ = sources.load_examples(config)
    if "test" in examples.splits:
        examples = examples.take(examples.splits == "test")
    elif "val" in examples.splits:
        raise UserError(
            "--mode=evaluate needs a data set with a test split, or with no splits. "
            f"Received: {config.data} with train and val"
        )
    return (
        Split(examples.paths, examples.files, examples.labels),
        examples.class_names,
    )


def check_source(source: Source, config: DataConfig) -> None:
    """Raises a UserError where one can't train on a source, as far as it is known."""
    class_names = source.examples.class_names
    if len(class_names) < 2:
        raise UserError(
            f"A classifier needs images of at least 2 classes. Received: {config.data} "
            f"with {', '.join(map(repr, class_names))} only"
        )
    empty = [f.path for f in source.findings if f.name == "empty_folder"]
    if empty:
        raise UserError(
            f"A class folder must hold image files ({', '.join(EXTENSIONS)}). "
            f"Received: none in {', '.join(empty[:10])}"
        )
    if config.on_bad_image == "error":
        bad = source.examples.paths[source.facts["problem"] > 0]
        check_readable(bad, len(source.examples))


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


def as_splits(examples: Examples) -> Splits:
    """The splits of examples that have one."""

    def split(name: str) -> Split:
        part = examples.take(examples.splits == name)
        return Split(part.paths, part.files, part.labels)

    splits = Splits(*map(split, SPLIT_NAMES), examples.class_names, examples)
    left_out = [
        f"{count} {name}"
        for name in ("skipped", "unused")
        if (count := np.sum(examples.splits == name))
    ]
    log.info(
        "Data: %d classes, %d train, %d val, %d test images%s.",
        len(examples.class_names),
        *(len(getattr(splits, name)) for name in SPLIT_NAMES),
        f" ({', '.join(left_out)})" if left_out else "",
    )
    return splits
