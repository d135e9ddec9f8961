"""Which images a model has seen: those of its run, and of the runs it began with."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_ft.catalog.backbones import Weights
from keras_ft.catalog.preference import NAMES
from keras_ft.data.examples import SET_PREFIXES, Dataset, Examples
from keras_ft.data.facts_cache import load_header_facts
from keras_ft.data.file_facts import list_hashes
from keras_ft.data.tables import make_find_file, read_table
from keras_ft.errors import UserError
from keras_ft.host.files import compute_digest
from keras_ft.runs.paths import SPLITS, RunPaths
from keras_ft.runs.record import load_record

log = logging.getLogger("keras_ft")


def leave_out_seen(
    examples: Examples, model: Path, cache_dir: Path
) -> tuple[Examples, list[str]]:
    """Leaves out the examples that a model was trained or selected on.

    The splits.csv of the workdir in which `model` lies, as `find_model` returns it,
    says which they are, and those of the runs that it began with.

    Returns:
        The other examples, and sentences about what is not known.

    Raises:
        UserError: No example remains.
    """
    images = _SeenImages(model, ("train", "val"), cache_dir)
    if not images.tables:
        return examples, images.warnings
    seen = images.find(
        examples, examples.files, load_header_facts(examples.files, cache_dir)
    )
    tables = ", ".join(map(str, images.tables))
    if seen.all():
        raise UserError(
            "--data must have images that the model was not trained on. Received: "
            f"only images that {tables} lists under train or val"
        )
    if seen.any():
        log.info(
            "Left out %d of %d images that the model was trained or selected on (%s).",
            np.sum(seen),
            len(examples),
            tables,
        )
    else:
        log.info(
            "The model was trained or selected on none of the %d images (%s).",
            len(examples),
            tables,
        )
    return examples.take(~seen), images.warnings


def warn_of_seen(dataset: Dataset, weights: Weights, cache_dir: Path) -> list[str]:
    """Says how many images of val and test the initial weights were trained on."""
    if not weights.file or weights.used in NAMES:
        return []
    images = _SeenImages(Path(weights.file), ("train",), cache_dir)
    if not images.tables:
        return images.warnings
    held_out = np.isin(dataset.examples.splits, ("val", "test"))
    seen = images.find(
        dataset.examples.take(held_out),
        dataset.originals[held_out],
        dataset.facts[held_out],
    )
    if not seen.any():
        return images.warnings
    too_good = (
        f"Results will be too good: {np.sum(seen)} of {len(seen)} images in val and "
        f"test are ones that --weights={weights.used} was trained on. Give "
        f"{images.tables[0]} as --data, with rows for new images."
    )
    return [too_good, *images.warnings]


class _SeenImages:
    """The images that a model has seen: by content, and those of sets by name.

    Attributes:
        tables: The splits.csv of the model's run, and of those that it began with.
        warnings: Sentences about what is not known.
    """

    def __init__(self, model: Path, splits: Sequence[str], cache_dir: Path):
        self.tables: list[Path] = []
        self.warnings: list[str] = []
        self._contents: set[str] = set()
        self._names: set[str] = set()
        self._places: set[str] = set()
        next_model: Path | None = model
        while next_model:
            folder = _find_workdir(next_model)
            if folder is None:
                if next_model.suffix != ".h5":  # those may be anyone's
                    self._warn_of(f"There is no {SPLITS} of a run with {next_model}")
                break
            if folder / SPLITS in self.tables:
                break
            self.tables.append(folder / SPLITS)
            self._add(folder / SPLITS, splits, cache_dir)
            next_model = self._find_initial_model(folder)

    def find(
        self, examples: Examples, files: np.ndarray, facts: np.ndarray
    ) -> np.ndarray:
        """Whether each of N examples, given the user's files, is seen: bool [N]."""
        hashes = list_hashes(facts)
        seen = np.array(
            [
                path in self._names or content in self._contents
                for path, content in zip(examples.paths, hashes, strict=True)
            ],
            bool,
        )
        replaced = sum(os.path.abspath(file) in self._places for file in files[~seen])
        if replaced:
            self.warnings.append(
                "Images with the path of one that the model has seen, but other "
                f"content, count as new: {replaced} of {len(files)}."
            )
        return seen

    def _add(self, table: Path, splits: Sequence[str], cache_dir: Path) -> None:
        rows = [row for _, row in read_table(str(table)) if row.split in splits]
        self._contents |= {row.sha256 for row in rows if row.sha256}
        self._names |= {r.path for r in rows if r.path.startswith(SET_PREFIXES)}
        self._places |= {os.path.join(row.relative_to, row.path) for row in rows}
        # An earlier version has recorded no content.
        unknown = [r for r in rows if not r.sha256 and r.path not in self._names]
        files = list(map(make_find_file(str(table)), unknown))
        hashes = {*list_hashes(load_header_facts(files, cache_dir))} - {""}
        self._contents |= hashes
        if files and not hashes:
            self.warnings.append(
                f"{table}, of an earlier version, has only the paths of images, and "
                "none of them is there: images that were moved count as new."
            )

    def _find_initial_model(self, folder: Path) -> Path | None:
        try:
            weights = load_record(RunPaths(folder)).weights
        except UserError as error:
            self.warnings.append(
                f"With which model {folder} began is not known: {error}"
            )
            return None
        if not weights.file or weights.used in NAMES:
            return None
        state = ""
        try:
            if compute_digest(Path(weights.file), "sha256") != weights.sha256:
                state = "is another file now"
        except OSError:
            state = "is gone"
        if state:
            self._warn_of(f"{weights.file}, with which {folder} began, {state}")
            return None
        return Path(weights.file)

    def _warn_of(self, reason: str) -> None:
        self.warnings.append(
            f"{reason}: images that it was trained on can't be told from new ones."
        )


def _find_workdir(model: Path) -> Path | None:
    # Of WORKDIR/export/onnx/1/model.onnx, the workdir is the fourth parent.
    folders = (*model.absolute().parents[:4], *model.resolve().parents[:4])
    return next((folder for folder in folders if (folder / SPLITS).is_file()), None)
