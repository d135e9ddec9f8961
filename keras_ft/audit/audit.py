"""Everything that is wrong with a data set, or peculiar about it."""

import dataclasses
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_ft.audit.decoding import decode_images
from keras_ft.audit.duplicates import (
    find_near_pairs,
    report_duplicates,
    report_near_duplicates,
)
from keras_ft.audit.findings import summarize_findings
from keras_ft.audit.name_findings import report_names
from keras_ft.audit.single_files import SEEN_OTHERWISE, report_files
from keras_ft.audit.split_findings import (
    MAX_IMAGES_BEFORE_TRAINING,
    draw_splits,
    report_classes,
    report_groups,
)
from keras_ft.config.schema import DataConfig
from keras_ft.data.examples import SPLIT_NAMES, Dataset, Examples, Finding
from keras_ft.data.file_facts import find_exact_duplicates

log = logging.getLogger("keras_ft")

# Of findings about pictures, a larger share of the images is worth a warning.
_MAX_SHARE = 0.05


def find_all(
    examples: Examples, dataset: Dataset, max_images: float = math.inf
) -> list[Finding]:
    """Finds problems of single files, duplicates, leaks, conflicts and small classes.

    The examples are those of the data set, with splits. Near duplicates are not
    searched among more than `max_images`: it takes time in the square of their number.
    """
    in_use = np.flatnonzero(np.isin(examples.splits, SPLIT_NAMES))
    used, facts = examples.take(in_use), dataset.facts[in_use]
    duplicates = find_exact_duplicates(facts)
    near = [] if len(used) > max_images else find_near_pairs(used, facts, duplicates)
    return [
        *report_files(examples, dataset.facts),
        *report_duplicates(used, duplicates),
        *report_near_duplicates(used, near),
        *report_groups(used),
        *report_classes(used),
        *report_names(examples),
        *dataset.findings,
    ]


def decode_and_split(dataset: Dataset, config: DataConfig, seed: int) -> Dataset:
    """Decodes images that were never decoded, unless they are too many.

    Returns the data set with its examples in their splits.
    """
    cache_dir = Path(config.cache_dir)
    decoded = decode_images(dataset, cache_dir, MAX_IMAGES_BEFORE_TRAINING)
    return dataclasses.replace(decoded, examples=draw_splits(decoded, config, seed))


def audit_before_training(dataset: Dataset, config: DataConfig, seed: int) -> Dataset:
    """As `decode_and_split`; returns the data set with all findings."""
    dataset = decode_and_split(dataset, config, seed)
    limit = MAX_IMAGES_BEFORE_TRAINING
    findings = find_all(dataset.examples, dataset, limit)
    if np.isin(dataset.examples.splits, SPLIT_NAMES).sum() > limit:
        detail = f"near duplicates, among more than {limit:,} images; --mode=check does"
        findings.append(Finding(config.data, "not_searched", detail))
    if findings:
        summary = summarize_findings(findings)
        log.info("The audit found (audit.csv lists all):\n%s", summary)
    warn_of_pictures(findings, len(dataset.examples))
    return dataclasses.replace(dataset, findings=findings)


def warn_of_pictures(findings: Sequence[Finding], num_images: int) -> None:
    """Warns if the network sees many of the images otherwise than the user does."""
    for name in SEEN_OTHERWISE:
        found = [finding for finding in findings if finding.name == name]
        if len(found) > _MAX_SHARE * num_images:
            log.warning(
                "%d of %d images may not look to the network as they do to you: %s. "
                "The first, %s: %s.",
                *(len(found), num_images, name, found[0].path, found[0].detail),
            )
