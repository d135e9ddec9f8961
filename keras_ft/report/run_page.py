"""The results of a run -> one self-contained HTML page."""

import collections
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_ft.data.examples import SPLIT_NAMES, Examples, Finding
from keras_ft.evaluation.split_metrics import SplitMetrics
from keras_ft.report import gallery, page, plots
from keras_ft.runs.metrics import RunMetrics
from keras_ft.runs.record import RunRecord

# Maximum number of findings, images of each kind, and confused pairs of classes.
_SHOWN = 12


def render(
    metrics: RunMetrics,
    examples: Examples,
    findings: Sequence[Finding],
    probabilities: np.ndarray,
    model: keras.Model,
    record: RunRecord,
    history: Sequence[Mapping[str, str]],
    flags: Sequence[str],
    resize: str = "stretch",
) -> str:
    """Renders the report of a run, which begins with the test accuracy.

    Args:
        metrics: The content of metrics.json.
        examples: The examples in their splits.
        findings: The audit's findings.
        probabilities: float [N, K], the model's predictions on test.
        model: The best model, float32.
        record: The content of run.json.
        history: The rows of history.csv.
        flags: The lines of flags.cfg.
        resize: How images are resized. Defaults to `stretch`.
    """
    labels = examples.test.labels
    return page.render(
        "report.html",
        metrics=metrics,
        verdict=_judge(metrics, examples),
        data=_count_classes(examples),
        audit=_show_findings(findings, examples),
        curves=_draw_curves(history, metrics),
        **_describe_classes(metrics["test"], examples.class_names),
        **_show_images(examples, probabilities, model, resize),
        threshold_curves=_draw_threshold(metrics, labels, probabilities),
        reliability=plots.inline(plots.draw_reliability(labels, probabilities)),
        run=record,
        flags=flags,
    )


def _judge(metrics: RunMetrics, examples: Examples) -> dict[str, Any]:
    """Compares the test accuracy with that of the majority class and of the head."""
    test, phases = metrics["test"], metrics["phases"]
    in_train, in_test = examples.train.count_classes(), examples.test.count_classes()
    # Of several most frequent classes, the one that would be best on test.
    majority = int(np.where(in_train == in_train.max(), in_test, -1).argmax())
    verdict = {
        "leaks": sum(metrics["audit"].get(name, 0) for name in ("leak", "near_leak")),
        "class_name": examples.class_names[majority],
        "majority": _compare(test, float(in_test[majority] / in_test.sum())),
        "head": None,
    }
    if metrics["best_phase"] != "head" and "head" in phases:
        verdict["head"] = _compare(test, phases["head"]["test"]["accuracy"])
    return verdict


def _compare(test: SplitMetrics, baseline: float) -> dict[str, Any]:
    """Compares the test accuracy with a baseline's."""
    gain = test["accuracy"] - baseline
    if gain > 0:
        outcome = "better" if test["accuracy_interval"][0] > baseline else "unclear"
    else:
        outcome = "worse" if gain < 0 else "equal"
    return {"accuracy": baseline, "gain": gain, "outcome": outcome}


def _count_classes(examples: Examples) -> list[dict[str, Any]]:
    """Counts the images of each class in each split."""
    counts = {name: examples.split(name).count_classes() for name in SPLIT_NAMES}
    return [
        {"name": name} | {split: of_split[i] for split, of_split in counts.items()}
        for i, name in enumerate(examples.class_names)
    ]


def _show_findings(findings: Sequence[Finding], examples: Examples) -> dict[str, Any]:
    """Selects findings of each kind in turn, with thumbnails of their images."""
    by_kind = collections.defaultdict(list)
    for finding in findings:
        by_kind[finding.name].append(finding)
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*by_kind.values()))
    shown = list(itertools.islice(filter(None, in_turn), _SHOWN))
    shown.sort(key=findings.index)
    paths = {finding.path for finding in shown}
    readable = examples.take(examples.splits != "skipped")
    thumbnails = {
        path: gallery.make_thumbnail(file)
        for path, file in zip(readable.paths, readable.files, strict=True)
        if path in paths
    }
    return {
        "counts": {name: len(of_kind) for name, of_kind in by_kind.items()},
        "shown": [(finding, thumbnails.get(finding.path, "")) for finding in shown],
        "rest": len(findings) - len(shown),
    }


def _draw_curves(
    history: Sequence[Mapping[str, str]], metrics: RunMetrics
) -> dict[str, str]:
    best = metrics["best_phase"], metrics["best_epoch"]
    return {
        name: plots.inline(plots.draw_curves(history, name, *best))
        for name in ("loss", "accuracy")
    }


def _describe_classes(test: SplitMetrics, class_names: Sequence[str]) -> dict[str, Any]:
    """The confusion matrix, and the classes sorted by F1, those without images last."""
    counts = np.array(test["confusion_matrix"])
    return {
        "confusion": {
            kind: plots.inline(plots.draw_confusion(counts, class_names, normalize))
            for kind, normalize in (("counts", False), ("fractions", True))
        },
        "classes": sorted(
            test["per_class"].items(),
            key=lambda item: (item[1]["support"] == 0, item[1]["f1"]),
        ),
        "pairs": _list_confused_pairs(counts, class_names),
    }


def _list_confused_pairs(
    counts: np.ndarray, class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """The most frequent errors, as pairs of a label and another prediction."""
    errors = counts * (1 - np.eye(len(counts), dtype=int))
    most_frequent = np.argsort(-errors, axis=None, kind="stable")[:_SHOWN]
    pairs = np.stack(np.unravel_index(most_frequent, errors.shape), axis=1)
    return [
        {
            "label": class_names[label],
            "prediction": class_names[prediction],
            "count": errors[label, prediction],
            "fraction": errors[label, prediction] / counts[label].sum(),
        }
        for label, prediction in pairs
        if errors[label, prediction]
    ]


def _show_images(
    examples: Examples, probabilities: np.ndarray, model: keras.Model, resize: str
) -> dict[str, Any]:
    """The test images that are worth a look."""
    errors = gallery.find_errors(examples.test.labels, probabilities)
    cards = [
        gallery.make_cards(
            model,
            examples.test.take(shown),
            probabilities[shown],
            examples.class_names,
            resize,
        )
        for shown in (
            errors[:_SHOWN],
            gallery.sort_by_confidence(probabilities)[:_SHOWN],
        )
    ]
    return {"num_errors": len(errors), "errors": cards[0], "low_confidence": cards[1]}


def _draw_threshold(
    metrics: RunMetrics, labels: np.ndarray, probabilities: np.ndarray
) -> dict[str, str]:
    """ROC and precision-recall curves of the second of two classes, if both occur."""
    threshold = metrics.get("threshold")
    if not threshold or len(np.unique(labels)) != 2:
        return {}
    curve = labels == 1, probabilities[:, 1], threshold["value"]
    return {
        "ROC": plots.inline(plots.draw_roc(*curve)),
        "Precision and recall": plots.inline(plots.draw_precision_recall(*curve)),
    }
