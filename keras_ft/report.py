"""Metrics -> what the terminal shows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any


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
    versions = sorted(
        (Path(workdir) / "export" / "saved_model").glob("[0-9]*"),
        key=lambda version: int(version.name),
    )
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
        f"SavedModel  {versions[-1] if versions else 'none'} (largest difference from "
        f"the Keras model {metrics['export_difference']:.0e})",
        f"Report      {Path(workdir) / 'report.html'}",
        f"Seconds     {seconds['total']:.0f} in all: {parts}",
        f"Test accuracy: {100 * metrics['test']['accuracy']:.1f} %",
    ]
    return "\n".join(lines)


def _left_out(counts: dict[str, int]) -> str:
    left_out = [f"{counts[n]} {n}" for n in ("skipped", "unused") if counts.get(n)]
    return f" ({', '.join(left_out)})" if left_out else ""


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
