"""What more labels would bring: val accuracy against examples per class."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from keras_ft.comparison.ranking import Noise, Ranked, Spread, pool_noise, spread
from keras_ft.comparison.sweep import Setting

_FLAG = "examples_per_class"
_MIN_SIZES = 3


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """`error = scale * size ** exponent` (Hestness et al., arXiv 1712.00409)."""

    scale: float
    exponent: float

    def error(self, size: float) -> float:
        """The error that the law expects, in [0, 1]."""
        return float(min(1.0, self.scale * size**self.exponent))


@dataclasses.dataclass(frozen=True)
class Curve:
    """Val accuracy by the number of training images, all else the same.

    Attributes:
        setting: The other flags that are swept.
        sizes: Training images per class, on average, ascending.
        accuracies: Of each size, mean and range over seeds.
        law: What was fitted to the errors; None for fewer than three sizes.
        statement: What twice as many labels would bring, a sentence.
    """

    setting: Setting
    sizes: tuple[float, ...]
    accuracies: tuple[Spread, ...]
    law: PowerLaw | None
    statement: str


def find_curves(settings: Iterable[Ranked]) -> list[Curve]:
    """The learning curves of a comparison that sweeps `examples_per_class`.

    Args:
        settings: What was ranked.

    Returns:
        One curve for each combination of the other swept flags that has two sizes.
    """
    groups, num_val = {}, 1
    for ranked in settings:
        if _FLAG in dict(ranked.setting):
            num_val = ranked.results[0].metrics["num_examples"]["val"]
            others = tuple(pair for pair in ranked.setting if pair[0] != _FLAG)
            points = groups.setdefault(others, {})
            # `0` and what no class has enough images for may be the same size.
            points.setdefault(_size(ranked), []).extend(_accuracies(ranked))
    return [
        _make_curve(others, dict(sorted(points.items())), num_val)
        for others, points in groups.items()
        if len(points) > 1
    ]


def fit_power_law(sizes: Sequence[float], errors: Sequence[float]) -> PowerLaw:
    """Least squares of the logarithms.

    Args:
        sizes: At least two, above 0.
        errors: Of each size, above 0.
    """
    exponent, log_scale = np.polyfit(np.log(sizes), np.log(errors), 1)
    return PowerLaw(float(np.exp(log_scale)), float(exponent))


def _size(ranked: Ranked) -> float:
    metrics = ranked.results[0].metrics
    return metrics["num_examples"]["train"] / len(metrics["class_names"])


def _accuracies(ranked: Ranked) -> list[float]:
    return [result.metrics["val"]["accuracy"] for result in ranked.results]


def _make_curve(
    setting: Setting, points: dict[float, list[float]], num_val: int
) -> Curve:
    sizes = tuple(points)
    accuracies = tuple(spread(values) for values in points.values())
    law = None
    if len(sizes) >= _MIN_SIZES:
        # No error at all has no logarithm; it means less than one image.
        errors = [max(1 - point.mean, 0.5 / num_val) for point in accuracies]
        law = fit_power_law(sizes, errors)
    statement = _state(sizes, law, pool_noise(list(points.values())), points)
    return Curve(setting, sizes, accuracies, law, statement)


def _state(
    sizes: Sequence[float],
    law: PowerLaw | None,
    noise: Noise | None,
    points: dict[float, list[float]],
) -> str:
    """What twice as many labels would bring, as far as the curve tells."""
    if law is None:
        return (
            f"{len(sizes)} sizes do not tell what more labels would bring; give "
            f"{_FLAG} at least {_MIN_SIZES}."
        )
    largest = sizes[-1]
    gain = law.error(largest) - law.error(2 * largest)
    if gain <= 0:
        return (
            f"From {sizes[0]:g} to {largest:g} labels per class the val accuracy did "
            "not rise, so nothing says that more would help."
        )
    amount = f"about {gain:.2f}" if gain >= 0.005 else "less than 0.01"
    return (
        f"Twice as many labels ({2 * largest:g} per class) would bring {amount} more "
        f"val accuracy, extrapolated from {len(sizes)} sizes by a power law"
        f"{_doubt(gain, noise, len(points[largest]))}."
    )


def _doubt(gain: float, noise: Noise | None, seeds: int) -> str:
    if noise is None:
        return "; with one seed the noise is not known"
    least = noise.least_difference(seeds, seeds)
    if gain > least:
        return ""
    return f"; that is within the noise of seeds (below {least:.2f})"
