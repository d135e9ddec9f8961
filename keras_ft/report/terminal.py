"""Metrics and findings -> summaries for the terminal."""

import collections
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_ft.audit.findings import summarize_findings, warn_of_leaks
from keras_ft.data.dataset import describe_classes
from keras_ft.data.examples import SPLIT_NAMES, Examples, Finding
from keras_ft.errors import UserError
from keras_ft.evaluation.monitor import MONITORS, Monitor
from keras_ft.host.text import counted
from keras_ft.kinds.task import KINDS
from keras_ft.runs.paths import RunPaths
from keras_ft.runs.run_metrics import ExportResult, PhaseMetrics, RunMetrics
from keras_ft.runs.split_tables import LEFT_OUT

_SPLITS = (*SPLIT_NAMES, *LEFT_OUT)
# What a threshold changes.
_COMPARED = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
}


def summarize_run(metrics: RunMetrics, workdir: str) -> str:
    """Summarizes a finished run; the last line is `Test accuracy: NN.N %`."""
    report = RunPaths(workdir).report
    counts, seconds = metrics["num_examples"], metrics["seconds"]
    parts = ", ".join(f"{k} {v:.0f}" for k, v in seconds.items() if k != "total")
    left_out = ", ".join(
        f"{counts[name]} {name}" for name in ("skipped", "unused") if counts.get(name)
    )
    lines = [
        "",
        f"Data        {_describe_counts(counts)}{left_out and f' ({left_out})'}; "
        f"{_describe_classes(metrics)}",
        f"Weights     {metrics['weights_used']}{_describe_origin(metrics)}",
        *(
            f"            {attempt['weights']} not used: {attempt['error']}"
            for attempt in metrics["weights_attempts"]
        ),
        f"Best model  {describe_best(metrics)} (by {metrics['monitor']})",
        "",
        *_phase_lines(metrics["phases"], MONITORS[metrics["monitor"]]),
        *MONITORS[metrics["monitor"]].describe_gains(metrics["phases"]),
        "",
        *_result_lines(metrics),
        summarize_exports(metrics["exports"], workdir),
        *([f"Report      {report}"] if report.exists() else []),
        f"Seconds     {seconds['total']:.0f} in total: {parts}",
        *_warning_lines(metrics),
        f"Test accuracy: {100 * metrics['test']['accuracy']:.1f} %",
    ]
    return "\n".join(lines)


def _describe_counts(counts: Mapping[str, int]) -> str:
    of_test = counted(counts["test"], "test image")
    return f"{counts['train']} train, {counts['val']} val, {of_test}"


def describe_best(metrics: RunMetrics) -> str:
    """The phase and epoch of the model in words."""
    name = metrics["best_phase"]
    phase = metrics["phases"][name]
    if phase.get("solved"):
        return f"phase {name}, solved by logistic regression"
    *others, last = phase.get("averaged_epochs") or [metrics["best_epoch"]]
    if others:
        epochs = f"{', '.join(map(str, others))} and {last}"
        return f"phase {name}, mean of epochs {epochs}"
    return f"phase {name}, epoch {last}"


def _describe_origin(metrics: RunMetrics) -> str:
    origin = metrics["weights_origin"]
    return f", from {origin}" if origin not in ("", metrics["weights_used"]) else ""


def _describe_classes(metrics: RunMetrics) -> str:
    names = metrics.get("class_names")
    if names is None:
        sizes = (f"{n} ({len(t['class_names'])})" for n, t in metrics["tasks"].items())
        return f"tasks (and classes): {', '.join(sizes)}"
    shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    return f"{counted(len(names), 'class')}: {shown}"


def _result_lines(metrics: RunMetrics) -> Iterator[str]:
    if "class_names" in metrics:
        yield from _task_lines(metrics)
        return
    for name, results in metrics["tasks"].items():
        counts = results["num_examples"]
        yield ""
        yield f"Task        {name}: labelled are {_describe_counts(counts)}"
        yield from _task_lines(results)
    yield ""
    means = (f"{n} {t['test']['accuracy']:.3f}" for n, t in metrics["tasks"].items())
    yield f"Accuracy    of each task on test: {', '.join(means)}; below is their mean"


def _task_lines(results: Any) -> Iterator[str]:
    test, calibration = results["test"], results["calibration"]
    low, high = test["accuracy_interval"]
    interval = f"{low:.3f} to {high:.3f}"
    yield from _split_lines(test)
    yield ""
    yield f"Interval    95 % confidence interval of the test accuracy: {interval}"
    before = calibration["before"]["test"]
    if calibration["reason"]:
        yield f"Calibration none: {calibration['reason']}"
    else:
        yield (
            f"Calibration temperature {calibration['temperature']:.2f}, fitted on val; "
            f"on test, cross-entropy {before['loss']:.4f} -> {test['loss']:.4f}, "
            f"calibration error {before['ece']:.3f} -> {test['ece']:.3f}"
        )
    if "test_without" in results.get("threshold", {}):
        yield _describe_threshold(test, results["threshold"])


def _describe_threshold(test: Any, threshold: Any) -> str:
    changes = ", ".join(
        f"{name} {threshold['test_without'][key]:.3f} -> {threshold['test'][key]:.3f}"
        for key, name in _COMPARED.items()
    )
    if threshold["in_use"]:
        if threshold["reason"]:
            return f"Thresholds  all one half: {threshold['reason']}"
        values = [row["threshold"] for row in test["per_class"].values()]
        chosen = sum(value != 0.5 for value in values)
        return (
            f"Thresholds  of {chosen} of {len(values)} classes chosen on val, used in "
            f"all answers; on test, one half -> thresholds: {changes}"
        )
    of = f"for {threshold['class_name']}"
    if threshold["reason"]:
        return f"Threshold   none {of}: {threshold['reason']}"
    return (
        f"Threshold   {threshold['value']:.3f} {of}, chosen on val, used in no answer; "
        f"on test, without -> with it: {changes}"
    )


def summarize_exports(exports: Mapping[str, ExportResult], workdir: str) -> str:
    """Summarizes the exports of a run, a line each under a header."""
    if not exports:
        return (
            "Exports     none: --export_formats is empty, or the accuracy is below "
            "--assert_accuracy_at_least"
        )
    header = ("difference", "same", "accuracy", "MB", "ms/image", "images/s")
    lines = [f"Exports       {'':14}{''.join(f'{name:>11}' for name in header)}"]
    for name, row in exports.items():
        cells = (
            _format(row["difference"], ".0e"),
            _format(row["agreement"], ".4f"),
            _format(row["accuracy"], ".3f"),
            _format(row["bytes"] and row["bytes"] / 1e6, ".2f"),
            _format(row["milliseconds"], ".1f"),
            _format(row["images_per_second"], ".1f"),
        )
        numbers = "".join(f"{cell:>11}" for cell in cells)
        state = "deleted"
        if row["path"] is not None:
            path = Path(workdir) / row["path"]
            state = str(path) if path.exists() else "removed"
        lines.append(f"  {name:26}{numbers}  {state}")
    lines += [
        f"  No {n}: it {row['error']}" for n, row in exports.items() if row["error"]
    ]
    return "\n".join(lines)


def check_exports(exports: Mapping[str, ExportResult]) -> None:
    """Raises a UserError if a format was not written, or was deleted."""
    failed = [f"{name} {row['error']}" for name, row in exports.items() if row["error"]]
    if failed:
        raise UserError(
            "Every export must be written and pass the comparison; the others are in "
            f"the workdir. Received: {'; '.join(failed)}"
        )


def summarize_check(
    examples: Examples,
    findings: Sequence[Finding],
    obstacle: UserError | None,
    image_size: str = "",
) -> str:
    """Summarizes a check; the last line says whether training can start."""
    splits = collections.Counter(examples.splits)
    lines = [
        f"Images      {len(examples)} in {describe_classes(examples)}",
        f"Splits      {', '.join(f'{splits[n]} {n}' for n in _SPLITS if splits[n])}",
        f"Image size  {image_size}" if image_size else "",
        f"Findings    {len(findings)}, the first of each kind:" if findings else "",
        summarize_findings(findings) or "Findings    none",
        *(f"Warning: {warning}" for warning in warn_of_leaks(examples, findings)),
        "Training would not start." if obstacle else "Ready to train.",
    ]
    return "\n".join(filter(None, lines))


def summarize_evaluation(metrics: Any) -> str:
    """Summarizes what `evaluate` returns; the last line is `Accuracy: NN.N %`."""
    lines = []
    if left_out := [
        f"{metrics[key]} {reason}"
        for key, reason in (
            ("num_seen", "that the model was trained or selected on"),
            ("num_skipped", "that can't be read"),
        )
        if metrics.get(key)
    ]:
        lines += [f"Images: {metrics['num_examples']}, without {', '.join(left_out)}"]
    for name, of_task in metrics.get("tasks", {"": metrics}).items():
        lines += [f"Task {name}"] if name else []
        lines += _split_lines(of_task)
        if interval := of_task.get("accuracy_interval"):
            lines += ["95 % confidence interval: {:.3f} to {:.3f}".format(*interval)]
    lines += _warning_lines(metrics)
    return "\n".join([*lines, f"Accuracy: {100 * metrics['accuracy']:.1f} %"])


def _warning_lines(metrics: Any) -> list[str]:
    return [f"Warning: {warning}" for warning in metrics.get("warnings", ())]


def _phase_lines(phases: Mapping[str, PhaseMetrics], monitor: Monitor) -> Iterator[str]:
    title = monitor.name.replace("_", " ")
    yield f"{'':12}{title}   val acc.  test acc.  epochs  seconds  images/s"
    for name, phase in phases.items():
        value = monitor.format(monitor.of_phase(phase))
        yield (
            f"  {name:10}{value:>{len(title)}}{phase['val']['accuracy']:11.3f}"
            f"{phase['test']['accuracy']:11.3f}{phase['epochs']:8}"
            f"{phase['seconds']:9.1f}{phase['images_per_second']:10.1f}"
        )


def _split_lines(metrics: Any) -> Iterator[str]:
    """One line per class, then the averages."""
    width = max([12, *(len(name) for name in metrics["per_class"])])
    a_row: Mapping[str, Any] = next(iter(metrics["per_class"].values()), {})
    titles = [i for kind in KINDS.values() for i in kind.class_columns.items()]
    columns = {key: title for key, title in titles if key in a_row}
    more = "".join(f"{title:>11}" for title in columns.values())
    yield f"  {'class':{width}}  precision  recall     f1  images{more}"
    for name, row in metrics["per_class"].items():
        more = "".join(f"{_format(row[key]):>11}" for key in columns)
        precision, recall, f1 = (
            _format(row[key] if row["support"] else None)
            for key in ("precision", "recall", "f1")
        )
        yield (
            f"  {name:{width}}{precision:>11}{recall:>8}{f1:>7}{row['support']:8}{more}"
        )
    if "mean_average_precision" in metrics:
        yield (
            f"  mean average precision {_format(metrics['mean_average_precision'])}, "
            f"micro F1 {metrics['micro_f1']:.3f}; all labels of an image right "
            f"{metrics['accuracy']:.3f}"
        )
    yield (
        f"  macro F1 {metrics['macro_f1']:.3f}, balanced accuracy "
        f"{metrics['balanced_accuracy']:.3f}, cross-entropy {metrics['loss']:.4f}, "
        f"calibration error {metrics['ece']:.3f}"
    )


def _format(value: float | None, spec: str = ".3f") -> str:
    return "-" if value is None else format(value, spec)
