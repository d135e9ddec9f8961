import os

import numpy as np
import pytest
import tensorflow as tf
from helpers import COLOURS, make_examples
from PIL import Image
from pipeline_helpers import as_pairs, image_reader, label, numbered, training_batches

from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.images import decode, pipeline

both_methods = pytest.mark.parametrize("method", ["mixup", "cutmix"])


def orders(reader, examples, **options):
    """Returns the order of the examples, one row per epoch."""
    batches = training_batches(reader, examples, **options)
    seen = np.concatenate([targets.argmax(1) for _, targets in batches])
    return seen.reshape(-1, len(examples))


def read_inputs(reader, rows, view=0):
    return list(pipeline.make_inputs(reader, rows, view).as_numpy_iterator())


def test_evaluation_keeps_order_and_drops_nothing(split):
    batches = read_inputs(image_reader(split), range(30))
    assert [len(images) for images in batches] == [8, 8, 8, 6]
    images = np.concatenate(batches)
    assert images.shape == (30, 16, 16, 3)
    assert images.dtype == np.float32
    for i in (0, 7, 8, 29):
        alone = decode.decode_image(tf.io.read_file(split.files[i]))
        np.testing.assert_array_equal(
            images[i], decode.resize(alone, Preprocessing(16, 16))
        )


@pytest.mark.parametrize("view", [0, 2])
@pytest.mark.parametrize("rows", [range(10), range(4, 8), range(8, 10), range(3, 3)])
def test_evaluation_reads_some_features_of_a_view_in_order(rows, view):
    reader, _ = numbered(views=3)
    batches = read_inputs(reader, rows, view)
    expected = np.stack([np.full(len(rows), view), np.array(rows)], axis=-1)
    np.testing.assert_array_equal(
        np.concatenate([np.zeros((0, 2)), *batches]), expected
    )


def test_each_epoch_has_another_order():
    seen = orders(*numbered(), epochs=5)
    np.testing.assert_array_equal(np.sort(seen), np.tile(np.arange(10), (5, 1)))
    assert len({tuple(order) for order in [np.arange(10), *seen]}) == 6


def test_an_order_depends_on_seed_and_epoch_alone(split):
    five = orders(*numbered(), seed=3, epochs=5)
    assert not np.array_equal(orders(*numbered(), seed=4, epochs=5), five)
    # Not on the number of epochs, the batch size or the reader.
    np.testing.assert_array_equal(orders(*numbered(), seed=3, epochs=2), five[:2])
    by_three = numbered(batch_size=3)
    np.testing.assert_array_equal(orders(*by_three, seed=3, epochs=5), five)
    images = image_reader(split.take(np.arange(10)), augment="light")
    order_of_images = orders(images, label(range(10)), seed=3, epochs=2)
    np.testing.assert_array_equal(order_of_images, five[:2])


def test_short_epochs_share_a_pass_over_all_examples():
    reader, examples = numbered(count=10, batch_size=2)
    batches = training_batches(reader, examples, steps=2, epochs=6)
    seen = np.stack([targets.argmax(1) for _, targets in batches]).reshape(6, 4)
    for first in (0, 3):
        a_pass = seen[first : first + 3].reshape(-1)
        # Ten examples are two and a half of these epochs.
        assert set(a_pass[:10]) == set(range(10))
        np.testing.assert_array_equal(a_pass[10:], a_pass[:2])
    assert not np.array_equal(seen[:3], seen[3:])
    later = training_batches(reader, examples, steps=2, epochs=6, first_epoch=4)
    again = np.stack([targets.argmax(1) for _, targets in later]).reshape(2, 4)
    np.testing.assert_array_equal(again, seen[4:])


@pytest.mark.parametrize("mix", ["none", "cutmix"])
def test_training_batches_do_not_depend_on_parallelism(split, mix):
    dataset = pipeline.make_training_dataset(
        image_reader(split, augment="light"),
        split,
        seed=1,
        steps=4,
        epochs=2,
        view_of_epoch=lambda epoch: epoch + 1,
        mix=mix,
    )
    one_thread = tf.data.Options()
    one_thread.threading.private_threadpool_size = 1
    one_thread.threading.max_intra_op_parallelism = 1
    one_thread.autotune.enabled = False
    once = as_pairs(dataset)
    again = as_pairs(dataset.with_options(one_thread))
    assert len(once) == len(again) == 8
    for (images, labels), (same_images, same_labels) in zip(once, again, strict=True):
        np.testing.assert_array_equal(images, same_images)
        np.testing.assert_array_equal(labels, same_labels)


def test_batches_never_span_epochs():
    batches = training_batches(*numbered(count=10, batch_size=4), epochs=3)
    sizes = [(len(features), len(targets)) for features, targets in batches]
    assert sizes == [(4, 4), (4, 4), (2, 2)] * 3


def test_inputs_and_labels_stay_together(split):
    for features, targets in training_batches(*numbered(), seed=5):
        np.testing.assert_array_equal(features[:, 1], targets.argmax(1))
    batches = training_batches(image_reader(split), split, epochs=2)
    images, targets = (np.concatenate(p) for p in zip(*batches, strict=True))
    assert images.shape == (60, 16, 16, 3)
    colours = np.array(list(COLOURS.values()))[targets.argmax(1)]
    np.testing.assert_allclose(images.mean(axis=(1, 2)), colours, atol=15)


def test_each_epoch_reads_its_view():
    batches = training_batches(
        *numbered(views=3, count=4), epochs=5, view_of_epoch=lambda epoch: epoch % 3
    )
    views = [set(features[:, 0]) for features, _ in batches]
    assert views == [{0}, {1}, {2}, {0}, {1}]


def test_each_epoch_reads_its_augmentation_of_the_images(split):
    reader = image_reader(split.take(np.array([3])), augment="light", seed=2)
    batches = training_batches(
        reader, label([0]), epochs=3, view_of_epoch=lambda epoch: epoch % 2
    )
    plain, varied, plain_again = (images for images, _ in batches)
    np.testing.assert_array_equal(plain, plain_again)
    [expected] = reader.read(tf.data.Dataset.range(1), 1)
    np.testing.assert_array_equal(varied, expected)
    assert np.abs(plain - varied).max() > 5


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_features_are_read_from_a_memory_map_as_float32(tmp_path, dtype):
    rng = np.random.default_rng(0)
    stored = rng.normal(0, 100, (2, 7, 3, 2)).astype(dtype)
    np.save(tmp_path / "features.npy", stored)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    reader = pipeline.FeatureReader(mapped, batch_size=3)
    which = [6, 0, 5, 5, 2]
    examples = tf.data.Dataset.from_tensor_slices(np.array(which))
    for view in (0, 1):
        batches = list(reader.read(examples, view).as_numpy_iterator())
        assert [batch.shape for batch in batches] == [(3, 3, 2), (2, 3, 2)]
        read = np.concatenate(batches)
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, stored[view][which].astype(np.float32))


def test_features_have_a_static_shape():
    reader, _ = numbered()
    inputs = pipeline.make_inputs(reader, range(10)).element_spec
    assert inputs.shape.as_list() == [None, 2]


def test_label_smoothing_spreads_over_all_classes_in_training_only():
    reader, _ = numbered(count=30, batch_size=8)
    examples = label(np.arange(30) % 3)
    [(_, smoothed), *_] = training_batches(
        reader, examples, epochs=1, label_smoothing=0.3
    )
    np.testing.assert_allclose(np.sort(smoothed), [[0.1, 0.1, 0.8]] * 8, atol=1e-6)
    [(_, plain), *_] = training_batches(reader, examples, epochs=1)
    np.testing.assert_array_equal(np.sort(plain), [[0, 0, 1]] * 8)


def assert_equal_batches(found, expected):
    for pair, expected_pair in zip(found, expected, strict=True):
        for rows, expected_rows in zip(pair, expected_pair, strict=True):
            np.testing.assert_array_equal(rows, expected_rows)


@both_methods
def test_mixed_batches_of_a_resumed_run_are_those_of_the_uninterrupted_one(
    split, method
):
    reader = image_reader(split, augment="light")
    options = {"epochs": 3, "view_of_epoch": lambda epoch: epoch + 1, "mix": method}
    whole = training_batches(reader, split, **options)
    assert_equal_batches(
        training_batches(reader, split, first_epoch=2, **options), whole[8:]
    )
    # Four batches per epoch, each with lambdas of its own.
    draws = [labels.max(axis=1)[:6] for _, labels in whole]
    assert len({tuple(lambdas) for lambdas in draws}) == len(draws) == 12


@both_methods
def test_images_are_mixed_with_the_next_one_in_the_order_of_the_epoch(split, method):
    reader = image_reader(split)
    plain = training_batches(reader, split, label_smoothing=0.3)
    mixed = training_batches(reader, split, label_smoothing=0.3, mix=method)
    for (images, labels), (mixed_images, mixed_labels) in zip(
        plain, mixed, strict=True
    ):
        following = np.roll(labels, -1, axis=0)
        both = np.stack([labels, following])
        # Labels are smoothed before they are mixed.
        assert (mixed_labels >= both.min(axis=0) - 1e-6).all()
        assert (mixed_labels <= both.max(axis=0) + 1e-6).all()
        np.testing.assert_allclose(mixed_labels.sum(axis=1), 1, atol=1e-6)
        both = np.stack([images, np.roll(images, -1, axis=0)])
        assert (mixed_images >= both.min(axis=0) - 1e-3).all()
        assert (mixed_images <= both.max(axis=0) + 1e-3).all()
        assert np.abs(mixed_images - images).max() > 5


def test_file_names_need_not_be_utf8(tmp_path):
    file = str(tmp_path / "caf\udce9.png")
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    with open(os.fsencode(file), "wb") as stream:
        Image.fromarray(pixels).save(stream, "png")
    examples = make_examples([file], labels=[0], class_names=["a"])
    [(images, _)] = training_batches(image_reader(examples), examples, epochs=1)
    expected = decode.resize(pixels, Preprocessing(16, 16))
    np.testing.assert_array_equal(images, [expected])


def test_file_names_are_not_in_the_graph(split):
    """A graph of millions of names would be slow, and ends at two gigabytes."""
    many = split.take(np.tile(np.arange(30), 10))
    reader = image_reader(many)

    @tf.function(input_signature=[tf.TensorSpec([], tf.int64)])
    def count(view):
        batches = reader.read(tf.data.Dataset.range(len(many)), view)
        return batches.reduce(0, lambda n, images: n + tf.shape(images)[0])

    assert count(0) == 300
    graph = count.get_concrete_function().graph.as_graph_def().SerializeToString()
    assert b"ReadFile" in graph
    assert os.fsencode(split.files[0]) not in graph


def test_a_file_that_becomes_a_fifo_is_an_error(split):
    os.remove(split.files[3])
    os.mkfifo(split.files[3])
    with pytest.raises(tf.errors.InvalidArgumentError, match="not a regular file"):
        read_inputs(image_reader(split), range(30))
