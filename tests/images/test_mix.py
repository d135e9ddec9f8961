import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from keras_ft.images.mix import ALPHA, draw_lambda, mix_batch

both_methods = pytest.mark.parametrize("method", ["mixup", "cutmix"])
SIZE = (16, 24)


def mix(method, labels, seed=0):
    """Mixes images of which the i-th consists of i; returns images and labels."""
    [count, *_] = {len(rows) for rows in labels.values()}
    values = np.arange(count, dtype=np.float32)
    images = np.broadcast_to(values[:, None, None, None], (count, *SIZE, 3))
    labels = {task: tf.constant(rows, tf.float32) for task, rows in labels.items()}
    images, labels = mix_batch(tf.constant(images), labels, [seed, 0], method)
    return images.numpy(), {task: rows.numpy() for task, rows in labels.items()}


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_lambda_has_a_beta_distribution(alpha):
    drawn = draw_lambda(2000, [3, 4], alpha).numpy()
    beta = scipy.stats.beta(alpha, alpha)
    # float32 rounds what is close to 1 to 1.
    assert scipy.stats.kstest(np.clip(drawn, 0, 1 - 1e-7), beta.cdf).pvalue > 0.01
    assert scipy.stats.kstest(drawn, scipy.stats.beta(2, 2).cdf).pvalue < 1e-6


def test_mixup_mixes_all_pixels_like_the_labels():
    images, labels = mix("mixup", {"label": np.eye(200)})
    kept = labels["label"].diagonal()
    values, following = np.arange(200), np.roll(np.arange(200), -1)
    expected = kept * values + (1 - kept) * following
    np.testing.assert_allclose(images.min(axis=(1, 2, 3)), expected, atol=1e-3)
    np.testing.assert_allclose(images.max(axis=(1, 2, 3)), expected, atol=1e-3)
    one_hot, kept_rows = np.eye(200), kept[:, None]
    expected = kept_rows * one_hot + (1 - kept_rows) * one_hot[following]
    np.testing.assert_allclose(labels["label"], expected, atol=1e-6)
    # Each image has its own lambda, most of them close to 0 or 1.
    assert len(set(kept)) > 150
    assert np.std(kept) == pytest.approx(scipy.stats.beta(0.2, 0.2).std(), abs=0.04)


def test_cutmix_replaces_a_rectangle_of_the_area_in_the_label():
    images, labels = mix("cutmix", {"label": np.eye(200)})
    following = np.roll(np.arange(200), -1)
    kept = images == np.arange(200)[:, None, None, None]
    np.testing.assert_array_equal(kept | (images == following[:, None, None, None]), 1)
    fraction = kept.mean(axis=(1, 2, 3))
    np.testing.assert_allclose(labels["label"].diagonal(), fraction, atol=1e-6)
    of_next = labels["label"][np.arange(200), following]
    np.testing.assert_allclose(of_next, 1 - fraction, atol=1e-6)
    for replaced in ~kept:
        rows, columns, _ = np.nonzero(replaced)
        if len(rows):
            height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
            assert replaced.sum() == height * width * 3
    # Clipping at the border only makes the rectangle smaller.
    assert 0.55 < fraction.mean() < 0.8
    assert fraction.min() < 0.2
    # The centre can be anywhere.
    assert (~kept).any(axis=0).all()


@both_methods
def test_it_depends_on_the_seed_alone(method):
    labels = {"label": np.eye(8)}
    images, mixed = mix(method, labels, seed=1)
    again, mixed_again = mix(method, labels, seed=1)
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(mixed["label"], mixed_again["label"])
    other, _ = mix(method, labels, seed=2)
    assert not np.array_equal(images, other)


@both_methods
def test_no_label_is_lost_to_an_image_without_one(method):
    species = np.eye(3)[np.arange(60) % 3]
    species[::4] = -1
    tags = np.tile([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]], (20, 1))
    tags[::6] = -1
    images, mixed = mix(method, {"species": species, "tags": tags})
    is_mixed = (images != np.arange(60)[:, None, None, None]).any(axis=(1, 2, 3))
    lost = np.zeros(60, bool)
    for before, after in ((species, mixed["species"]), (tags, mixed["tags"])):
        labelled = before[:, 0] >= 0
        np.testing.assert_array_equal(after[~labelled], -1)
        assert (after[labelled] >= 0).all()
        lost |= labelled & ~np.roll(labelled, -1)
    assert lost.any() and not is_mixed[lost].any()
    np.testing.assert_array_equal(mixed["species"][lost], species[lost])
    np.testing.assert_array_equal(mixed["tags"][lost], tags[lost])
    assert is_mixed[~lost].mean() > 0.7


@both_methods
def test_tasks_are_mixed_with_one_lambda(method):
    tags = np.tile([[1.0, 0.0], [0.0, 1.0]], (10, 1))
    _, mixed = mix(method, {"species": np.eye(20), "tags": tags})
    kept = mixed["species"].diagonal()[:, None]
    expected = kept * tags + (1 - kept) * (1 - tags)
    np.testing.assert_allclose(mixed["tags"], expected, atol=1e-6)


def test_an_image_alone_in_its_batch_stays_as_it_is():
    for method in ALPHA:
        images, labels = mix(method, {"label": np.array([[0.0, 1.0]])})
        np.testing.assert_array_equal(images, np.zeros_like(images))
        np.testing.assert_array_equal(labels["label"], [[0, 1]])
