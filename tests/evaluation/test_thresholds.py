import numpy as np
import pytest
import sklearn.metrics

from keras_ft.evaluation.thresholds import (
    balanced_accuracy,
    choose_threshold,
    f1,
    find_best,
)

CRITERIA = [
    (balanced_accuracy, sklearn.metrics.balanced_accuracy_score),
    (f1, sklearn.metrics.f1_score),
]


def draw(count, fraction=0.5, seed=0):
    """Truth and calibrated scores of a class that applies to a fraction of examples."""
    rng = np.random.default_rng(seed)
    truth = rng.random(count) < fraction
    logits = 2 * rng.normal(size=count) + 4 * truth - 2
    return truth, 1 / (1 + np.exp(-logits) * (1 - fraction) / fraction)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("criterion", "score"), CRITERIA)
def test_no_threshold_is_better_than_the_best(criterion, score, seed):
    truth, scores = draw(60, 0.3, seed)
    scores = scores.round(1)  # with ties
    best = max(score(truth, scores >= other) for other in np.linspace(0, 1, 101))
    found = score(truth, scores >= find_best(truth, scores, criterion))
    assert found == pytest.approx(best)


def test_the_best_threshold_is_between_separable_classes():
    truth = np.array([False, False, False, True, True])
    scores = np.array([0.1, 0.2, 0.3, 0.4, 0.9])
    assert find_best(truth, scores, balanced_accuracy) == pytest.approx(0.35)
    assert 0 <= find_best(truth, np.full(5, 0.4), balanced_accuracy) <= 1


@pytest.mark.parametrize("criterion", [balanced_accuracy, f1])
def test_a_threshold_is_chosen_where_it_is_better(criterion):
    truth, scores = draw(400, 0.1)
    scores = scores / 2  # too low
    threshold, reason = choose_threshold(truth, scores, criterion)
    assert threshold == find_best(truth, scores, criterion) < 0.4
    assert reason == ""


@pytest.mark.parametrize("criterion", [balanced_accuracy, f1])
def test_with_few_examples_it_is_one_half(criterion):
    truth, scores = draw(400, 0.1)
    few = choose_threshold(truth[:99], scores[:99], criterion)
    assert few == (0.5, "val has 99 images, fewer than 100")
    reason = "val has fewer than 10 images with or without it"
    for applies in (truth & (np.cumsum(truth) < 10), np.ones(400, bool)):
        assert choose_threshold(applies, scores, criterion) == (0.5, reason)


def test_without_a_gain_it_is_seldom_chosen():
    """One half is the best of calibrated scores of equally frequent classes."""
    test, test_scores = draw(20_000, seed=1000)
    worse = {"best": 0, "chosen": 0}
    for seed in range(60):
        truth, scores = draw(120, seed=seed)
        found = {
            "best": find_best(truth, scores, balanced_accuracy),
            "chosen": choose_threshold(truth, scores, balanced_accuracy)[0],
        }
        for name, threshold in found.items():
            lost = ((test_scores >= 0.5) == test).mean() - (
                (test_scores >= threshold) == test
            ).mean()
            worse[name] += lost > 0.002
    assert worse["best"] > 30
    assert worse["chosen"] <= 9
