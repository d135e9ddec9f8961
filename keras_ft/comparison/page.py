"""A comparison's results -> one self-contained HTML page."""

import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from keras_ft.comparison import summary as compare_report
from keras_ft.comparison import sweep
from keras_ft.comparison.learning_curve import Curve
from keras_ft.comparison.ranking import Ranking, Result, monitored, show
from keras_ft.comparison.summary import Comparison
from keras_ft.report import page, plots

_MARKERS = "osD^vP*X"


def render(comparison: Comparison) -> str:
    """The page; what has not finished is on it too."""
    results, monitor = comparison.results, comparison.config.selection.monitor
    finished = sum(result.metrics is not None for result in results)
    return page.render(
        "compare.html",
        data=comparison.config.data.data,
        monitor=monitor,
        count=len(results),
        finished=finished,
        runs=[_describe_run(comparison, result) for result in results],
        best=comparison.ranking and _describe_ranking(comparison),
        curves=[compare_report.describe_curve(curve) for curve in comparison.curves],
        curve_plot=comparison.curves and plots.inline(plot_curves(comparison.curves)),
    )


def _describe_ranking(comparison: Comparison) -> dict[str, Any]:
    """What the page says of the ranking and of the recommended setting."""
    ranking = comparison.ranking
    header, *rows = compare_report.make_table(ranking)
    return {
        "name": sweep.describe(ranking.recommended.setting),
        "reason": ranking.reason,
        "test": compare_report.show_spread(
            compare_report.test_accuracy(ranking.recommended)
        ),
        "swept": len(ranking.recommended.setting),
        "header": header,
        "rows": rows,
        "noise": compare_report.describe_noise(ranking),
        "noise_known": ranking.noise is not None,
        "plot": plots.inline(plot_settings(ranking)),
        "commands": _commands(comparison),
    }


def _commands(comparison: Comparison) -> list[tuple[str, str]]:
    """What to do with the recommended setting, and how."""
    [first, *_] = comparison.ranking.recommended.results
    folder = compare_report.run_folder(comparison.folder, first)
    flagfile = shlex.quote(f"--flagfile={folder / 'flags.cfg'}")
    model = shlex.quote(f"--model={folder}")
    program = "python -m keras_ft"
    return [
        ("Use its first run", f"{program} --mode=predict {model} --data=NEW_IMAGES"),
        ("Train it once more", f"{program} {flagfile} --workdir=NEW_FOLDER"),
    ]


def _describe_run(comparison: Comparison, result: Result) -> dict[str, Any]:
    monitor = comparison.config.selection.monitor
    report = compare_report.run_folder(comparison.folder, result) / "report.html"
    about = {
        "name": result.name,
        "title": sweep.describe((*result.setting, ("seed", str(result.seed)))),
        "error": result.error,
        "has_report": report.exists(),
    }
    if result.metrics is None:
        return {**about, "cells": ["failed" if result.error else "to do", "", ""]}
    metrics = result.metrics
    return {
        **about,
        "cells": [
            show(monitored(metrics, monitor), monitor),
            f"{metrics['val']['accuracy']:.3f}",
            f"{metrics['seconds']['total']:.0f}",
        ],
    }


def plot_settings(ranking: Ranking) -> Figure:
    """Each setting's metric: a dot for each seed, a bar at their mean."""
    settings = ranking.settings
    figure = Figure(figsize=(5.5, 1 + 0.35 * len(settings)))
    axes = figure.add_subplot()
    for row, one in enumerate(settings):
        values = [monitored(run.metrics, ranking.monitor) for run in one.results]
        color = "C1" if one is ranking.recommended else "C0"
        axes.plot(values, [row] * len(values), "o", color=color, alpha=0.6)
        axes.plot(one.val.mean, row, "|", color=color, markersize=18, markeredgewidth=3)
    if ranking.noise:
        _shade_noise(axes, ranking)
    names = [plots.label(_values(one.setting), 40) for one in settings]
    axes.set_yticks(range(len(settings)), names)
    axes.set_ylim(len(settings) - 0.5, -0.5)
    axes.set_xlabel(ranking.monitor)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _shade_noise(axes: Any, ranking: Ranking) -> None:
    """Marks where a mean can't be told from the best."""
    best, least = ranking.settings[0], ranking.least_difference
    axes.axvspan(best.val.mean - least, best.val.mean + least, color="0.9", zorder=0)


def plot_curves(curves: Sequence[Curve]) -> Figure:
    """Val accuracy by labels per class, the range of seeds, and the power laws."""
    figure = Figure(figsize=(5.5, 4))
    axes = figure.add_subplot()
    sizes = sorted({size for curve in curves for size in curve.sizes})
    for i, curve in enumerate(curves):
        color, marker = f"C{i % 10}", _MARKERS[i % len(_MARKERS)]
        means = [point.mean for point in curve.accuracies]
        lows = [point.low for point in curve.accuracies]
        highs = [point.high for point in curve.accuracies]
        name = plots.label(_values(curve.setting) or "measured", 40)
        axes.plot(curve.sizes, means, marker, color=color, linestyle="-", label=name)
        axes.fill_between(curve.sizes, lows, highs, color=color, alpha=0.15)
        if curve.law:
            law_sizes = np.geomspace(curve.sizes[0], 2 * curve.sizes[-1])
            expected = [1 - curve.law.error(size) for size in law_sizes]
            axes.plot(law_sizes, expected, ":", color=color)
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("training images per class")
    axes.set_ylabel("val accuracy")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right")
    return figure


def _values(setting: sweep.Setting) -> str:
    return ", ".join(value for _, value in setting)
