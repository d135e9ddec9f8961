import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from keras_ft.transferability import agreement, log_me, nearest_neighbour_accuracy

K = 3


def make_features(n, d, distance, seed=0):
    """Clusters in d dimensions around K centres away from zero, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % K
    centres = distance * rng.normal(size=(K, d)) / np.sqrt(d)
    return 3 + centres[labels] + rng.normal(size=(n, d)) / np.sqrt(d), labels


def best_evidence(features, labels):
    """LogME by its definition: a Gaussian density and a general optimiser."""
    n = len(features)
    rng = np.random.default_rng(0)
    # With a flat prior on the bias, what remains are the contrasts of the targets.
    basis = np.linalg.qr(np.column_stack([np.ones(n), rng.normal(size=(n, n - 1))]))
    contrasts = basis.Q[:, 1:].T
    gram = contrasts @ features @ (contrasts @ features).T

    def best_of(targets):
        def cost(logs):
            covariance = np.exp(logs[0]) * gram + np.exp(logs[1]) * np.eye(n - 1)
            zeros = np.zeros(n - 1)
            return -multivariate_normal.logpdf(contrasts @ targets, zeros, covariance)

        options = {"xatol": 1e-9, "fatol": 1e-12}
        starts = [(a, b) for a in (-6, -2) for b in (-4, -1)]
        return -min(
            minimize(cost, start, method="Nelder-Mead", options=options).fun
            for start in starts
        )

    return np.mean([best_of(labels == k) for k in range(K)]) / (n - 1)


# --- log_me --------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(60, 5), (40, 39), (30, 60)])
@pytest.mark.parametrize("distance", [0, 2])
def test_log_me_is_the_maximum_evidence(shape, distance):
    features, labels = make_features(*shape, distance)
    expected = best_evidence(features, labels)
    assert log_me(features, labels, K) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("shape", [(90, 10), (90, 500)])
def test_log_me_is_higher_the_better_features_tell_classes_apart(shape):
    scores = [log_me(*make_features(*shape, d), K) for d in (0, 0.5, 1, 2, 4)]
    assert scores == sorted(scores)
    features, labels = make_features(*shape, 2)
    shuffled = np.random.default_rng(0).permutation(labels)
    assert log_me(features, shuffled, K) < log_me(features, labels, K) - 0.1


def test_log_me_can_not_be_bought_with_features_that_say_nothing():
    features, labels = make_features(60, 5, 2)
    noise = np.random.default_rng(1).normal(size=(60, 400))
    more = np.hstack([features, noise])
    assert log_me(more, labels, K) < log_me(features, labels, K)


@pytest.mark.parametrize("shape", [(60, 10), (30, 60)])
def test_log_me_ignores_scale_rotation_and_shift(shape):
    features, labels = make_features(*shape, 1)
    expected = log_me(features, labels, K)
    rng = np.random.default_rng(1)
    rotation = np.linalg.qr(rng.normal(size=(shape[1], shape[1]))).Q
    for same in (1e-4 * features, 1e4 * features, features @ rotation, features - 7):
        assert log_me(same, labels, K) == pytest.approx(expected, abs=1e-6)


def test_log_me_does_not_depend_on_the_order_or_on_classes_without_examples():
    features, labels = make_features(60, 10, 1)
    expected = log_me(features, labels, K)
    order = np.random.default_rng(0).permutation(60)
    assert log_me(features[order], labels[order], K) == pytest.approx(expected)
    assert log_me(features, labels + 1, K + 2) == pytest.approx(expected)


def test_log_me_of_float32_is_that_of_float64():
    features, labels = make_features(60, 200, 1)
    expected = log_me(features, labels, K)
    given = features.astype(np.float32)
    assert log_me(given, labels, K) == pytest.approx(expected, abs=1e-4)


def test_log_me_takes_more_rows_than_it_holds_at_once(monkeypatch):
    features, labels = make_features(60, 10, 1)
    expected = log_me(features, labels, K)
    monkeypatch.setattr("keras_ft.transferability._CHUNK", 7)
    assert log_me(features, labels, K) == pytest.approx(expected, abs=1e-9)


def test_log_me_of_features_that_say_nothing_is_that_of_the_frequencies():
    labels = np.arange(60) % K
    variance = 60 * (1 / K) * (1 - 1 / K) / 59
    expected = -0.5 * (np.log(2 * np.pi * variance) + 1)
    constant = np.ones((60, 10))
    assert log_me(constant, labels, K) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("copies", [1, 2])
def test_log_me_of_features_that_say_all_is_finite_and_high(copies):
    labels = np.arange(60) % K
    told = np.repeat(np.eye(K)[labels], 100, axis=1)
    wide = np.repeat(make_features(30, 100, 1)[0], copies, axis=0)
    assert 5 < log_me(told, labels, K) < 50
    assert np.isfinite(log_me(wide, np.repeat(np.arange(30) % K, copies), K))


def test_log_me_refuses_what_has_no_evidence():
    features, labels = make_features(30, 5, 1)
    with pytest.raises(ValueError, match="two classes or more"):
        log_me(features, np.zeros(30, int), K)
    features[3, 2] = np.nan
    with pytest.raises(ValueError, match="must be finite"):
        log_me(features, labels, K)


# --- nearest neighbours ----------------------------------------------------------


def test_the_nearest_neighbour_is_the_most_similar_other_image():
    directions = np.array([[1, 0], [9, 1], [0, 1], [1, 9], [-1, -1]], np.float32)
    labels = np.array([0, 0, 1, 1, 2])  # the last has no other of its class
    assert nearest_neighbour_accuracy(directions, labels) == pytest.approx(0.8)


def test_an_image_is_not_its_own_neighbour_though_it_has_copies():
    rng = np.random.default_rng(0)
    features = np.repeat(rng.normal(size=(20, 5)), 3, axis=0)
    labels = np.arange(60) % 3  # copies have other labels
    assert nearest_neighbour_accuracy(features, labels) == 0
    assert nearest_neighbour_accuracy(features, np.arange(60) // 3) == 1


def test_many_images_are_sampled(monkeypatch):
    features, labels = make_features(3000, 20, 0.7)
    all_of_them = nearest_neighbour_accuracy(features, labels)
    monkeypatch.setattr("keras_ft.transferability._QUERIES", 500)
    sampled = nearest_neighbour_accuracy(features, labels)
    assert sampled != all_of_them
    assert sampled == pytest.approx(all_of_them, abs=0.07)
    assert sampled == nearest_neighbour_accuracy(features, labels)


# --- agreement -------------------------------------------------------------------


def test_agreement_counts_pairs_in_the_same_order():
    assert agreement([1, 2, 3], [0.1, 0.2, 0.9]) == 1
    assert agreement([1, 2, 3], [3, 2, 1]) == -1
    assert agreement([1, 2, 3], [1, 3, 2]) == pytest.approx(1 / 3)


def test_there_is_no_agreement_of_two_or_of_equals():
    assert agreement([1, 2], [1, 2]) is None
    assert agreement([1, 2, 3], [5, 5, 5]) is None
