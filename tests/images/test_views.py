import numpy as np
import pytest
import tensorflow as tf

from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.images import decode, pipeline

both_policies = pytest.mark.parametrize("policy", ["light", "strong"])


def read_views(split, view, order=range(4), batch_size=4, threads=0, **options):
    reader = pipeline.ImageReader(split, Preprocessing(16, 16), batch_size, **options)
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
    reader = pipeline.ImageReader(four, Preprocessing(16, 16), 4, policy)
    both = tf.data.Dataset.range(2).flat_map(
        lambda view: reader.read(tf.data.Dataset.range(4), view)
    )
    plain, augmented = both.as_numpy_iterator()
    for file, image in zip(four.files, plain, strict=True):
        pixels = decode.decode_image(tf.io.read_file(file))
        np.testing.assert_array_equal(
            image, decode.resize(pixels, Preprocessing(16, 16))
        )
    assert (np.abs(augmented - plain).max(axis=(1, 2, 3)) > 10).all()


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("policy", ["none", "light"])
def test_plain_images_are_resized_as_requested(four, policy, resize):
    reader = pipeline.ImageReader(four, Preprocessing(16, 24, resize), 4, policy)
    [images] = reader.read(tf.data.Dataset.range(4), 0).as_numpy_iterator()
    for file, image in zip(four.files, images, strict=True):
        pixels = decode.decode_image(tf.io.read_file(file))
        expected = decode.resize(pixels, Preprocessing(16, 24, resize))
        np.testing.assert_array_equal(image, expected)


def test_evaluation_and_runs_without_augment_read_plain_images(four):
    expected = read_views(four, 0)
    np.testing.assert_array_equal(read_views(four, 3), expected)
    reader = pipeline.ImageReader(four, Preprocessing(16, 16), 4, "light", seed=1)
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
