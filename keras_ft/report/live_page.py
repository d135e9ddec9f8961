"""The epochs of a run that is training -> a page that reloads itself.

Its curves are plain SVG, not Matplotlib's, which would take longer than many an epoch.
"""

import datetime
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from keras_ft.evaluation.monitor import Monitor
from keras_ft.report import page

_SECONDS = 10  # until the page reloads itself
# Of a plot, in units of its SVG; the left margin has room for numbers.
_WIDTH, _HEIGHT, _LEFT, _MARGIN = 400, 220, 48, 20

_load = functools.cache(page.load_page)  # for many epochs
Rows = Sequence[Mapping[str, Any]]  # of history.csv, values as numbers or text


def render(
    name: str, data: str, phase: str, epochs: tuple[int, int], rows: Rows, best: Monitor
) -> str:
    """Renders the page.

    Args:
        name: The run's.
        data: As --data names it.
        phase: The phase that trains.
        epochs: How many of its epochs have ended, and how many there are at most.
        rows: All epochs so far, also those of other phases.
        best: The metric that selects the best epoch.
    """
    done, most = epochs
    own = [row for row in rows if row["phase"] == phase]
    values = [float(row[best.name]) for row in own]
    return _load("live.html").render(
        name_of_run=name,
        data=data,
        phase=phase,
        done=done,
        most=most,
        monitor=best.name,
        best=best.format(best.find_best(values)) if values else None,
        left=_format_time(float(own[-1]["seconds"]) * (most - done)) if own else None,
        written=datetime.datetime.now().astimezone(),
        seconds=_SECONDS,
        rows=[_to_cells(row, best) for row in reversed(rows)],
        plots=[_draw(rows, metric) for metric in ("loss", "accuracy")] if rows else [],
        size=(_WIDTH, _HEIGHT),
    )


def _format_time(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))


def _to_cells(row: Mapping[str, Any], monitor: Monitor) -> dict[str, str]:
    numbers = {
        name: f"{float(row[name]):.{digits}f}"
        for name, digits in (
            ("seconds", 1),
            ("loss", 4),
            ("val_loss", 4),
            ("accuracy", 3),
            ("val_accuracy", 3),
        )
    }
    monitored = {monitor.name: monitor.format(float(row[monitor.name]))}
    return {"phase": row["phase"], "epoch": str(row["epoch"]), **numbers, **monitored}


def _draw(rows: Rows, metric: str) -> dict[str, Any]:
    """What the template draws of a metric: two lines, and where phases begin."""
    lines = {
        split: [float(row[f"{prefix}{metric}"]) for row in rows]
        for split, prefix in (("train", ""), ("val", "val_"))
    }
    low, high = (f(map(f, lines.values())) for f in (min, max))
    phases = [row["phase"] for row in rows]
    starts = [i for i, p in enumerate(phases) if i == 0 or p != phases[i - 1]]

    def find_x(i: float) -> float:
        return _LEFT + (_WIDTH - _LEFT) * (i + 0.5) / len(rows)

    def find_y(value: float) -> float:
        share = (value - low) / (high - low) if high > low else 0.5
        return _HEIGHT - _MARGIN - (_HEIGHT - 2 * _MARGIN) * share

    def join(values: Sequence[float]) -> str:
        points = [f"{find_x(i):.1f},{find_y(v):.1f}" for i, v in enumerate(values)]
        return " ".join(points * 2 if len(points) == 1 else points)  # a dot

    return {
        "metric": metric,
        "lines": {split: join(values) for split, values in lines.items()},
        "phases": [(phases[i], find_x(i - 0.5)) for i in starts],
        "ticks": [(f"{value:.3f}", find_y(value)) for value in {low, high}],
    }
