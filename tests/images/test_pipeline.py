import os

import numpy as np
import pytest
import tensorflow as tf
from helpers import COLOURS
from PIL import Image

from keras_ft.data.examples import make_examples
from keras_ft.images import decode, pipeline

both_policies = pytest.mark.parametrize("policy", ["light", "strong"])


@pytest.fixture
def split(image_folder):
    files = [
        str(f) for name in COLOURS for f in sorted((image_folder / name).iterdir())
    ]
    labels = np.repeat(np.arange(3), 10)
    return make_examples(files, files, labels, list(COLOURS))


def image_reader(split, **options):
    return pipeline.ImageReader(split, 16, 8, **options)


def label(labels):
    """Makes examples of these labels."""
    names = [str(i) for i in range(max(labels) + 1)]
    return make_examples([str(i) for i in range(len(labels))], None, labels, names)


def numbered(views=1, count=10, dtype=np.float32, batch_size=4):
    """Makes features [V, N, 2] of view and example, and examples, each of its class.

    So features and labels show the order.
    """
    view, example = np.mgrid[:views, :count]
    features = np.stack([view, example], axis=-1).astype(dtype)
    return pipeline.FeatureReader(features, batch_size), label(range(count))


def as_pairs(dataset):
    """Inputs and labels of the only task of each batch."""
    return [(inputs, labels["label"]) for inputs, labels in dataset.as_numpy_iterator()]


def training_batches(reader, examples, **options):
    options = {
        "seed": 0,
        "steps": -(-len(examples) // reader.batch_size),
        "epochs": 3,
        "view_of_epoch": lambda epoch: epoch * 0,
        **options,
    }
    return as_pairs(pipeline.make_training_dataset(reader, examples, **options))


def orders(reader, examples, **options):
    """Returns the order of the examples, one row per epoch."""
    batches = training_batches(reader, examples, **options)
    seen = np.concatenate([targets.argmax(1) for _, targets in batches])
    return seen.reshape(-1, len(examples))


def test_evaluation_keeps_order_and_drops_nothing(split):
    batches = as_pairs(pipeline.make_dataset(image_reader(split), split))
    assert [len(images) for images, _ in batches] == [8, 8, 8, 6]
    images, labels = (np.concatenate(p) for p in zip(*batches, strict=True))
    assert images.shape == (30, 16, 16, 3)
    assert images.dtype == labels.dtype == np.float32
    np.testing.assert_array_equal(labels, np.eye(3)[split.labels])
    for i in (0, 7, 8, 29):
        alone = decode.decode_image(tf.io.read_file(split.files[i]))
        np.testing.assert_array_equal(images[i], decode.resize(alone, 16))


def test_evaluation_reads_features_of_the_plain_view_in_order():
    reader, examples = numbered(views=3)
    dataset = pipeline.make_dataset(reader, examples)
    features, targets = zip(*as_pairs(dataset), strict=True)
    expected = np.stack([np.zeros(10), np.arange(10)], axis=-1)
    np.testing.assert_array_equal(np.concatenate(features), expected)
    np.testing.assert_array_equal(np.concatenate(targets), np.eye(10))
    inputs = pipeline.make_inputs(reader, 10).as_numpy_iterator()
    np.testing.assert_array_equal(np.concatenate(list(inputs)), expected)


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


def test_training_batches_do_not_depend_on_parallelism(split):
    dataset = pipeline.make_training_dataset(
        image_reader(split, augment="light"),
        split,
        seed=1,
        steps=4,
        epochs=2,
        view_of_epoch=lambda epoch: epoch + 1,
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
    inputs, targets = pipeline.make_dataset(*numbered()).element_spec
    assert inputs.shape.as_list() == [None, 2]
    assert targets["label"].shape.as_list() == [None, 10]


def test_label_smoothing_spreads_over_all_classes_in_training_only():
    reader, _ = numbered(count=30, batch_size=8)
    examples = label(np.arange(30) % 3)
    [(_, smoothed), *_] = training_batches(
        reader, examples, epochs=1, label_smoothing=0.3
    )
    np.testing.assert_allclose(np.sort(smoothed), [[0.1, 0.1, 0.8]] * 8, atol=1e-6)
    [(_, plain), *_] = training_batches(reader, examples, epochs=1)
    np.testing.assert_array_equal(np.sort(plain), [[0, 0, 1]] * 8)


def test_file_names_need_not_be_utf8(tmp_path):
    file = str(tmp_path / "caf\udce9.png")
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    with open(os.fsencode(file), "wb") as stream:
        Image.fromarray(pixels).save(stream, "png")
    examples = make_examples([file], labels=[0], class_names=["a"])
    [(images, _)] = training_batches(image_reader(examples), examples, epochs=1)
    expected = decode.resize(pixels, 16)
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


def read_views(split, view, order=range(4), batch_size=4, threads=0, **options):
    reader = pipeline.ImageReader(split, 16, batch_size, **options)
    examples = tf.data.Dataset.from_tensor_slices(np.array(order))
    limited = tf.data.Options()
    limited.threading.private_threadpool_size = threads
    images = reader.read(examples, view).with_options(limited)
    return np.concatenate(list(images.as_numpy_iterator()))


@pytest.fixture
def four(split):
    """Four examples; the last is the image of the first."""
    return split.take(np.array([0, 10, 20, 0]))


@both_policies
def test_view_0_is_the_plain_image(four, policy):
    reader = pipeline.ImageReader(four, 16, 4, policy)
    both = tf.data.Dataset.range(2).flat_map(
        lambda view: reader.read(tf.data.Dataset.range(4), view)
    )
    plain, augmented = both.as_numpy_iterator()
    for file, image in zip(four.files, plain, strict=True):
        pixels = decode.decode_image(tf.io.read_file(file))
        np.testing.assert_array_equal(image, decode.resize(pixels, 16))
    assert (np.abs(augmented - plain).max(axis=(1, 2, 3)) > 10).all()


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("policy", ["none", "light"])
def test_plain_images_are_resized_as_requested(four, policy, resize):
    reader = pipeline.ImageReader(four, (16, 24), 4, policy, resize=resize)
    [images] = reader.read(tf.data.Dataset.range(4), 0).as_numpy_iterator()
    for file, image in zip(four.files, images, strict=True):
        pixels = decode.decode_image(tf.io.read_file(file))
        expected = decode.resize(pixels, (16, 24), resize)
        np.testing.assert_array_equal(image, expected)


def test_evaluation_and_runs_without_augment_read_plain_images(four):
    expected = read_views(four, 0)
    np.testing.assert_array_equal(read_views(four, 3), expected)
    reader = pipeline.ImageReader(four, 16, 4, "light", seed=1)
    # `make_dataset` reads its images by `make_inputs`.
    [(images, _)] = pipeline.make_dataset(reader, four)
    np.testing.assert_array_equal(images, expected)


def test_a_view_depends_on_seed_view_and_example(four):
    light = {"augment": "light", "seed": 1}
    view = read_views(four, 1, **light)
    for changed in ({"view": 2}, {"seed": 2}):
        other = read_views(four, **{"view": 1, **light, **changed})
        assert (np.abs(other - view).max(axis=(1, 2, 3)) > 1).all()
    # The same image as another example has other views.
    assert np.abs(view[0] - view[3]).max() > 1


@both_policies
def test_a_view_does_not_depend_on_order_batches_or_threads(four, policy):
    options = {"augment": policy, "seed": 1}
    views = read_views(four, 5, **options)
    others = read_views(four, 5, order=[2, 0], batch_size=1, threads=1, **options)
    np.testing.assert_array_equal(others, views[[2, 0]])
