"""The results of a run -> a model card in Markdown, with metadata of Hugging Face.

A model card says what a model is for, how good it is and where it fails (Mitchell et
al., arXiv 1810.03993).
"""

import collections
import hashlib
import json
import logging
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from keras_ft.catalog.backbones import TERMS
from keras_ft.config.recipe import Recipe
from keras_ft.data.tables import read_table
from keras_ft.host import files
from keras_ft.host.text import counted, visible
from keras_ft.kinds.task import parse_columns
from keras_ft.report.page import load_template
from keras_ft.report.terminal import describe_best
from keras_ft.runs.paths import RunPaths
from keras_ft.runs.record import RunRecord
from keras_ft.runs.run_metrics import RunMetrics

log = logging.getLogger("keras_ft")

# Numbers of images below which a class or a split is named as a limit.
_FEW_TRAIN, _FEW_TEST = 50, 100
_LOW_RECALL = 0.7
# Maximum number of classes that a limit names.
_SHOWN = 10
# What the user fills in, which the next card keeps.
_FILLED_IN = re.compile(
    r"^license: [^\n]*$|^<!-- yours -->$.*?^<!-- end of yours -->$", re.M | re.S
)
_SIGNATURE = re.compile(r"<!-- keras_ft ([0-9a-f]{64}) -->\n\Z")
_PUNCTUATION = re.compile(r"([\\`*_{}\[\]<>()#!|~&$@:])")


def write_model_card(
    paths: RunPaths, recipe: Recipe, metrics: RunMetrics, record: RunRecord
) -> Path:
    """Writes model_card.md, loses nothing that a user wrote, and returns the file.

    A card ends with a hash of what the program wrote. What the user is asked to fill in
    is no part of it and is kept. If anything else was changed, the new card is
    model_card-2.md, and so on.
    """
    path, number = paths.model_card, 1
    filled_in = _FILLED_IN.findall(_read(path))
    while path.exists() and not _is_unchanged(_read(path)):
        number += 1
        path = paths.model_card.with_stem(f"{paths.model_card.stem}-{number}")
    card = _render(paths, recipe, metrics, record)
    if len(filled_in) == len(_FILLED_IN.findall(card)):
        card = _FILLED_IN.sub(lambda _: filled_in.pop(0), card)
    files.write_text(path, f"{card}<!-- keras_ft {_hash(card)} -->\n")
    if number > 1:
        log.info("Wrote %s: %s was edited.", path, paths.model_card.name)
    return path


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _hash(card: str) -> str:
    return hashlib.sha256(_FILLED_IN.sub("", card).encode()).hexdigest()


def _is_unchanged(card: str) -> bool:
    found = _SIGNATURE.search(card)
    return found is not None and found[1] == _hash(card[: found.start()])


def _render(
    paths: RunPaths, recipe: Recipe, metrics: RunMetrics, record: RunRecord
) -> str:
    template = load_template(
        "model_card.md", _escape, yaml=_to_yaml, code=_to_code, f3="{:.3f}".format
    )
    tasks: Any = metrics.get("tasks") or {"": metrics}
    counts = _count_train(paths, recipe.data.label_columns)
    train_counts = dict(zip(tasks, counts, strict=True))
    return template.render(
        name=paths.folder.resolve().name,
        config=recipe,
        dataset=_name_dataset(recipe.data.data),
        metrics=metrics,
        best=describe_best(metrics),
        tasks=tasks,
        train_counts=train_counts,
        limits=map(Markup, _list_limits(metrics["audit"], tasks, train_counts)),
        run=record,
        own_weights=Path(metrics["weights_used"]).name,
        terms=TERMS,
        exports={n: e for n, e in metrics["exports"].items() if e["path"]},
    )


def _escape(text: str) -> str:
    return _PUNCTUATION.sub(r"\\\1", visible(text))


def _to_yaml(value: str) -> Markup:
    """A string in YAML, of which those of JSON are a part."""
    return Markup(json.dumps(visible(value)))


def _to_code(value: str) -> Markup:
    return Markup(f"`{visible(value).replace('`', chr(39))}`")


def _name_dataset(data: str) -> dict[str, str]:
    """Name and type of a data set; `imagefolder` is Hugging Face's word for files."""
    if data.startswith("tfds:"):
        name = data.removeprefix("tfds:")
        return {"name": name, "type": re.split("[:/]", name)[0]}
    name = data if data.startswith("builtin:") else Path(data).resolve().name
    return {"name": name, "type": "imagefolder"}


def _count_train(
    paths: RunPaths, columns: Sequence[str]
) -> list[collections.Counter[str]]:
    """The number of training images of each class, for each task."""
    tasks = parse_columns(columns)
    counts: list[collections.Counter[str]] = [collections.Counter() for _ in tasks]
    for _, row in read_table(str(paths.splits), [task.name for task in tasks]):
        if row.split == "train":
            for task, count, text in zip(tasks, counts, row.labels, strict=True):
                count.update(task.kind.split_cell(text))
    return counts


def _list_limits(
    audit: Mapping[str, int],
    tasks: Mapping[str, Any],
    train_counts: Mapping[str, Mapping[str, int]],
) -> Iterator[str]:
    """What the results and the audit say about limits, in Markdown."""
    conflicts = [f"{n} {name}" for name, n in audit.items() if "conflict" in name]
    if conflicts:
        yield f"Copies of an image have different labels ({', '.join(conflicts)})."
    for name, results in tasks.items():
        prefix = f"Task {_escape(name)}: " if name else ""
        for limit in _list_task_limits(results, train_counts[name]):
            yield prefix + limit


def _list_task_limits(results: Any, train: Mapping[str, int]) -> Iterator[str]:
    test, num_test = results["test"], results["num_examples"]["test"]
    rows = test["per_class"].items()
    low, high = test["accuracy_interval"]
    if num_test < _FEW_TEST:
        images = counted(num_test, "image")
        interval = f"{low:.3f} to {high:.3f}"
        yield f"Test has only {images}; the interval of the accuracy is {interval}."
    few = [(n, train[n]) for n in results["class_names"] if train[n] < _FEW_TRAIN]
    if few:
        few.sort(key=operator.itemgetter(1))
        yield f"Classes with fewer than {_FEW_TRAIN} training images: {_join(few)}."
    unseen = [(name, 0) for name, row in rows if not row["support"]]
    if unseen:
        yield f"Classes without test images: {_join(unseen)}."
    # Of few images a fraction would look exact.
    missed = [
        (name, f"found {round(row['recall'] * row['support'])} of {row['support']}")
        for name, row in sorted(rows, key=lambda item: item[1]["recall"])
        if row["support"] and row["recall"] < _LOW_RECALL
    ]
    if missed:
        yield f"Classes of which many images are missed: {_join(missed)}."
    reason = results["calibration"]["reason"]
    if reason:
        yield f"Probabilities are not calibrated: {_escape(reason)}."


def _join(classes: Sequence[tuple[str, Any]]) -> str:
    """Classes with a remark each, as many as are worth showing."""
    listed = [f"{_escape(name)} ({remark})" for name, remark in classes[:_SHOWN]]
    rest = len(classes) - _SHOWN
    return ", ".join(listed) + (f" and {rest} more" if rest > 0 else "")
