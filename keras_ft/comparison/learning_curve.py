"""Learning curves: val accuracy by the number of training images per class."""

import dataclasses
from collections.abc import Iterable, Sequence
from statistics import fmean

import numpy as np

from keras_ft.comparison.ranking import (
    Noise,
    Ranked,
    Spread,
    explain_unknown_noise,
    pool_noise,
)
from keras_ft.comparison.sweep import Setting

_FLAG = "examples_per_class"
_MIN_SIZES = 3


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """`error = scale * size ** exponent` (Hestness et al., arXiv 1712.00409)."""

    scale: float
    exponent: float

    def error(self, size: float) -> float:
        """The expected error at a size, in [0, 1]."""
        return float(min(1.0, self.scale * size**self.exponent))


@dataclasses.dataclass(frozen=True)
class Curve:
    """Val accuracy by the number of training images, the other flags being equal.

    Attributes:
        setting: The values of the other swept flags.
        sizes: Mean number of training images per class (of several tasks, of all),
            ascending.
        accuracies: Over the seeds, for each size.
        law: Fitted to the errors; None for fewer than three sizes.
        statement: How much twice as many labels are expected to gain, a sentence.
    """

    setting: Setting
    sizes: tuple[float, ...]
    accuracies: tuple[Spread, ...]
    law: PowerLaw | None
    statement: str


def find_curves(settings: Iterable[Ranked]) -> list[Curve]:
    """Makes the learning curves of a comparison that sweeps `examples_per_class`.

    There is one for each combination of the other swept flags that has two sizes.
    """
    groups: dict[Setting, dict[float, list[float]]] = {}
    num_val = 1
    for ranked in settings:
        if _FLAG in dict(ranked.setting):
            num_val = ranked.metrics[0]["num_examples"]["val"]
            others = tuple(pair for pair in ranked.setting if pair[0] != _FLAG)
            points = groups.setdefault(others, {})
            # Two values of the flag select all images if no class has more.
            points.setdefault(_size(ranked), []).extend(
                metrics["val"]["accuracy"] for metrics in ranked.metrics
            )
    return [
        _make_curve(others, dict(sorted(points.items())), num_val)
        for others, points in groups.items()
        if len(points) > 1
    ]


def fit_power_law(sizes: Sequence[float], errors: Sequence[float]) -> PowerLaw:
    """Fits a power law to two or more points above 0: least squares of logarithms."""
    exponent, log_scale = np.polyfit(np.log(sizes), np.log(errors), 1)
    return PowerLaw(float(np.exp(log_scale)), float(exponent))


def _size(ranked: Ranked) -> float:
    metrics = ranked.metrics[0]
    if "class_names" in metrics:
        return metrics["num_examples"]["train"] / len(metrics["class_names"])
    of_tasks = metrics["tasks"].values()
    return fmean(t["num_examples"]["train"] / len(t["class_names"]) for t in of_tasks)


def _make_curve(
    setting: Setting, points: dict[float, list[float]], num_val: int
) -> Curve:
    sizes = tuple(points)
    accuracies = tuple(map(Spread.of, points.values()))
    law = None
    if len(sizes) >= _MIN_SIZES:
        # An error of zero, which has no logarithm, counts as half an image.
        errors = [max(1 - point.mean, 0.5 / num_val) for point in accuracies]
        law = fit_power_law(sizes, errors)
    seeds = len(points[sizes[-1]])
    statement = _state(sizes, law, pool_noise(list(points.values())), seeds)
    return Curve(setting, sizes, accuracies, law, statement)


def _state(
    sizes: Sequence[float], law: PowerLaw | None, noise: Noise | None, seeds: int
) -> str:
    """The expected gain of twice as many labels, if it can be estimated."""
    if law is None:
        return (
            f"{len(sizes)} sizes are too few to extrapolate; sweep at least "
            f"{_MIN_SIZES} values of {_FLAG}."
        )
    largest = sizes[-1]
    gain = law.error(largest) - law.error(2 * largest)
    if gain <= 0:
        return (
            f"From {sizes[0]:g} to {largest:g} labels per class the val accuracy did "
            "not rise, so there is no evidence that more labels would help."
        )
    amount = f"about {gain:.2f}" if gain >= 0.005 else "less than 0.01"
    qualifier = f"; {explain_unknown_noise(seeds)}"
    if noise:
        least = noise.least_significant_difference(seeds, seeds)
        within = f"; that is within the noise between seeds (below {least:.2f})"
        qualifier = "" if gain > least else within
    return (
        f"Twice as many labels ({2 * largest:g} per class) would raise the val "
        f"accuracy by {amount}, extrapolated from {len(sizes)} sizes by a power law"
        f"{qualifier}."
    )
