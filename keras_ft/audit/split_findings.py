"""Draws splits, and finds groups in several of them and classes with few images."""

import collections
import dataclasses
from collections.abc import Iterator

import numpy as np

from keras_ft.audit.duplicates import find_near_links
from keras_ft.config.schema import DataConfig
from keras_ft.data.dataset import check_trainable, make_splits
from keras_ft.data.examples import SPLIT_NAMES, Dataset, Examples, Finding
from keras_ft.data.splits import are_drawn
from keras_ft.errors import UserError
from keras_ft.host.text import counted
from keras_ft.kinds.task import name_field

# Before training, more images than this are not decoded, and near duplicates are not
# searched among them.
MAX_IMAGES_BEFORE_TRAINING = 20_000
# Classes with fewer images in train are reported.
_MIN_TRAIN_IMAGES = 10


def draw_splits(dataset: Dataset, config: DataConfig, seed: int) -> Examples:
    """Assigns splits to decoded images as training does, see `make_splits`.

    Near duplicates are kept together if training has decoded all images, however many
    the cache knows by now: so the same data has the same splits.
    """
    examples = dataset.examples
    few = len(examples) <= MAX_IMAGES_BEFORE_TRAINING
    near = find_near_links(dataset.facts) if few and are_drawn(examples.splits) else ()
    return make_splits(dataset, config, seed, near)


def split_as_training_would(
    dataset: Dataset, config: DataConfig, seed: int
) -> tuple[Examples, UserError | None]:
    """Assigns splits; returns the error, too, that a training would end with.

    Images that can't be read are left out in any case, so that others are checked, too.
    """
    splits = dataset.examples.splits.copy()
    splits[splits == ""] = "train"
    splits[dataset.facts["problem"] > 0] = "skipped"
    examples = dataset.examples.with_splits(splits)  # if none can be drawn
    skipping = dataclasses.replace(config, on_bad_image="skip")
    try:
        examples = draw_splits(dataset, skipping, seed)
        check_trainable(dataset, config)
    except UserError as error:
        return examples, error
    return examples, None


def report_groups(examples: Examples) -> Iterator[Finding]:
    """Reports groups with examples in several splits."""
    first: dict[str, dict[str, int]] = collections.defaultdict(dict)
    for i in np.flatnonzero(examples.groups != "").tolist():
        first[examples.groups[i]].setdefault(examples.splits[i], i)
    for group, by_split in first.items():
        if len(by_split) > 1:
            names = [name for name in SPLIT_NAMES if name in by_split]
            detail = f"group {group} is in {' and '.join(names)}"
            yield Finding(examples.paths[by_split[names[-1]]], "group_leak", detail)


def report_classes(examples: Examples) -> Iterator[Finding]:
    """Reports classes with no image in a split, or few images in train."""
    for task, target in zip(examples.tasks, examples.targets, strict=True):
        in_split = {
            name: task.count_classes(target[examples.splits == name])
            for name in SPLIT_NAMES
            if name == "train" or name in examples.splits
        }
        for label, class_name in enumerate(task.class_names):
            name = name_field(class_name, task, examples.tasks)
            for split, counts in in_split.items():
                if not counts[label]:
                    yield Finding(name, "missing_class", f"no image in {split}")
            number = in_split["train"][label]
            if 0 < number < _MIN_TRAIN_IMAGES:
                images = counted(number, "image")
                detail = f"{images} in train, fewer than {_MIN_TRAIN_IMAGES}"
                yield Finding(name, "few_images", detail)
