"""Metrics of many runs -> which setting is best, and which are no worse for sure."""

import dataclasses
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import scipy.stats

from keras_ft.comparison.sweep import Setting, describe

# Differences this large would come by chance once in twenty times.
_CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run of a comparison stands.

    Attributes:
        name: Name of its folder.
        setting: The swept flags.
        seed: Its seed.
        metrics: Its metrics.json, or None if it did not finish.
        error: Why it did not finish; empty if nothing went wrong so far.
    """

    name: str
    setting: Setting
    seed: int
    metrics: dict[str, Any] | None = None
    error: str = ""


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean, lowest and highest of the values that the seeds gave."""

    mean: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Noise:
    """How far runs of one setting lie apart, whichever setting.

    Attributes:
        std: Their standard deviation, pooled over the settings: the error term of a
            one-way analysis of variance.
        degrees: Its degrees of freedom.
    """

    std: float
    degrees: int

    def least_difference(self, n: int, m: int) -> float:
        """What means over `n` and `m` seeds must differ by to be called different.

        Two-sided 95 % Student t, for one pair of settings. Among many settings some
        pair will differ by more through chance alone.
        """
        t = scipy.stats.t.ppf((1 + _CONFIDENCE) / 2, self.degrees)
        return float(t * self.std * np.sqrt(1 / n + 1 / m))


@dataclasses.dataclass(frozen=True)
class Ranked:
    """A setting and what its finished runs gave.

    Attributes:
        setting: The swept flags.
        results: Its finished runs, at least one.
        num_train: How many images they train on, at most.
        val: What it is ranked by.
        val_accuracy: Mean over the runs.
        seconds: Median over the runs.
        model_bytes: Size of model.keras.
        images_per_second: Median rate of inference, None if not known.
        within_noise: Whether it can't be told from the best; None if noise is not
            known, or others train on more images.
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


@dataclasses.dataclass(frozen=True)
class Ranking:
    """All settings that have a finished run.

    Attributes:
        monitor: The value of `--monitor` that they are ranked by.
        settings: Best first, those that train on fewer images after the others.
        noise: Of the former; None where none of them has two finished runs.
        recommended: One of them.
        reason: Why, a sentence.
    """

    monitor: str
    settings: tuple[Ranked, ...]
    noise: Noise | None
    recommended: Ranked
    reason: str

    @property
    def seeds(self) -> int:
        """How many runs a setting has, at most."""
        return max(len(one.results) for one in self.settings)

    @property
    def least_difference(self) -> float | None:
        """What settings with all seeds must differ by, None if noise is not known."""
        return self.noise and self.noise.least_difference(self.seeds, self.seeds)


def rank(results: Iterable[Result], monitor: str) -> Ranking | None:
    """Ranks settings by what `monitor` says of val, and recommends one.

    Of the settings that can't be told from the best it is the one that takes the fewest
    seconds. Where noise is not known it is the best. Settings that train on fewer
    images than others come last and are not recommended: labels that are there cost
    nothing, and the fewer there are, the larger is the noise.

    Args:
        results: All runs.
        monitor: A value of `--monitor`.

    Returns:
        The ranking, or None if no run has finished.
    """
    finished = [result for result in results if result.metrics]
    if not finished:
        return None
    ranked = [
        _make_ranked(setting, of_setting, monitor)
        for setting, of_setting in _by_setting(finished)
    ]
    sign = 1 if monitor == "val_loss" else -1
    ranked.sort(key=lambda one: (-one.num_train, sign * one.val.mean))
    count = sum(one.num_train == ranked[0].num_train for one in ranked)
    eligible, fewer = ranked[:count], ranked[count:]
    noise = pool_noise([_values(one.results, monitor) for one in eligible])
    if noise:
        eligible = [
            dataclasses.replace(one, within_noise=_is_close(one, eligible[0], noise))
            for one in eligible
        ]
    candidates = [one for one in eligible if one.within_noise] or eligible[:1]
    recommended = min(candidates, key=lambda one: one.seconds)
    reason = _explain(eligible, candidates, recommended, monitor)
    return Ranking(monitor, (*eligible, *fewer), noise, recommended, reason)


def pool_noise(groups: Sequence[Sequence[float]]) -> Noise | None:
    """The noise within groups of runs that differ in their seed only, if known."""
    degrees = sum(len(group) - 1 for group in groups)
    if not degrees:
        return None
    squares = sum(np.sum(np.subtract(group, np.mean(group)) ** 2) for group in groups)
    return Noise(float(np.sqrt(squares / degrees)), degrees)


def spread(values: Sequence[float]) -> Spread:
    """Mean and range of at least one value."""
    return Spread(statistics.fmean(values), min(values), max(values))


def monitored(metrics: dict[str, Any], monitor: str) -> float:
    """The metric that `--monitor` names, of metrics.json."""
    return metrics["val"][monitor.removeprefix("val_")]


def show(value: float, monitor: str) -> str:
    """A metric with as many digits as it deserves."""
    return f"{value:.4f}" if monitor == "val_loss" else f"{value:.3f}"


def _by_setting(
    results: Iterable[Result],
) -> Iterable[tuple[Setting, tuple[Result, ...]]]:
    """Results grouped by setting, both in the order in which they came."""
    groups = {}
    for result in results:
        groups.setdefault(result.setting, []).append(result)
    return ((setting, tuple(group)) for setting, group in groups.items())


def _make_ranked(setting: Setting, results: tuple[Result, ...], monitor: str) -> Ranked:
    metrics = [result.metrics for result in results]
    # A run whose accuracy was asserted may have exported nothing.
    rates = [m["inference_images_per_second"] for m in metrics]
    rates = [rate for rate in rates if rate is not None]
    return Ranked(
        setting,
        results,
        max(m["num_examples"]["train"] for m in metrics),
        spread(_values(results, monitor)),
        statistics.fmean(_values(results, "val_accuracy")),
        statistics.median(m["seconds"]["total"] for m in metrics),
        max(m["model_bytes"] for m in metrics),
        statistics.median(rates) if rates else None,
    )


def _values(results: Iterable[Result], monitor: str) -> list[float]:
    return [monitored(result.metrics, monitor) for result in results]


def _is_close(one: Ranked, best: Ranked, noise: Noise) -> bool:
    least = noise.least_difference(len(one.results), len(best.results))
    return one is best or abs(one.val.mean - best.val.mean) <= least


def _explain(
    eligible: Sequence[Ranked],
    candidates: Sequence[Ranked],
    recommended: Ranked,
    monitor: str,
) -> str:
    """Why a setting is recommended, in one sentence."""
    value = f"Its {monitor}, {show(recommended.val.mean, monitor)},"
    seconds = f"{recommended.seconds:.0f} s"
    if len(eligible) == 1:
        return f"{value} has none to compare with on as many images."
    if recommended.within_noise is None:
        return (
            f"{value} is the best, but one seed does not tell the noise, so every "
            "difference is uncertain."
        )
    if len(candidates) == 1:
        return f"{value} is better than all others' by more than the noise of seeds."
    best = eligible[0]
    of = f"of the {len(candidates)} settings that noise does not tell apart"
    if recommended is best:
        return f"{value} is the best, and {of} it is the quickest, {seconds}."
    return (
        f"{value} is within the noise of the best, {show(best.val.mean, monitor)} "
        f"({describe(best.setting)}), and {of} it is the quickest, {seconds} instead "
        f"of {best.seconds:.0f} s."
    )
