"""Metrics -> what the terminal shows."""

import collections
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from keras_ft.audit.summary import summarize_findings
from keras_ft.data.examples import Examples, Finding
from keras_ft.errors import UserError


def summarize_run(metrics: dict[str, Any], workdir: str) -> str:
    """The summary of a finished run.

    Args:
        metrics: The content of metrics.json.
        workdir: The run's folder.

    Returns:
        Lines; the last one is `Test accuracy: NN.N %`.
    """
    counts = metrics["num_examples"]
    names = metrics["class_names"]
    shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    seconds = metrics["seconds"]
    parts = ", ".join(f"{k} {v:.0f}" for k, v in seconds.items() if k != "total")
    lines = [
        "",
        f"Data        {counts['train']} train, {counts['val']} val, {counts['test']} "
        f"test images{_left_out(counts)}; {len(names)} classes: {shown}",
        *_weights_lines(metrics),
        f"Best model  phase {metrics['best_phase']}, epoch {metrics['best_epoch']} "
        f"(by {metrics['monitor']})",
        "",
        "              val loss   val acc.  test acc.  epochs  seconds  images/s",
        *_phase_lines(metrics["phases"]),
        "",
        *_split_lines(metrics["test"]),
        "",
        *_certainty_lines(metrics),
        f"SavedModel  {_describe_export(workdir, metrics)}",
        f"Report      {Path(workdir) / 'report.html'}",
        f"Seconds     {seconds['total']:.0f} in all: {parts}",
        f"Test accuracy: {100 * metrics['test']['accuracy']:.1f} %",
    ]
    return "\n".join(lines)


def _certainty_lines(metrics: dict[str, Any]) -> Iterator[str]:
    """How sure the accuracy is, and how sure the model may be of itself."""
    test, calibration = metrics["test"], metrics["calibration"]
    low, high = test["accuracy_interval"]
    yield f"Certainty   95 % interval of the test accuracy: {low:.3f} to {high:.3f}"
    before = calibration["before"]["test"]
    if calibration["reason"]:
        yield f"Calibration temperature 1, for {calibration['reason']}"
    else:
        yield (
            f"Calibration temperature {calibration['temperature']:.2f} by val; on test "
            f"cross-entropy {before['loss']:.4f} before, {test['loss']:.4f} after, "
            f"error {before['ece']:.3f} before, {test['ece']:.3f} after"
        )
    if "threshold" in metrics:
        threshold = metrics["threshold"]
        yield (
            f"Threshold   {threshold['value']:.3f} for {threshold['class_name']}: best "
            "balanced accuracy on val; on test "
            f"{threshold['test']['balanced_accuracy']:.3f}"
        )


def _describe_export(folder: str, metrics: dict[str, Any]) -> str:
    difference = metrics["export_difference"]
    if difference is None:
        return "none: the accuracy is below --assert_accuracy_at_least"
    versions = (Path(folder) / "export" / "saved_model").glob("[0-9]*")
    newest = max(versions, key=lambda version: int(version.name), default="removed")
    return f"{newest} (largest difference from the Keras model {difference:.0e})"


def _left_out(counts: dict[str, int]) -> str:
    left_out = [f"{counts[n]} {n}" for n in ("skipped", "unused") if counts.get(n)]
    return f" ({', '.join(left_out)})" if left_out else ""


def summarize_check(
    examples: Examples, findings: Sequence[Finding], obstacle: UserError | None
) -> str:
    """The summary of `--mode=check`; the last line says whether training can start."""
    splits = collections.Counter(examples.splits)
    lines = [
        f"Images      {len(examples)} in {len(examples.class_names)} classes",
        f"Splits      {', '.join(f'{splits[name]} {name}' for name in splits)}",
        f"Findings    {len(findings)}, the first of each kind:" if findings else "",
        summarize_findings(findings) or "Findings    none",
        f"Training would not start: {obstacle}" if obstacle else "Ready to train.",
    ]
    return "\n".join(filter(None, lines))


def summarize_split(metrics: dict[str, Any]) -> str:
    """The summary of an evaluation; the last line is `Accuracy: NN.N %`."""
    lines = [*_split_lines(metrics), f"Accuracy: {100 * metrics['accuracy']:.1f} %"]
    return "\n".join(lines)


def _weights_lines(metrics: dict[str, Any]) -> Iterator[str]:
    yield f"Weights     {metrics['weights_used']}"
    for attempt in metrics["weights_attempts"]:
        yield f"            not {attempt['weights']}: {attempt['error']}"


def _phase_lines(phases: dict[str, Any]) -> Iterator[str]:
    for name, phase in phases.items():
        yield (
            f"  {name:10}{phase['val']['loss']:10.4f}{phase['val']['accuracy']:11.3f}"
            f"{phase['test']['accuracy']:11.3f}{phase['epochs']:8}"
            f"{phase['seconds']:9.1f}{phase['images_per_second']:10.1f}"
        )


def _split_lines(metrics: dict[str, Any]) -> Iterator[str]:
    """One line per class, then the averages."""
    width = max(12, *(len(name) for name in metrics["per_class"]))
    yield f"  {'class':{width}}  precision  recall     f1  images"
    for name, row in metrics["per_class"].items():
        yield (
            f"  {name:{width}}{row['precision']:11.3f}{row['recall']:8.3f}"
            f"{row['f1']:7.3f}{row['support']:8}"
        )
    yield (
        f"  macro F1 {metrics['macro_f1']:.3f}, balanced accuracy "
        f"{metrics['balanced_accuracy']:.3f}, cross-entropy {metrics['loss']:.4f}, "
        f"calibration error {metrics['ece']:.3f}"
    )
