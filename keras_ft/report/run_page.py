"""What a run came to -> one self-contained HTML page."""

import collections
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_ft.data.examples import SPLIT_NAMES, Examples, Finding
from keras_ft.report import gallery, plots
from keras_ft.report.page import render
from keras_ft.system import files

# How many findings, errors, uncertain images and pairs of classes are shown.
_SHOWN = 12


def write_report(
    folder: Path,
    metrics: dict[str, Any],
    examples: Examples,
    findings: Sequence[Finding],
    probabilities: dict[str, np.ndarray],
    model: keras.Model,
) -> None:
    """Writes report.html, which says first what a reader wants to know first.

    Args:
        folder: The workdir, with flags.cfg, run.json and history.csv.
        metrics: The content of metrics.json.
        examples: The examples.
        findings: What the audit found.
        probabilities: float32 [N, K] of the best model by split: `val`, `test`.
        model: The best model, float32.
    """
    values = {
        "metrics": metrics,
        "verdict": _judge(metrics, examples),
        "data": _count_classes(examples),
        "audit": _show_findings(findings, examples),
        "curves": _draw_curves(folder, metrics),
        **_describe_classes(metrics["test"], examples.class_names),
        **_show_images(examples, probabilities["test"], model),
        "ranking": _draw_ranking(metrics, examples.test.labels, probabilities["test"]),
        "reliability": plots.inline(
            plots.draw_reliability(examples.test.labels, probabilities["test"])
        ),
        "run": files.read_json(folder / "run.json"),
        "flags": _read_flags(folder / "flags.cfg"),
    }
    files.write_text(folder / "report.html", render("report.html", **values))


def _judge(metrics: dict[str, Any], examples: Examples) -> dict[str, Any]:
    """The best model's test accuracy against what one would have without it."""
    test = metrics["test"]
    counts = np.bincount(examples.train.labels, minlength=len(examples.class_names))
    of_test = np.bincount(examples.test.labels, minlength=len(examples.class_names))
    # Of several that are equally frequent, what would be the best luck on test.
    majority = int(np.where(counts == counts.max(), of_test, -1).argmax())
    verdict = {
        "majority": examples.class_names[majority],
        "alternatives": {"majority": float(of_test[majority] / of_test.sum())},
        "leaks": sum(metrics["audit"].get(name, 0) for name in ("leak", "near_leak")),
    }
    if metrics["best_phase"] != "head" and "head" in metrics["phases"]:
        head = metrics["phases"]["head"]["test"]["accuracy"]
        verdict["alternatives"]["head"] = head
    verdict["outcomes"] = {
        name: _compare(test["accuracy"], test["accuracy_interval"], other)
        for name, other in verdict["alternatives"].items()
    }
    return verdict


def _compare(accuracy: float, interval: tuple[float, float], other: float) -> str:
    if accuracy <= other:
        return "worse" if accuracy < other else "equal"
    return "better" if interval[0] > other else "unclear"


def _count_classes(examples: Examples) -> list[dict[str, Any]]:
    """How many images each class has in each split."""
    counts = {
        name: np.bincount(
            getattr(examples, name).labels, minlength=len(examples.class_names)
        ).tolist()
        for name in SPLIT_NAMES
    }
    return [
        {"name": name} | {split: column[i] for split, column in counts.items()}
        for i, name in enumerate(examples.class_names)
    ]


def _show_findings(findings: Sequence[Finding], examples: Examples) -> dict[str, Any]:
    """Some findings with their images: of each kind one, then of each another."""
    by_kind = collections.defaultdict(list)
    for finding in findings:
        by_kind[finding.name].append(finding)
    turns = itertools.chain.from_iterable(itertools.zip_longest(*by_kind.values()))
    shown = list(itertools.islice(filter(None, turns), _SHOWN))
    wanted, table = {finding.path for finding in shown}, examples
    file_of = {
        path: file
        for path, file, split in zip(
            table.paths, table.files, table.splits, strict=True
        )
        if path in wanted and split != "skipped"
    }
    return {
        "counts": {name: len(of_kind) for name, of_kind in by_kind.items()},
        "shown": gallery.show_findings(sorted(shown, key=findings.index), file_of),
        "rest": len(findings) - len(shown),
    }


def _draw_curves(folder: Path, metrics: dict[str, Any]) -> dict[str, str]:
    rows = files.read_rows(folder / "history.csv")
    best = metrics["best_phase"], metrics["best_epoch"]
    return {
        name: plots.inline(plots.draw_curves(rows, name, *best))
        for name in ("loss", "accuracy")
    }


def _describe_classes(
    test: dict[str, Any], class_names: Sequence[str]
) -> dict[str, Any]:
    """How the classes fare, the worst first, and what they are confused with."""
    counts = np.array(test["confusion_matrix"])
    return {
        "confusion": {
            kind: plots.inline(
                plots.draw_confusion(counts, class_names, kind == "shares")
            )
            for kind in ("counts", "shares")
        },
        "classes": sorted(
            test["per_class"].items(),
            key=lambda item: (item[1]["support"] == 0, item[1]["f1"]),
        ),
        "pairs": list(itertools.islice(_confused_pairs(counts, class_names), _SHOWN)),
    }


def _show_images(
    examples: Examples, probabilities: np.ndarray, model: keras.Model
) -> dict[str, Any]:
    """The test images that are worth a look."""
    wrong = gallery.worst_errors(examples.test.labels, probabilities)
    errors, unsure = (
        gallery.make_cards(
            model, examples.test.take(shown), probabilities[shown], examples.class_names
        )
        for shown in (wrong[:_SHOWN], gallery.least_certain(probabilities)[:_SHOWN])
    )
    return {"num_wrong": len(wrong), "errors": errors, "unsure": unsure}


def _confused_pairs(
    counts: np.ndarray, class_names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Pairs of a label and another prediction, the most frequent first."""
    errors = counts * (1 - np.eye(len(counts), dtype=int))
    for i in np.argsort(-errors, axis=None, kind="stable"):
        label, prediction = divmod(int(i), len(counts))
        if not errors[label, prediction]:
            return
        yield {
            "label": class_names[label],
            "prediction": class_names[prediction],
            "count": int(errors[label, prediction]),
            "share": errors[label, prediction] / counts[label].sum(),
        }


def _draw_ranking(
    metrics: dict[str, Any], labels: np.ndarray, probabilities: np.ndarray
) -> dict[str, str]:
    """ROC and precision-recall of the second of two classes, if both occur."""
    if not metrics.get("threshold") or len(np.unique(labels)) != 2:
        return {}
    chosen = labels == 1, probabilities[:, 1], metrics["threshold"]["value"]
    return {
        "ROC": plots.inline(plots.draw_roc(*chosen)),
        "Precision and recall": plots.inline(plots.draw_precision_recall(*chosen)),
    }


def _read_flags(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
