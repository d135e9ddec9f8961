"""The results of a comparison -> one self-contained HTML page."""

import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from keras_ft.comparison import summary, sweep
from keras_ft.comparison.by_task import conclude
from keras_ft.comparison.learning_curve import Curve
from keras_ft.comparison.ranking import Ranking, Result
from keras_ft.comparison.summary import Comparison
from keras_ft.evaluation.monitor import MONITORS, Monitor
from keras_ft.report import page, plots
from keras_ft.runs.paths import RunPaths

_MARKERS = "osD^vP*X"


def render(comparison: Comparison) -> str:
    """Renders the page; it also shows runs that failed or have not started."""
    results, ranking = comparison.results, comparison.ranking
    monitor = MONITORS[comparison.config.selection.monitor]
    return page.render(
        "compare.html",
        data=comparison.config.data.data,
        monitor=monitor.name,
        count=len(results),
        finished=sum(result.state == "finished" for result in results),
        warnings=comparison.warnings,
        runs=[_describe_run(result, monitor) for result in results],
        best=ranking and _describe_ranking(ranking),
        tasks={n: _describe_ranking(r) for n, r in comparison.by_task.items()},
        conclusions=list(conclude(comparison.by_task)) if comparison.by_task else [],
        curves=[summary.describe_curve(curve) for curve in comparison.curves],
        curve_plot=comparison.curves and plots.inline(plot_curves(comparison.curves)),
    )


def _describe_ranking(ranking: Ranking) -> dict[str, Any]:
    """The ranking and the recommended setting, as the template shows them."""
    header, *rows = summary.make_table(ranking)
    recommended, program = ranking.recommended, "python -m keras_ft"
    first = RunPaths(recommended.results[0].workdir)
    model, flagfile = f"--model={first.folder}", f"--flagfile={first.flags}"
    predict = f"{program} --mode=predict {shlex.quote(model)} --data=NEW_IMAGES"
    train = f"{program} {shlex.quote(flagfile)} --workdir=NEW_FOLDER"
    return {
        "name": sweep.describe(recommended.setting),
        "reason": ranking.reason,
        "test": summary.format_spread(recommended.test_accuracy()),
        "swept": len(recommended.setting),
        "header": header,
        "rows": rows,
        "noise": summary.describe_noise(ranking),
        "noise_known": ranking.noise is not None,
        "plot": plots.inline(plot_settings(ranking)),
        "commands": [("Use its first run", predict), ("Train it once more", train)],
    }


def _describe_run(result: Result, monitor: Monitor) -> dict[str, Any]:
    metrics = result.metrics
    cells = [result.state, "", ""]
    if metrics:
        cells = [
            monitor.format(monitor.of(metrics)),
            f"{metrics['val']['accuracy']:.3f}",
            f"{metrics['seconds']['total']:.0f}",
        ]
    return {
        "name": result.name,
        "title": sweep.describe((*result.setting, ("seed", str(result.seed)))),
        "error": result.error,
        "has_report": RunPaths(result.workdir).report.exists(),
        "cells": cells,
    }


def plot_settings(ranking: Ranking) -> Figure:
    """Plots the metric of each setting: a dot per seed, a bar at the mean."""
    settings = ranking.settings
    figure = Figure(figsize=(5.5, 1 + 0.35 * len(settings)))
    axes = figure.add_subplot()
    for row, one in enumerate(settings):
        values = [ranking.monitor.of(metrics) for metrics in one.metrics]
        color = "C1" if one is ranking.recommended else "C0"
        axes.plot(values, [row] * len(values), "o", color=color, alpha=0.6)
        axes.plot(one.val.mean, row, "|", color=color, markersize=18, markeredgewidth=3)
    least = ranking.least_significant_difference
    if least is not None:  # shades the means that are as good as the best
        best = settings[0].val.mean
        axes.axvspan(best - least, best + least, color="0.9", zorder=0)
    names = [plots.label(_values(one.setting), 40) for one in settings]
    axes.set_yticks(range(len(settings)), names)
    axes.set_ylim(len(settings) - 0.5, -0.5)
    axes.set_xlabel(ranking.monitor.name)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def plot_curves(curves: Sequence[Curve]) -> Figure:
    """Plots val accuracy by labels per class, ranges over seeds, and power laws."""
    figure = Figure(figsize=(5.5, 4))
    axes = figure.add_subplot()
    sizes = sorted({size for curve in curves for size in curve.sizes})
    for i, curve in enumerate(curves):
        color, marker = f"C{i % 10}", _MARKERS[i % len(_MARKERS)]
        spreads = [(point.mean, point.low, point.high) for point in curve.accuracies]
        means, lows, highs = zip(*spreads, strict=True)
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
