"""Results of many runs -> a ranking of the settings, and a recommendation."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Literal

import numpy as np

from keras_ft.comparison.sweep import Setting, describe
from keras_ft.evaluation.monitor import MONITORS, Monitor
from keras_ft.runs.run_metrics import RunMetrics


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of a run: metrics if it has finished, an error if it failed."""

    workdir: Path
    setting: Setting
    seed: int
    metrics: RunMetrics | None = None
    error: str = ""

    @property
    def name(self) -> str:
        """The name of its folder, unique in the comparison."""
        return self.workdir.name

    @property
    def state(self) -> Literal["finished", "failed", "to do"]:
        """Whether it has finished."""
        if self.metrics is not None:
            return "finished"
        return "failed" if self.error else "to do"


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean and range of a metric over the seeds of a setting."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Mean and range of at least one value."""
        return cls(fmean(values), min(values), max(values))


@dataclasses.dataclass(frozen=True)
class Noise:
    """How much a metric varies between runs that differ in their seed only.

    `std` is the standard deviation, pooled over the settings: the error term of a
    one-way analysis of variance, with `degrees` degrees of freedom.
    """

    std: float
    degrees: int

    def least_significant_difference(self, n: int, m: int) -> float:
        """Fisher's least significant difference between means over `n` and `m` seeds.

        Two-sided Student's t at 95 %, for one pair of settings: among many settings
        the means of some pair will differ by more through chance alone.
        """
        from scipy.special import stdtrit  # takes a while, and only compare needs it

        t = stdtrit(self.degrees, 0.975)
        return float(t * self.std * np.sqrt(1 / n + 1 / m))


@dataclasses.dataclass(frozen=True)
class Ranked:
    """A setting and the results of its finished runs.

    Attributes:
        results: Its finished runs, at least one.
        num_train: Training images, the largest number of the runs.
        val: The metric that it is ranked by.
        val_accuracy: Mean over the runs.
        seconds: Median duration of the runs.
        model_bytes: Size of model.keras.
        images_per_second: Median rate of inference, None if no run exported a model.
        within_noise: Whether it is indistinguishable from the best setting within the
            noise; None if the noise is unknown, or others train on more images.
    """

    setting: Setting
    results: tuple[Result, ...]
    num_train: int
    val: Spread
    val_accuracy: float
    seconds: float
    model_bytes: int
    images_per_second: float | None
    within_noise: bool | None = None

    @property
    def metrics(self) -> list[RunMetrics]:
        """The metrics of each run."""
        return [result.metrics for result in self.results if result.metrics]

    def test_accuracy(self) -> Spread:
        """Accuracy on test, which takes no part in the ranking."""
        return Spread.of([metrics["test"]["accuracy"] for metrics in self.metrics])


@dataclasses.dataclass(frozen=True)
class Ranking:
    """All settings that have a finished run.

    Attributes:
        monitor: The metric that they are ranked by.
        settings: Best first; those that train on fewer images come after the others.
        noise: Estimated without settings that train on fewer images; None if no other
            setting has two finished runs.
        recommended: One of the settings.
        reason: Why it is recommended, a sentence.
    """

    monitor: Monitor
    settings: tuple[Ranked, ...]
    noise: Noise | None
    recommended: Ranked
    reason: str

    @property
    def seeds(self) -> int:
        """The largest number of finished runs of a setting."""
        return max(len(one.results) for one in self.settings)

    @property
    def least_significant_difference(self) -> float | None:
        """Of two settings with `seeds` runs; None if the noise is unknown."""
        if self.noise is None:
            return None
        return self.noise.least_significant_difference(self.seeds, self.seeds)


def rank(results: Iterable[Result], monitor: Monitor) -> Ranking | None:
    """Ranks settings by a metric on val, and recommends one; None if none has finished.

    The fastest of the settings that are indistinguishable from the best within the
    noise is recommended, or the best if the noise is unknown. Settings that train on
    fewer images than others come last and are not recommended: leaving out images that
    are labelled saves no labelling, and increases the noise.
    """
    groups: dict[Setting, list[Result]] = {}
    for result in results:
        group = groups.setdefault(result.setting, [])
        if result.metrics:
            group.append(result)
    num_settings = len(groups)
    groups = {setting: group for setting, group in groups.items() if group}
    if not groups:
        return None
    ranked = [_make_ranked(one, tuple(group), monitor) for one, group in groups.items()]
    ranked.sort(key=lambda one: one.val.mean, reverse=monitor.direction == "max")
    ranked.sort(key=lambda one: -one.num_train)  # keeps the order of equal ones
    eligible = [one for one in ranked if one.num_train == ranked[0].num_train]
    fewer = ranked[len(eligible) :]
    noise = pool_noise([_values(one.metrics, monitor) for one in eligible])
    if noise:
        eligible = [
            dataclasses.replace(one, within_noise=_is_close(one, eligible[0], noise))
            for one in eligible
        ]
    candidates = [one for one in eligible if one.within_noise] or eligible[:1]
    recommended = min(candidates, key=lambda one: one.seconds)
    reason = _explain(eligible, fewer, candidates, recommended, monitor)
    if num_missing := num_settings - len(groups):
        reason += f" Without a finished run: {num_missing} of {num_settings} settings."
    return Ranking(monitor, (*eligible, *fewer), noise, recommended, reason)


def pool_noise(groups: Sequence[Sequence[float]]) -> Noise | None:
    """Estimates the noise from the values of each setting; None if it can't be seen.

    Settings whose values are all equal are left out. A seed changes nothing in a head
    that is solved on cached features, but val would be another one by chance.
    """
    groups = [group for group in groups if len(set(group)) > 1]
    degrees = sum(len(group) - 1 for group in groups)
    if not degrees:
        return None
    squares = sum(np.sum(np.subtract(group, np.mean(group)) ** 2) for group in groups)
    return Noise(float(np.sqrt(squares / degrees)), degrees)


def explain_unknown_noise(seeds: int) -> str:
    """Why `pool_noise` found no noise, with this number of runs per setting."""
    reason = "since no seed changed a result," if seeds > 1 else "with one seed"
    return f"{reason} the noise is unknown"


def _make_ranked(
    setting: Setting, results: tuple[Result, ...], monitor: Monitor
) -> Ranked:
    metrics = [result.metrics for result in results if result.metrics]
    rates = [m["inference_images_per_second"] for m in metrics]
    # A run that missed --assert_accuracy_at_least exported no model to measure.
    measured = [rate for rate in rates if rate is not None]
    return Ranked(
        setting,
        results,
        num_train=max(m["num_examples"]["train"] for m in metrics),
        val=Spread.of(_values(metrics, monitor)),
        val_accuracy=fmean(_values(metrics, MONITORS["val_accuracy"])),
        seconds=median(m["seconds"]["total"] for m in metrics),
        model_bytes=max(m["model_bytes"] for m in metrics),
        images_per_second=median(measured) if measured else None,
    )


def _values(metrics: Iterable[RunMetrics], monitor: Monitor) -> list[float]:
    return [monitor.of(m) for m in metrics]


def _is_close(one: Ranked, best: Ranked, noise: Noise) -> bool:
    least = noise.least_significant_difference(len(one.results), len(best.results))
    return one is best or abs(one.val.mean - best.val.mean) <= least


def _explain(
    eligible: Sequence[Ranked],
    fewer: Sequence[Ranked],
    candidates: Sequence[Ranked],
    recommended: Ranked,
    monitor: Monitor,
) -> str:
    value = f"Its {monitor.name}, {monitor.format(recommended.val.mean)},"
    if len(eligible) == 1:
        others = (
            "the others train on fewer images" if fewer else "no other has finished"
        )
        return f"{value} can't be compared: {others}."
    if recommended.within_noise is None:
        seeds = max(len(one.results) for one in eligible)
        return (
            f"{value} is the best, but {explain_unknown_noise(seeds)}, so every "
            "difference is uncertain."
        )
    if len(candidates) == 1:
        return (
            f"{value} is better than that of every other setting by more than the "
            "noise between seeds."
        )
    best = eligible[0]
    fastest = (
        f"it is the fastest of the {len(candidates)} settings that are "
        f"indistinguishable within the noise, {recommended.seconds:.0f} s"
    )
    if recommended is best:
        return f"{value} is the best, and {fastest}."
    return (
        f"{value} is within the noise of the best, {monitor.format(best.val.mean)} "
        f"({describe(best.setting)}), and {fastest} instead of {best.seconds:.0f} s."
    )
