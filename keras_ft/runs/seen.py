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
from keras_ft.runs.paths import SPLITS, RunPaths
from keras_ft.runs.record import load_record

log = logging.getLogger("keras_ft")


def leave_out_seen(examples: Examples, model: Path, cache_dir: Path) -> Examples:
    """Leaves out the examples that a model was trained or selected on.

    The splits.csv of the workdir in which `model` lies, as `find_model` returns it,
    says which they are, and those of the runs that it began with. Raises a UserError if
    no example remains.
    """
    tables = _find_tables(model)
    if not tables:
        log.info(
            "There is no %s of a run with %s, so images that the model was trained on "
            "can't be told from new ones.",
            SPLITS,
            model,
        )
        return examples
    facts = load_header_facts(examples.files, cache_dir)
    seen = _Listed(tables, ("train", "val"), cache_dir).find(
        examples, examples.files, facts
    )
    names = ", ".join(map(str, tables))
    if seen.all():
        raise UserError(
            "--data must have images that the model was not trained on. Received: "
            f"only images that {names} lists under train or val"
        )
    if seen.any():
        log.info(
            "Left out %d of %d images that the model was trained or selected on (%s).",
            np.sum(seen),
            len(examples),
            names,
        )
    else:
        log.info(
            "The model was trained or selected on none of the %d images (%s).",
            len(examples),
            names,
        )
    return examples.take(~seen)


def warn_of_seen(dataset: Dataset, weights: Weights, cache_dir: Path) -> None:
    """Warns if a run is measured on images that its initial weights were trained on."""
    tables = _find_tables(Path(weights.file)) if weights.file else []
    if not tables:
        return
    held_out = np.isin(dataset.examples.splits, ("val", "test"))
    seen = _Listed(tables, ("train",), cache_dir).find(
        dataset.examples.take(held_out),
        dataset.originals[held_out],
        dataset.facts[held_out],
    )
    if seen.any():
        log.warning(
            "Results will be too good: %d of %d images in val and test are ones that "
            "--weights=%s was trained on. Give %s as --data, with rows for new images.",
            np.sum(seen),
            len(seen),
            weights.used,
            tables[0],
        )


def _find_tables(model: Path) -> list[Path]:
    """The splits.csv of a model's run, of the run whose model that began with, ..."""
    tables: list[Path] = []
    while (folder := _find_workdir(model)) and folder / SPLITS not in tables:
        tables.append(folder / SPLITS)
        try:
            weights = load_record(RunPaths(folder)).weights
        except UserError as error:
            log.warning("Which weights the model began with is not known: %s", error)
            break
        if not weights.file:
            break
        model = Path(weights.file)
        if weights.used not in NAMES and not model.exists():
            log.warning(
                "%s, which %s began with, is gone: images that it was trained on can't "
                "be told from new ones.",
                model,
                folder,
            )
    return tables


def _find_workdir(model: Path) -> Path | None:
    # Of WORKDIR/export/onnx/1/model.onnx, the workdir is the fourth parent.
    folders = (*model.absolute().parents[:4], *model.resolve().parents[:4])
    return next((folder for folder in folders if (folder / SPLITS).is_file()), None)


class _Listed:
    """The images in some splits of tables: by content, and those of sets by name."""

    def __init__(self, tables: Sequence[Path], splits: Sequence[str], cache_dir: Path):
        self._contents: set[str] = set()
        self._names: set[str] = set()
        self._places: set[str] = set()
        for table in map(str, tables):
            rows = [row for _, row in read_table(table) if row.split in splits]
            self._contents |= {row.sha256 for row in rows if row.sha256}
            self._names |= {r.path for r in rows if r.path.startswith(SET_PREFIXES)}
            self._places |= {os.path.join(row.relative_to, row.path) for row in rows}
            find_file = make_find_file(table)
            # Of an earlier version, which recorded no content.
            files = [
                find_file(row)
                for row in rows
                if not row.sha256 and row.path not in self._names
            ]
            hashes = {*list_hashes(load_header_facts(files, cache_dir))} - {""}
            self._contents |= hashes
            if files and not hashes:
                log.warning(
                    "%s, of an earlier version, has only the paths of images, and none "
                    "of them is there: images that were moved count as new.",
                    table,
                )

    def find(
        self, examples: Examples, files: np.ndarray, facts: np.ndarray
    ) -> np.ndarray:
        """Whether each of N examples, given the user's files, is listed: bool [N]."""
        seen = np.array(
            [
                path in self._names or content in self._contents
                for path, content in zip(
                    examples.paths, list_hashes(facts), strict=True
                )
            ],
            bool,
        )
        replaced = sum(os.path.abspath(file) in self._places for file in files[~seen])
        if replaced:
            log.warning(
                "%d images are where images were that the model has seen, with other "
                "content: they count as new.",
                replaced,
            )
        return seen
