"""`--augment=py:MODULE:NAME`: what it gets, and what it may return."""

import numpy as np
import pytest
import tensorflow as tf

from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.errors import UserError
from keras_ft.host import user_code
from keras_ft.images import pipeline

CODE = """
    import tensorflow as tf

    def noise(images, seed):
        return images + tf.random.stateless_uniform(tf.shape(images), seed)

    def shrinks(images, seed):
        return images[:, 1:]

    def casts(images, seed):
        return tf.cast(images, tf.uint8)

    def to_numpy(images, seed):
        return images.numpy()

    def nothing(images, seed):
        pass

    def fails(images, seed):
        return 1 / 0

    def fails_in_graph(images, seed):
        if not tf.executing_eagerly():
            raise KeyError("mistake")
        return images

    def of_images(images):
        return images

    text = "no function"
"""


@pytest.fixture
def read(split, write_module):
    write_module("mine", CODE)

    def read(name, view=1, order=(0, 10, 20, 0), batch_size=4):
        reader = pipeline.ImageReader(
            split, Preprocessing(16, 16), batch_size, f"py:mine:{name}"
        )
        examples = tf.data.Dataset.from_tensor_slices(np.array(order, np.int64))
        return np.concatenate(list(reader.read(examples, view).as_numpy_iterator()))

    return read


def test_a_view_depends_on_view_and_example_alone(read):
    plain, view = read("noise", 0), read("noise")
    np.testing.assert_array_equal(
        read("noise", order=[20, 0], batch_size=1)[0], view[2]
    )
    added = view - plain
    assert ((added >= -1e-4) & (added <= 1 + 1e-4)).all()
    assert np.abs(added[0] - added[3]).max() == 0  # the same example
    assert np.abs(added[0] - added[1]).max() > 0.1
    assert np.abs(read("noise", 2) - view).max() > 0.1


@pytest.mark.parametrize(
    ("name", "received"),
    [
        ("shrinks", r"float32.*\(1, 15, 16, 3\)"),
        ("casts", r"uint8.*\(1, 16, 16, 3\)"),
        ("to_numpy", "ndarray"),
        ("nothing", "NoneType"),
        ("text", "no function"),
    ],
)
def test_what_is_refused_in_one_line(read, name, received):
    with pytest.raises(UserError, match=f"--augment=py:mine:{name}.*{received}") as e:
        read(name)
    assert "\n" not in str(e.value)


def test_the_wrong_arguments_are_shown_with_the_flag(read):
    with pytest.raises(TypeError) as raised:
        read("of_images")
    text = user_code.describe(raised.value)
    assert text.endswith("the code of --augment=py:mine:of_images raised this.")


@pytest.mark.parametrize("name", ["fails", "fails_in_graph"])
def test_an_error_in_it_is_shown_with_the_flag(read, name):
    with pytest.raises((ZeroDivisionError, KeyError)) as raised, user_code.noting():
        read(name)
    text = user_code.describe(raised.value)
    assert "mine.py" in text
    assert text.endswith(f"the code of --augment=py:mine:{name} raised this.")


def test_the_description_has_the_source(split, write_module):
    write_module("mine", CODE)
    reader = pipeline.ImageReader(split, Preprocessing(16, 16), 4, "py:mine:noise")
    assert reader.augmentation.split()[1] == user_code.source_of("py:mine:noise")
