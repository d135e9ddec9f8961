"""The results of a run -> one self-contained HTML page."""

import datetime
from collections.abc import Mapping

import keras

from keras_ft.data.examples import Dataset
from keras_ft.evaluation.monitor import MONITORS
from keras_ft.host import files
from keras_ft.kinds.calibration import Calibrated
from keras_ft.kinds.task import is_plain
from keras_ft.report import finding_cards, page, plots, task_page
from keras_ft.report.next_steps import Results, suggest
from keras_ft.report.terminal import describe_best
from keras_ft.report.views import show_views
from keras_ft.runs.run import Run
from keras_ft.runs.run_metrics import RunMetrics


def write_report(
    run: Run,
    dataset: Dataset,
    metrics: RunMetrics,
    calibrated: Mapping[str, Calibrated],
    model: keras.Model,
) -> None:
    """Writes report.html, which begins with the test accuracy.

    Args:
        run: A run that has trained.
        dataset: The examples in their splits, and the audit's findings.
        metrics: The content of metrics.json.
        calibrated: The model's predictions by task.
        model: The best model, float32.
    """
    examples = dataset.examples
    preprocessing = run.recipe.data.preprocessing
    flags = run.paths.flags.read_text(encoding="utf-8", errors="surrogateescape")
    history = files.read_rows(run.paths.history)
    best = None  # no epoch has the solved head
    if not metrics["phases"][metrics["best_phase"]].get("solved"):
        best = metrics["best_phase"], metrics["best_epoch"]
    monitor = MONITORS[metrics["monitor"]]
    report = page.render(
        "report.html",
        name_of_run=run.paths.folder.resolve().name,
        recipe=run.recipe,
        finished=datetime.datetime.now().astimezone(),
        metrics=metrics,
        steps=suggest(Results(run, dataset, metrics, history)),
        monitored={
            name: monitor.format(monitor.of_phase(phase))
            for name, phase in metrics["phases"].items()
        },
        best=describe_best(metrics),
        gains=monitor.describe_gains(metrics["phases"]),
        plain=is_plain(examples.tasks),
        tasks=[
            task_page.describe(metrics, examples, of_task, model, preprocessing)
            for of_task in calibrated.values()
        ],
        audit=finding_cards.select(dataset.findings, examples),
        views=show_views(run, examples.train, metrics),
        curves={
            name: plots.inline(plots.draw_curves(history, name, best))
            for name in ("loss", "accuracy")
        },
        run=run.record,
        flags=flags.splitlines(),
    )
    files.write_text(run.paths.report, report)
