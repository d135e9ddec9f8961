"""How well features of a frozen network tell classes apart, without training.

`log_me` ranks networks, `nearest_neighbour_accuracy` is the number people understand,
and `agreement` says how far such scores foretold what training gave.
"""

from collections.abc import Sequence

import numpy as np
import scipy.stats
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

# Of the largest squared singular value. What is below it is rounding: features are
# float32, whose spacing squared is 1e-14.
_TINY = 1e-12
_MAX_ITERATIONS = 1000
_CHUNK = 8192
_QUERIES = 5000


def log_me(features: np.ndarray, labels: np.ndarray, num_classes: int) -> float:
    """Logarithm of the maximum evidence (LogME; You et al., arXiv 2102.11005).

    For each class, targets of 1 (the class) and 0 (another) are explained by a Bayesian
    linear model of the features, weights ~ N(0, 1/alpha) and noise ~ N(0, 1/beta). The
    density of the targets at the best alpha and beta is high for features that need
    only small weights, so unlike the fit alone it can't be bought with many features.

    Features are centred, which stands for the bias of the head that will learn; with a
    flat prior the bias costs one of the N observations. They are not scaled one by one:
    the head sees them as they are, and channels that hardly vary would be blown up. One
    factor for all of them, a rotation or a shift change nothing, as alpha adapts; that,
    and targets that are the same for all, makes networks comparable.

    Args:
        features: float [N, D], finite.
        labels: int [N] in [0, num_classes).
        num_classes: K. Classes without examples, or with all of them, do not count.

    Returns:
        The mean over classes of the log evidence per example, in nats. Higher is
        better, only differences mean something, and features that say nothing have the
        class frequencies' value.

    Raises:
        ValueError: Features are not finite, or all labels are the same.
    """
    if not np.isfinite(features).all():
        raise ValueError("Features must be finite. Received: infinity or NaN")
    targets = np.eye(num_classes)[labels]
    targets = targets[:, (targets.min(axis=0) < targets.max(axis=0))]
    if not targets.shape[1]:
        raise ValueError(
            f"Labels must be of two classes or more. Received: {np.unique(labels)}"
        )
    targets -= targets.mean(axis=0)
    squares, explained = _decompose(features, targets)
    observations = len(features) - 1  # the bias took one
    total = np.sum(targets**2, axis=0)
    unexplained = total - explained.sum(axis=0)
    unexplained[unexplained < _TINY * total] = 0
    evidence = _maximise(squares[:, None], explained, unexplained, observations)
    return float(np.mean(evidence) / observations)


def nearest_neighbour_accuracy(features: np.ndarray, labels: np.ndarray) -> float:
    """How often the most similar other image, by cosine, has the same label.

    Copies of an image are its nearest neighbours, so they flatter all networks alike.
    Of more than 5,000 images that many are drawn, by a fixed seed, and looked up among
    all: an estimate within about 0.01, at a cost that grows with N and not its square.

    Args:
        features: float [N, D], finite; N is at least 2.
        labels: int [N].

    Returns:
        A number in [0, 1].
    """
    # Of vectors of length 1 the nearest is the most similar, and for this distance
    # scikit-learn works through chunks of memory.
    directions = normalize(features)
    queries = np.arange(len(labels))
    if len(queries) > _QUERIES:
        queries = np.random.default_rng(0).choice(queries, _QUERIES, replace=False)
    search = NearestNeighbors(n_neighbors=2, algorithm="brute").fit(directions)
    first, second = search.kneighbors(directions[queries], return_distance=False).T
    # An image is its own neighbour, but a copy of it may come first.
    neighbours = np.where(first == queries, second, first)
    return float(np.mean(labels[neighbours] == labels[queries]))


def agreement(scores: Sequence[float], results: Sequence[float]) -> float | None:
    """Kendall's tau-b between scores and results, see `scipy.stats.kendalltau`.

    Args:
        scores: Scores of M candidates.
        results: What training gave, in the same order.

    Returns:
        A number in [-1, 1]: the part of pairs that are ordered alike, less those that
        are not. None for less than three candidates, or where all are equal.
    """
    if len(scores) < 3:
        return None
    tau = scipy.stats.kendalltau(scores, results).statistic
    return None if np.isnan(tau) else float(tau)


def _decompose(
    features: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The singular values of centred features, squared, and the targets along them.

    By the eigenvalues of the smaller product of features with themselves: an order of
    magnitude faster than an SVD, and as precise as float32 features deserve.

    Args:
        features: float [N, D].
        targets: float64 [N, K], centred.

    Returns:
        Squared singular values float64 [R], those that are not rounding; and float64
        [R, K], the square of each target's component along each left singular vector.
    """
    mean = features.mean(axis=0, dtype=np.float64)
    if len(features) <= features.shape[1]:
        centred = features - mean
        squares, left = np.linalg.eigh(centred @ centred.T)
        along = (left.T @ targets) ** 2
    else:
        product = np.zeros((len(mean), len(mean)))
        projected = np.zeros((len(mean), targets.shape[1]))
        for start in range(0, len(features), _CHUNK):
            rows = slice(start, start + _CHUNK)
            centred = features[rows] - mean
            product += centred.T @ centred
            projected += centred.T @ targets[rows]
        squares, right = np.linalg.eigh(product)
        along = (right.T @ projected) ** 2 / np.maximum(squares, 1e-300)[:, None]
    kept = squares > _TINY * squares[-1]
    return squares[kept], along[kept]


def _maximise(
    squares: np.ndarray,
    explained: np.ndarray,
    unexplained: np.ndarray,
    observations: int,
) -> np.ndarray:
    """The log evidence of each class at its maximum over alpha and beta.

    Follows the fixed point of the paper's equations in ratio = alpha / beta; beta is
    what is best for it.

    Args:
        squares: float64 [R, 1], squared singular values.
        explained: float64 [R, K], squared components of the targets along them.
        unexplained: float64 [K], squared length of what is across all of them.
        observations: Number of observations.

    Returns:
        float64 [K].
    """
    if not len(squares):  # constant features
        return _evidence(squares, explained, unexplained, observations, 1.0)
    # Targets that are explained exactly would have an infinite density at 0.
    low, high = _TINY * squares.max(), squares.max() / _TINY
    ratio = np.full(len(unexplained), squares.mean())
    for _ in range(_MAX_ITERATIONS):
        before = ratio
        shrunk = ratio / (squares + ratio)  # part of each component that is not fitted
        parameters = np.sum(1 - shrunk, axis=0)  # gamma, effectively used
        error = np.sum(explained * shrunk**2, axis=0) + unexplained
        weights = np.sum(explained * (1 - shrunk) ** 2 / squares, axis=0)
        noise = error / (observations - parameters)  # 1 / beta
        ratio = parameters * noise / np.maximum(weights, 1e-300)  # alpha / beta
        ratio = np.clip(ratio, low, high)
        if np.allclose(ratio, before, rtol=1e-6, atol=0):
            break
    return _evidence(squares, explained, unexplained, observations, ratio)


def _evidence(
    squares: np.ndarray,
    explained: np.ndarray,
    unexplained: np.ndarray,
    observations: int,
    ratio: np.ndarray | float,
) -> np.ndarray:
    """Log evidence float64 [K] at alpha / beta = `ratio` and the best beta for it."""
    misfit = np.sum(explained * ratio / (squares + ratio), axis=0) + unexplained
    noise = misfit / observations
    return -0.5 * (
        observations * (np.log(2 * np.pi * noise) + 1)
        + np.sum(np.log1p(squares / ratio), axis=0)
    )
