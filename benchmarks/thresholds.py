"""How often a threshold that is chosen on val makes results on test worse.

python benchmarks/thresholds.py

Probabilities are drawn, not trained: of a class that applies to 1 of 2 or of 10 images,
calibrated, or with log odds that are too low by one.
"""

import argparse
import itertools

import numpy as np

from keras_ft.evaluation.thresholds import (
    Criterion,
    balanced_accuracy,
    choose_threshold,
    f1,
    find_best,
)

_TEST = 100_000
_WORSE = 0.002  # what is lost at least


def draw(
    rng: np.random.Generator, count: int, fraction: float, shift: float
) -> tuple[np.ndarray, np.ndarray]:
    """Truth, bool [N], and probabilities."""
    truth = rng.random(count) < fraction
    logits = 2 * rng.normal(size=count) + 4 * truth - 2
    logits += np.log(fraction / (1 - fraction)) + shift
    return truth, 1 / (1 + np.exp(-logits))


def measure(
    criterion: Criterion, truth: np.ndarray, scores: np.ndarray, threshold: float
) -> float:
    """The criterion of decisions by a threshold."""
    decided = scores >= threshold
    true, false = (truth & decided).sum(), (~truth & decided).sum()
    return criterion(true, false, truth.sum(), (~truth).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200)
    args = parser.parse_args()

    print("| criterion | images | probabilities | val | best on val | as chosen |")
    print("| --- | --- | --- | --- | --- | --- |")
    for criterion, fraction, shift, num_val in itertools.product(
        (balanced_accuracy, f1), (1 / 2, 1 / 10), (0, -1), (26, 100, 200, 1000)
    ):
        test = draw(np.random.default_rng(0), _TEST, fraction, shift)
        gains = []
        for seed in range(1, args.seeds + 1):
            val = draw(np.random.default_rng(seed), num_val, fraction, shift)
            if 0 < val[0].sum() < num_val:
                best = find_best(*val, criterion)
                chosen, _ = choose_threshold(*val, criterion)
                gains.append([measure(criterion, *test, t) for t in (best, chosen)])
        gains = np.array(gains) - measure(criterion, *test, 0.5)
        cells = [
            f"{(of_rule < -_WORSE).mean():.0%} worse, {of_rule.mean():+.3f}"
            for of_rule in gains.T
        ]
        name = criterion.__name__.replace("_", " ").replace("f1", "F1")
        kind = "too low" if shift else "calibrated"
        row = [name, f"1 of {1 / fraction:.0f}", kind, num_val, *cells]
        print(f"| {' | '.join(map(str, row))} |")


if __name__ == "__main__":
    main()
