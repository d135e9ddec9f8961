"""The results of a comparison -> compare.json and the summary on the terminal."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from keras_ft.comparison import sweep
from keras_ft.comparison.by_task import conclude, rank_by_task
from keras_ft.comparison.learning_curve import Curve, find_curves
from keras_ft.comparison.ranking import Ranked, Ranking, Result, Spread, rank
from keras_ft.config.settings import Config
from keras_ft.evaluation.monitor import MONITORS
from keras_ft.host.text import counted
from keras_ft.runs.paths import RunPaths


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The results of a comparison.

    Attributes:
        results: Of all runs.
        ranking: Of the settings; None if no run has finished, or `by_task` has them.
        by_task: If `label_columns` is swept, a ranking for each task.
        curves: Learning curves, if `examples_per_class` is swept.
    """

    config: Config
    results: Sequence[Result]
    ranking: Ranking | None
    by_task: Mapping[str, Ranking]
    curves: Sequence[Curve]

    def __repr__(self) -> str:
        best = dict(self.ranking.recommended.setting) if self.ranking else None
        runs = counted(len(self.results), "run")
        return f"Comparison({runs}, recommended: {best})"

    @property
    def has_finished(self) -> bool:
        """Whether any run has finished."""
        return bool(self.ranking or self.by_task)

    @property
    def warnings(self) -> list[str]:
        """Why results of runs can't be trusted, each sentence once."""
        finished = (result.metrics for result in self.results if result.metrics)
        return list(dict.fromkeys(w for m in finished for w in m["warnings"]))


def make_comparison(config: Config, results: Sequence[Result]) -> Comparison:
    """Ranks the settings by the runs that have finished."""
    monitor = MONITORS[config.selection.monitor]
    if "label_columns" in sweep.parse_sweep(config.compare.sweep):
        return Comparison(config, results, None, rank_by_task(results, monitor), [])
    ranking = rank(results, monitor)
    curves = find_curves(ranking.settings) if ranking else []
    return Comparison(config, results, ranking, {}, curves)


def to_json(comparison: Comparison) -> dict[str, Any]:
    """The content of compare.json; fractions, not per cent.

    Returns:
        `monitor`;
        `sweep`: the values of each swept flag;
        `noise`: `std` between seeds and its `degrees_of_freedom`, null if unknown;
        `settings`: best first, see `_setting_json`;
        `recommended`: `flags`, `reason`, `workdir` of the first run and
        `test_accuracy` of a setting, null if no run has finished;
        `learning_curves`: see `_curve_json`;
        `warnings`: those of the runs;
        `runs`: all of them, see `_run_json`.

        If `label_columns` is swept, `tasks` has `noise` and `settings` of each task.
    """
    ranking = comparison.ranking
    recommended = ranking and {
        "flags": dict(ranking.recommended.setting),
        "reason": ranking.reason,
        "workdir": str(ranking.recommended.results[0].workdir),
        "test_accuracy": dataclasses.asdict(ranking.recommended.test_accuracy()),
    }
    content = {
        "monitor": comparison.config.selection.monitor,
        "sweep": sweep.parse_sweep(comparison.config.compare.sweep),
        **_ranking_json(ranking),
        "recommended": recommended,
        "learning_curves": [_curve_json(curve) for curve in comparison.curves],
        "warnings": comparison.warnings,
        "runs": [_run_json(result) for result in comparison.results],
    }
    if comparison.by_task:
        content["tasks"] = {
            name: _ranking_json(of_task) for name, of_task in comparison.by_task.items()
        }
    return content


def _ranking_json(ranking: Ranking | None) -> dict[str, Any]:
    noise = ranking and ranking.noise
    return {
        "noise": noise and {"std": noise.std, "degrees_of_freedom": noise.degrees},
        "settings": [_setting_json(one) for one in ranking.settings] if ranking else [],
    }


def _setting_json(ranked: Ranked) -> dict[str, Any]:
    """`val` is the monitored metric over the `seeds`; `seconds` is the median."""
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


def _curve_json(curve: Curve) -> dict[str, Any]:
    return {
        "flags": dict(curve.setting),
        "examples_per_class": list(curve.sizes),
        "val_accuracy": [dataclasses.asdict(point) for point in curve.accuracies],
        "power_law": curve.law and dataclasses.asdict(curve.law),
        "statement": curve.statement,
    }


def _run_json(result: Result) -> dict[str, Any]:
    # Without metrics on test, which must not take part in choosing a setting.
    content: dict[str, Any] = {
        "name": result.name,
        "flags": dict(result.setting),
        "seed": result.seed,
        "workdir": str(result.workdir),
        "error": result.error or None,
        "state": result.state,
    }
    if result.metrics:
        content["val"] = result.metrics["val"]
        content["seconds"] = result.metrics["seconds"]["total"]
    return content


def summarize(comparison: Comparison) -> str:
    """The summary of a comparison; its last line is the recommendation."""
    failed = [result for result in comparison.results if result.error]
    failures = [f"Failed          {one.name}: {one.error}" for one in failed]
    failures += [f"Warning: {warning}" for warning in comparison.warnings]
    if comparison.by_task:
        lines = []
        for task_name, of_task in comparison.by_task.items():
            noise = f"\nNoise           {describe_noise(of_task)}"
            lines += [f"\nTask {task_name}\n", *_table_lines(of_task), noise]
        return "\n".join([*lines, "", *failures, *conclude(comparison.by_task)])
    ranking = comparison.ranking
    if ranking is None:
        return "\n".join(failures)
    recommended = ranking.recommended
    first = RunPaths(recommended.results[0].workdir)
    name = sweep.describe(recommended.setting)
    lines = [
        "",
        *_table_lines(ranking),
        "",
        *failures,
        *(f"More labels     {describe_curve(curve)}" for curve in comparison.curves),
        f"Noise           {describe_noise(ranking)}",
        f"Test accuracy   {format_spread(recommended.test_accuracy())} with {name}",
        f"Its first run   {first.folder}; to repeat it: --flagfile={first.flags}",
        f"Recommended     {name}. {ranking.reason}",
    ]
    return "\n".join(lines)


def make_table(ranking: Ranking) -> list[list[str]]:
    """The settings as rows of cells, after a header."""
    swept = [flag for flag, _ in ranking.settings[0].setting]
    monitor = ranking.monitor
    header = [*swept, monitor.name, "range", "val acc.", "seconds", "MB", "images/s"]
    rows = [
        [
            *(value for _, value in one.setting),
            monitor.format(one.val.mean),
            f"{monitor.format(one.val.low)} to {monitor.format(one.val.high)}",
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
    if ranked is ranking.recommended and "label_columns" not in dict(ranked.setting):
        return "recommended"
    if ranked.num_train < ranking.recommended.num_train:
        return "fewer images"
    return "within noise" if ranked.within_noise else ""


def _table_lines(ranking: Ranking) -> Iterator[str]:
    """Aligns the swept flags and the note to the left, numbers to the right."""
    rows, swept = make_table(ranking), len(ranking.recommended.setting)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            f"{cell:{'>' if swept <= i < len(row) - 1 else '<'}{width}}"
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield f"  {'  '.join(cells)}".rstrip()


def describe_curve(curve: Curve) -> str:
    """The statement of a learning curve, after its setting."""
    setting = f"{sweep.describe(curve.setting)}: " if curve.setting else ""
    return f"{setting}{curve.statement}"


def describe_noise(ranking: Ranking) -> str:
    """How large a difference must be to be significant, in one sentence."""
    least = ranking.least_significant_difference
    if least is None:
        if ranking.seeds > 1:
            return "unknown, since no seed changed a result"
        return "unknown with one finished run per setting; use --seeds=3 or more"
    return (
        f"means over {ranking.seeds} seeds that differ by less than "
        f"{ranking.monitor.format(least)} are indistinguishable (95 % confidence, for "
        "a single pair of settings)"
    )


def format_spread(value: Spread) -> str:
    """Mean and range of a fraction."""
    return f"{value.mean:.3f} ({value.low:.3f} to {value.high:.3f})"
