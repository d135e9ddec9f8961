import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_ft import augment, decode, pipeline
from keras_ft.data import Split

HEIGHT, WIDTH = 40, 50
VIEWS = 100
# Two greys in a pattern that tells where a piece of it was cut out.
PATTERN = np.random.default_rng(0).integers(0, 2, (HEIGHT, WIDTH)).astype(bool)
DARK, BRIGHT = 100, 150


@tf.function(
    input_signature=[
        tf.TensorSpec([None, None, 3], tf.uint8),
        tf.TensorSpec([2], tf.int32),
    ]
)
def vary(pixels, seed):
    return augment.augment_image(pixels, seed)


def as_image(pattern):
    grey = np.where(pattern, BRIGHT, DARK).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


@pytest.fixture(scope="module")
def views():
    return [vary(as_image(PATTERN), [7, i]).numpy() for i in range(VIEWS)]


def corners(pattern, piece):
    """Where a piece lies in a pattern: (top, left) of each place."""
    windows = np.lib.stride_tricks.sliding_window_view(pattern, piece.shape)
    return np.argwhere((windows == piece).all(axis=(2, 3)))


@pytest.fixture(scope="module")
def places(views):
    """Of each view its size, whether it is a mirror image, and its corner."""
    found = []
    for view in views:
        grey = view[..., 0].astype(int)
        piece = grey > (grey.min() + grey.max()) / 2
        plain, mirrored = corners(PATTERN, piece), corners(PATTERN, piece[:, ::-1])
        assert len(plain) + len(mirrored) == 1
        [corner] = [*plain, *mirrored]
        found.append((*piece.shape, len(mirrored) == 1, *corner))
    return found


def test_a_view_is_eight_bit_rgb_and_grey_stays_grey(views):
    for view in views:
        assert view.dtype == np.uint8
        assert view.ndim == 3
        assert view.shape[2] == 3
        np.testing.assert_array_equal(view[..., :1], view[..., 1:2])
        np.testing.assert_array_equal(view[..., :1], view[..., 2:])


def test_equal_seeds_give_equal_views_and_others_others(views):
    for i in (0, 1, 50):
        np.testing.assert_array_equal(vary(as_image(PATTERN), [7, i]), views[i])
    assert len({view.tobytes() for view in views}) == VIEWS
    assert not np.array_equal(vary(as_image(PATTERN), [8, 0]), views[0])


def test_a_view_is_a_crop_of_at_least_60_percent(places):
    heights = np.array([place[0] for place in places]) / HEIGHT
    widths = np.array([place[1] for place in places]) / WIDTH
    areas = heights * widths
    rounding = 0.5 / HEIGHT + 0.5 / WIDTH
    assert areas.min() >= 0.6 - rounding
    assert areas.max() <= 1
    # All of the range is used.
    assert areas.min() < 0.66
    assert areas.max() > 0.9
    aspects = widths / heights
    assert aspects.min() >= 3 / 4 - 0.05
    assert aspects.max() <= 4 / 3 + 0.05
    assert aspects.min() < 0.85
    assert aspects.max() > 1.2


def test_crops_lie_anywhere(places):
    tops = {round(4 * top / (HEIGHT - h)) for h, _, _, top, _ in places if h < HEIGHT}
    lefts = {round(4 * left / (WIDTH - w)) for _, w, _, _, left in places if w < WIDTH}
    assert tops == lefts == {0, 1, 2, 3, 4}


def test_half_of_the_views_are_mirror_images(places):
    mirrored = sum(place[2] for place in places)
    assert 0.35 * VIEWS < mirrored < 0.65 * VIEWS


def test_brightness_and_contrast_change_by_up_to_20_percent(views):
    greys = [view[..., 0].astype(int) for view in views]
    contrasts = np.array([g.max() - g.min() for g in greys]) / (BRIGHT - DARK)
    middles = np.array([g.max() + g.min() for g in greys]) / 2 - (BRIGHT + DARK) / 2
    assert 0.8 - 0.05 <= contrasts.min() < 0.85
    assert 1.15 < contrasts.max() <= 1.2 + 0.05
    # Contrast moves greys away from their mean, which is not quite the middle.
    assert -0.2 * 255 - 3 <= middles.min() < -0.15 * 255
    assert 0.15 * 255 < middles.max() <= 0.2 * 255 + 3


def test_saturation_changes():
    pixels = np.full((8, 8, 3), (150, 120, 90), np.uint8)
    chroma = []  # brightness shifts all channels alike
    for i in range(40):
        view = vary(pixels, [0, i]).numpy().astype(float)
        chroma.append((view.max() - view.min()) / 60)
    assert 0.7 - 0.03 <= min(chroma) < 0.8
    assert 1.2 < max(chroma) <= 1.3 + 0.03


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (1, 300), (300, 1), (2, 3)])
def test_images_of_any_shape_have_views(shape):
    pixels = np.full((*shape, 3), 100, np.uint8)
    for i in range(10):
        view = vary(pixels, [0, i])
        assert view.shape.as_list() == [*view.shape[:2], 3]
        assert 1 <= view.shape[0] <= shape[0]
        assert 1 <= view.shape[1] <= shape[1]
        resized = decode.resize(view, 16)
        assert resized.shape == (16, 16, 3)
        assert np.isfinite(resized).all()


@pytest.fixture
def split(tmp_path):
    """Four images of noise; the last is a copy of the first."""
    rng = np.random.default_rng(1)
    files = [str(tmp_path / f"{i}.png") for i in range(4)]
    for file in files:
        pixels = rng.integers(0, 256, (24, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
    Image.open(files[0]).save(files[3])
    names = np.array(files, object)
    return Split(names, names, np.zeros(4, int))


def read(split, view, order=range(4), batch_size=4, **options):
    reader = pipeline.ImageReader(split, 16, batch_size, **options)
    examples = tf.data.Dataset.from_tensor_slices(np.array(order))
    return np.concatenate(list(reader.read(examples, view).as_numpy_iterator()))


def test_view_0_is_the_plain_image(split):
    plain = read(split, 0)
    np.testing.assert_array_equal(read(split, 0, augment="light"), plain)
    views = read(split, 1, augment="light")
    assert (np.abs(views - plain).max(axis=(1, 2, 3)) > 10).all()
    assert views.dtype == np.float32
    assert views.min() >= -1e-3
    assert views.max() <= 255 + 1e-3


def test_without_augment_every_view_is_the_plain_image(split):
    np.testing.assert_array_equal(read(split, 3), read(split, 0))


def test_evaluation_sees_plain_images(split):
    reader = pipeline.ImageReader(split, 16, 4, "light", seed=1)
    [images] = pipeline.make_inputs(reader, 4)
    np.testing.assert_array_equal(images, read(split, 0))
    [(images, _)] = pipeline.make_dataset(reader, split.labels, 2)
    np.testing.assert_array_equal(images, read(split, 0))


def test_a_view_depends_on_seed_view_and_example(split):
    light = {"augment": "light", "seed": 1}
    view = read(split, 1, **light)
    np.testing.assert_array_equal(read(split, 1, **light), view)
    for other in (
        read(split, 2, **light),
        read(split, 1, augment="light", seed=2),
    ):
        assert (np.abs(other - view).max(axis=(1, 2, 3)) > 1).all()
    # The same picture as another example is varied in another way.
    assert np.abs(view[0] - view[3]).max() > 1


def test_a_view_does_not_depend_on_order_or_batches(split):
    light = {"augment": "light", "seed": 1}
    view = read(split, 5, **light)
    order = [2, 0, 3, 1]
    shuffled = read(split, 5, order=order, batch_size=3, **light)
    np.testing.assert_array_equal(shuffled, view[order])
    alone = read(split, 5, order=[2], **light)
    np.testing.assert_array_equal(alone, view[2:3])
