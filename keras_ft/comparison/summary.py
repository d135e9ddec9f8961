"""A comparison's results -> the terminal and compare.json."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from keras_ft.comparison import sweep
from keras_ft.comparison.learning_curve import Curve, find_curves
from keras_ft.comparison.ranking import (
    Ranked,
    Ranking,
    Result,
    Spread,
    rank,
    show,
    spread,
)
from keras_ft.config.config import Config


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All that there is to tell.

    Attributes:
        folder: The workdir of the comparison.
        config: Its flags.
        results: All runs.
        ranking: None if no run has finished.
        curves: Learning curves, if `examples_per_class` is swept.
    """

    folder: Path
    config: Config
    results: Sequence[Result]
    ranking: Ranking | None
    curves: Sequence[Curve]


def make_comparison(
    folder: Path, config: Config, results: Sequence[Result]
) -> Comparison:
    """Ranks what has finished."""
    ranking = rank(results, config.selection.monitor)
    curves = find_curves(ranking.settings) if ranking else []
    return Comparison(folder, config, results, ranking, curves)


# --- compare.json ------------------------------------------------------------


def to_json(comparison: Comparison) -> dict[str, Any]:
    """The content of compare.json; fractions are not per cent.

    Returns:
        `monitor`; `sweep`, the values of each flag; `noise`, `std` between seeds and
        its `degrees_of_freedom`, or null; `settings`, best first, see `_setting_json`;
        `recommended`, null if no run finished, else `flags`, `reason`, `workdir` of
        its first run and `test_accuracy`; `learning_curves`; `runs`, all of them, with
        their `error` or what they gave.
    """
    ranking = comparison.ranking
    noise = ranking and ranking.noise
    return {
        "monitor": comparison.config.selection.monitor,
        "sweep": sweep.parse_sweep(comparison.config.compare.sweep),
        "noise": noise and {"std": noise.std, "degrees_of_freedom": noise.degrees},
        "settings": [_setting_json(one) for one in ranking.settings] if ranking else [],
        "recommended": ranking and _recommended_json(comparison.folder, ranking),
        "learning_curves": [_curve_json(curve) for curve in comparison.curves],
        "runs": [_run_json(comparison.folder, run) for run in comparison.results],
    }


def _setting_json(ranked: Ranked) -> dict[str, Any]:
    """`val` is the metric that is monitored, over `seeds`; seconds are the median."""
    return {
        "flags": dict(ranked.setting),
        "num_train": ranked.num_train,
        "seeds": [result.seed for result in ranked.results],
        "val": dataclasses.asdict(ranked.val),
        "val_accuracy": ranked.val_accuracy,
        "seconds": ranked.seconds,
        "model_bytes": ranked.model_bytes,
        "inference_images_per_second": ranked.images_per_second,
        "within_noise": ranked.within_noise,
    }


def _recommended_json(folder: Path, ranking: Ranking) -> dict[str, Any]:
    recommended = ranking.recommended
    return {
        "flags": dict(recommended.setting),
        "reason": ranking.reason,
        "workdir": str(run_folder(folder, recommended.results[0])),
        "test_accuracy": dataclasses.asdict(test_accuracy(recommended)),
    }


def _curve_json(curve: Curve) -> dict[str, Any]:
    return {
        "flags": dict(curve.setting),
        "examples_per_class": list(curve.sizes),
        "val_accuracy": [dataclasses.asdict(point) for point in curve.accuracies],
        "power_law": curve.law and dataclasses.asdict(curve.law),
        "statement": curve.statement,
    }


def _run_json(folder: Path, result: Result) -> dict[str, Any]:
    """`val` has loss, accuracy and so on; test is told of the recommended one only."""
    about = {
        "name": result.name,
        "flags": dict(result.setting),
        "seed": result.seed,
        "workdir": str(run_folder(folder, result)),
        "error": result.error or None,
    }
    if result.metrics is None:
        return {**about, "state": "failed" if result.error else "to do"}
    return {
        **about,
        "state": "finished",
        "val": result.metrics["val"],
        "seconds": result.metrics["seconds"]["total"],
    }


def run_folder(folder: Path, result: Result) -> Path:
    """The workdir of a run."""
    return folder / "runs" / result.name


def test_accuracy(ranked: Ranked) -> Spread:
    """Accuracy on test over the seeds of a setting."""
    return spread([result.metrics["test"]["accuracy"] for result in ranked.results])


# --- the terminal ------------------------------------------------------------


def summarize(comparison: Comparison) -> str:
    """The summary of a comparison with a finished run; its last line recommends."""
    ranking, folder = comparison.ranking, comparison.folder
    recommended = ranking.recommended
    again = run_folder(folder, recommended.results[0])
    name = sweep.describe(recommended.setting)
    lines = [
        "",
        *format_table(make_table(ranking), len(recommended.setting)),
        "",
        *_failure_lines(comparison.results),
        *(f"More labels     {describe_curve(curve)}" for curve in comparison.curves),
        f"Noise           {describe_noise(ranking)}",
        f"Test accuracy   {show_spread(test_accuracy(recommended))} of {name}",
        f"Its first run   {again}, elsewhere again: --flagfile={again / 'flags.cfg'}",
        f"Recommended     {name}. {ranking.reason}",
    ]
    return "\n".join(lines)


def make_table(ranking: Ranking) -> list[list[str]]:
    """Rows of cells, of which the first one is the header."""
    swept = [flag for flag, _ in ranking.settings[0].setting]
    digits = ranking.monitor
    header = [*swept, ranking.monitor, "range", "val acc.", "seconds", "MB", "images/s"]
    rows = [
        [
            *(value for _, value in one.setting),
            show(one.val.mean, digits),
            f"{show(one.val.low, digits)} to {show(one.val.high, digits)}",
            f"{one.val_accuracy:.3f}",
            f"{one.seconds:.0f}",
            f"{one.model_bytes / 1e6:.4g}",
            "-" if one.images_per_second is None else f"{one.images_per_second:.4g}",
            _note(one, ranking),
        ]
        for one in ranking.settings
    ]
    return [[*header, ""], *rows]


def _note(ranked: Ranked, ranking: Ranking) -> str:
    if ranked is ranking.recommended:
        return "recommended"
    if ranked.num_train < ranking.recommended.num_train:
        return "fewer images"
    return "within noise" if ranked.within_noise else ""


def format_table(rows: Sequence[Sequence[str]], flags: int) -> Iterator[str]:
    """Flags and the note are aligned to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            f"{cell:{'>' if flags <= i < len(row) - 1 else '<'}{width}}"
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield f"  {'  '.join(cells)}".rstrip()


def _failure_lines(results: Sequence[Result]) -> Iterator[str]:
    for result in results:
        if result.error:
            yield f"Failed          {result.name}: {result.error}"


def describe_curve(curve: Curve) -> str:
    """What a learning curve tells, and of which setting."""
    of = f"{sweep.describe(curve.setting)}: " if curve.setting else ""
    return f"{of}{curve.statement}"


def describe_noise(ranking: Ranking) -> str:
    """How large a difference must be, in one sentence."""
    if ranking.noise is None:
        return "not known from one seed; give --seeds=3 or more"
    least = show(ranking.least_difference, ranking.monitor)
    return (
        f"means of {ranking.seeds} seeds that differ by less than {least} can't be "
        "told apart (95 %, each pair by itself)"
    )


def show_spread(value: Spread) -> str:
    """A fraction's mean and range."""
    return f"{value.mean:.3f} ({value.low:.3f} to {value.high:.3f})"
