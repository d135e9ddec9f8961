"""Matplotlib figures of a run, and their embedding in a page."""

import base64
import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import sklearn.metrics
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from keras_ft.evaluation.multiclass_metrics import calibration_bins
from keras_ft.host.text import shorten, visible

# Of the palette of Okabe and Ito, which colour-blind people can distinguish.
_BLUE, _ORANGE, _GREY = "#0072b2", "#d55e00", "#777777"


def label(text: str, width: int = 28) -> str:
    """Makes a name fit for a figure: one line of `width` characters, no formula."""
    return shorten(visible(text), width).replace("$", r"\$")


def inline(figure: Figure) -> str:
    """Encodes a figure as a `data:` URI of an SVG image.

    Text remains text, so that the browser renders it in any script and at any size.
    """
    stream = io.BytesIO()
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "keras_ft"}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # Matplotlib only measures with its own font; the browser has others.
        warnings.filterwarnings("ignore", r"Glyph .* missing from font")
        figure.savefig(
            stream,
            format="svg",
            transparent=True,
            bbox_inches="tight",
            metadata={"Date": None},
        )
    encoded = base64.b64encode(stream.getvalue()).decode("ascii")
    return f"data:image/svg+xml;base64,{encoded}"


def draw_curves(
    rows: Sequence[Mapping[str, str]], name: str, best: tuple[str, int] | None
) -> Figure:
    """Draws `loss` or `accuracy` on train and val by epoch, over all phases.

    The loss on val is also drawn calibrated, if the history has it. The rows are those
    of history.csv, at least one. `best` are phase and epoch, from 1, of the model, None
    if no epoch has it.
    """
    figure = Figure(figsize=(5, 3.2))
    axes = figure.subplots()
    epochs = np.arange(1, len(rows) + 1)
    phases = [row["phase"] for row in rows]
    for i, phase in enumerate(phases):
        if i == 0 or phase != phases[i - 1]:
            axes.axvline(i + 0.5, color=_GREY, linestyle=":")
            above = axes.get_xaxis_transform()
            axes.text(i + 0.55, 1, phase, transform=above, color=_GREY, va="bottom")
    train = [float(row[name]) for row in rows]
    val = [float(row[f"val_{name}"]) for row in rows]
    axes.plot(epochs, train, "o--", color=_ORANGE, markersize=3, label="train")
    axes.plot(epochs, val, "o-", color=_BLUE, markersize=3, label="val")
    if all(row.get(f"val_calibrated_{name}") for row in rows):
        val = [float(row[f"val_calibrated_{name}"]) for row in rows]
        axes.plot(epochs, val, ":", color=_BLUE, label="val, calibrated")
    trained = [(row["phase"], int(row["epoch"])) for row in rows]
    if best:
        i = trained.index(best)
        axes.plot(i + 1, val[i], "D", color=_BLUE, mfc="none", ms=9, label="best")
    axes.set(xlabel="epoch, over all phases", ylabel=name, xlim=(0.5, len(rows) + 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.legend(frameon=False)
    return figure


def draw_roc(labels: np.ndarray, scores: np.ndarray, threshold: float) -> Figure:
    """Draws the ROC curve, on which a threshold is marked.

    `labels`, bool [N], have both values; `scores`, float [N], are probabilities of the
    positive class.
    """
    false_positives, true_positives, _ = sklearn.metrics.roc_curve(labels, scores)
    positive = scores >= threshold
    figure, axes = _unit_square("false positive rate", "true positive rate (recall)")
    axes.plot([0, 1], [0, 1], ":", color=_GREY, label="chance")
    axes.plot(false_positives, true_positives, color=_BLUE, label="test")
    _mark(axes, positive[~labels].mean(), positive[labels].mean(), threshold)
    return figure


def draw_precision_recall(
    labels: np.ndarray, scores: np.ndarray, threshold: float
) -> Figure:
    """Draws the precision-recall curve; for the arguments see `draw_roc`."""
    precision, recall, _ = sklearn.metrics.precision_recall_curve(labels, scores)
    positive = scores >= threshold
    figure, axes = _unit_square("recall", "precision")
    axes.axhline(labels.mean(), linestyle=":", color=_GREY, label="chance")
    axes.step(recall, precision, where="post", color=_BLUE, label="test")
    if positive.any():
        _mark(axes, positive[labels].mean(), labels[positive].mean(), threshold)
    return figure


def draw_reliability(labels: np.ndarray, probabilities: np.ndarray) -> Figure:
    """Draws a reliability diagram: accuracy and number of images by confidence.

    `labels` are int [N], `probabilities` float [N, K].
    """
    counts, confidence, accuracy = calibration_bins(labels, probabilities)
    edges = np.linspace(0, 1, len(counts) + 1)
    bars: Any = {"width": np.diff(edges), "align": "edge", "edgecolor": "white"}
    figure = Figure(figsize=(4.5, 5))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.bar(edges[:-1], accuracy, color=_BLUE, alpha=0.4, label="accuracy", **bars)
    filled = counts > 0
    upper.plot(confidence[filled], accuracy[filled], "o", color=_BLUE, label="bin mean")
    upper.plot([0, 1], [0, 1], ":", color=_GREY, label="calibrated")
    upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.05))
    upper.legend(frameon=False, loc="upper left")
    lower.bar(edges[:-1], counts, color=_GREY, **bars)
    lower.set(xlabel="confidence: probability of the prediction", ylabel="images")
    return figure


def _unit_square(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.5, 4.5))
    axes = figure.subplots()
    axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(-0.02, 1.02), ylim=(-0.02, 1.05))
    return figure, axes


def _mark(axes: Axes, x: float, y: float, threshold: float) -> None:
    name = f"threshold {threshold:.3g}"
    axes.plot(x, y, "D", color=_ORANGE, markersize=8, label=name)
    axes.legend(frameon=False, loc="lower right")
