"""The results of a run -> one self-contained HTML page."""

import collections
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.data.examples import Examples, Finding
from keras_ft.evaluation.calibration import Calibrated
from keras_ft.evaluation.monitor import MONITORS
from keras_ft.report import gallery, page, plots, task_page
from keras_ft.runs.record import RunRecord
from keras_ft.runs.run_metrics import RunMetrics
from keras_ft.tasks import is_labelled, is_plain

# Maximum number of findings.
_SHOWN = 12


def render(
    metrics: RunMetrics,
    examples: Examples,
    findings: Sequence[Finding],
    calibrated: Mapping[str, Calibrated],
    model: keras.Model,
    record: RunRecord,
    history: Sequence[Mapping[str, str]],
    flags: Sequence[str],
    preprocessing: Preprocessing,
) -> str:
    """Renders the report of a run, which begins with the test accuracy.

    Args:
        metrics: The content of metrics.json.
        examples: The examples in their splits.
        findings: The audit's findings.
        calibrated: For each task, the model's predictions.
        model: The best model, float32.
        record: The content of run.json.
        history: The rows of history.csv.
        flags: The lines of flags.cfg.
        preprocessing: How images become its input.
    """
    plain = is_plain(examples.tasks)
    tasks = [
        task_page.describe(
            metrics if plain else metrics["tasks"][name],
            metrics["best_phase"],
            examples.by_task[name],
            _take_labelled(of_task, examples),
            model,
            preprocessing,
        )
        for name, of_task in calibrated.items()
    ]
    monitor = MONITORS[metrics["monitor"]]
    return page.render(
        "report.html",
        metrics=metrics,
        monitored={
            name: monitor.format(monitor.of_phase(phase))
            for name, phase in metrics["phases"].items()
        },
        plain=plain,
        tasks=tasks,
        leaks=sum(metrics["audit"].get(name, 0) for name in ("leak", "near_leak")),
        audit=_show_findings(findings, examples),
        curves=_draw_curves(history, metrics),
        run=record,
        flags=flags,
    )


def _take_labelled(calibrated: Calibrated, examples: Examples) -> Calibrated:
    """The predictions on test for the examples that are labelled for a task."""
    target = examples.test.target_of(calibrated.task.name)
    of_test = calibrated.probabilities["test"][is_labelled(target)]
    return dataclasses.replace(calibrated, probabilities={"test": of_test})


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
