import functools

import numpy as np
import pytest
import tensorflow as tf

from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.images import augment

HEIGHT, WIDTH = 40, 50
SIZE = 33  # odd, so one pixel is the centre
VIEWS = 100
# Each part of this pattern occurs once, so the position of a crop can be found.
PATTERN = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
# Increases from left to right.
RAMP = np.tile(np.linspace(0, 255, WIDTH)[:, None], (HEIGHT, 1, 3)).astype(np.uint8)
FIT = Preprocessing(SIZE, SIZE)
MIN_AREA = {"light": 0.6, "strong": 0.35}
both_policies = pytest.mark.parametrize("policy", MIN_AREA)


def make_function(policy, mirror=True):
    """Makes a new graph of `augment_image`."""
    pixels, seed = (
        tf.TensorSpec([None, None, 3], tf.uint8),
        tf.TensorSpec([2], tf.int32),
    )
    return tf.function(
        lambda pixels, seed: augment.augment_image(pixels, seed, policy, mirror, FIT),
        input_signature=[pixels, seed],
    )


get_function = functools.cache(make_function)


def make_views(function, pixels, count=VIEWS):
    return np.stack([function(pixels, [7, i]) for i in range(count)])


@both_policies
def test_each_policy_has_its_minimum_area(policy, monkeypatch):
    areas = []
    monkeypatch.setattr(augment, "crop", lambda p, _, area: areas.append(area) or p)
    augment.augment_image(PATTERN, [0, 1], policy, True, FIT)
    assert areas == [MIN_AREA[policy]]


@both_policies
def test_views_are_equal_if_and_only_if_seeds_are(policy):
    function = get_function(policy)
    views = make_views(function, PATTERN)
    for i in (0, 1, 50):
        np.testing.assert_array_equal(function(PATTERN, [7, i]), views[i])
    assert len({view.tobytes() for view in views}) == VIEWS
    assert not np.array_equal(function(PATTERN, [8, 0]), views[0])


@both_policies
@pytest.mark.parametrize(
    "shape", [(HEIGHT, WIDTH), (1, 1), (2, 1), (1, 300), (300, 1), (2, 3)]
)
def test_images_of_any_shape_have_views(policy, shape):
    # Black and white, so most changes would leave the range without clipping.
    white = np.random.default_rng(0).integers(0, 2, (*shape, 3))
    views = make_views(get_function(policy), np.uint8(255 * white), 30)
    assert views.shape == (30, SIZE, SIZE, 3)
    assert views.dtype == np.float32
    assert views.min() >= 0
    assert views.max() <= 255
    assert get_function(policy).get_concrete_function().output_shapes == (SIZE, SIZE, 3)


@both_policies
@pytest.mark.parametrize("mirror", [False, True])
def test_half_of_the_views_are_mirror_images_if_requested(policy, mirror):
    views = make_views(get_function(policy, mirror), RAMP)
    steps = np.sign(np.diff(views, axis=2)).sum((1, 2, 3))
    assert (steps != 0).all()
    if mirror:
        assert 0.35 * VIEWS < (steps < 0).sum() < 0.65 * VIEWS
    else:
        assert (steps > 0).all()


def test_light_changes_brightness_and_contrast_by_up_to_20_percent():
    pixels = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
    pixels[:, WIDTH // 2 :] = 150
    views = make_views(get_function("light"), pixels)
    low, high = views.min(axis=(1, 2, 3)), views.max(axis=(1, 2, 3))
    contrasts = (high - low) / 50
    middles = (high + low) / 2 - 125
    assert 0.8 - 0.01 <= contrasts.min() < 0.85
    assert 1.15 < contrasts.max() <= 1.2 + 0.01
    # Contrast moves greys away from their mean, which is close to the middle.
    assert -0.2 * 255 - 3 <= middles.min() < -0.15 * 255
    assert 0.15 * 255 < middles.max() <= 0.2 * 255 + 3


def test_light_changes_saturation_by_up_to_30_percent():
    views = make_views(
        get_function("light"), np.full((8, 8, 3), (150, 120, 90), np.uint8)
    )
    # Brightness shifts all channels alike.
    chroma = np.ptp(views[:, 0, 0], axis=-1) / 60
    assert 0.7 - 0.01 <= chroma.min() < 0.75
    assert 1.25 < chroma.max() <= 1.3 + 0.01


def plain(*colour):
    return np.full((SIZE, SIZE, 3), colour, np.float32)


def noise(low, high):
    grey = np.random.default_rng(0).uniform(low, high, (SIZE, SIZE, 1))
    return (grey + (0, 20, 40)).astype(np.float32)  # tinted


def operate(name, pixels, magnitude):
    return augment.OPERATIONS[name](pixels, tf.constant(magnitude)).numpy()


COS, SIN = 10 * np.cos(np.radians(20)), 10 * np.sin(np.radians(20))


@pytest.mark.parametrize(
    ("name", "magnitude", "dot", "moved"),
    [
        ("rotate", 1.0, (0, 10), (-SIN, COS)),
        ("rotate", -1.0, (0, 10), (SIN, COS)),
        ("rotate", 1.0, (-10, 0), (-COS, -SIN)),
        ("shear_x", 1.0, (-10, 3), (-10, 5)),
        ("shear_x", -0.5, (-10, 3), (-10, 2)),
        ("shear_y", 1.0, (3, 10), (1, 10)),
        ("translate_x", 1.0, (2, 3), (2, 3 - 0.2 * SIZE)),
        ("translate_x", -0.5, (2, 3), (2, 3 + 0.1 * SIZE)),
        ("translate_y", 1.0, (2, 3), (2 - 0.2 * SIZE, 3)),
    ],
)
def test_operations_move_a_dot(name, magnitude, dot, moved):
    pixels = plain(augment.GREY)
    row, column = np.array(dot) + SIZE // 2
    pixels[row, column] = 255
    light = operate(name, pixels, magnitude)[..., 0] - augment.GREY
    axis = np.arange(SIZE) - SIZE // 2
    centre = np.array([light.sum(1) @ axis, light.sum(0) @ axis]) / light.sum()
    np.testing.assert_allclose(centre, moved, atol=0.15)


def test_operations_are_of_pixels_in_images_that_are_not_square():
    """A rotation keeps distances; a shift is a share of its own side."""
    height, width = 21, 41
    pixels = np.full((height, width, 3), augment.GREY, np.float32)
    pixels[10, 30] = 255  # ten pixels right of the centre

    def find(name):
        light = operate(name, pixels, 1.0)[..., 0] - augment.GREY
        rows, columns = np.indices(light.shape)
        return np.array([(light * rows).sum(), (light * columns).sum()]) / light.sum()

    np.testing.assert_allclose(find("rotate"), (10 - SIN, 20 + COS), atol=0.15)
    np.testing.assert_allclose(find("translate_x"), (10, 30 - 0.2 * width), atol=0.15)
    np.testing.assert_allclose(find("translate_y"), (10 - 0.2 * height, 30), atol=0.15)


@pytest.mark.parametrize("mode", ["stretch", "crop", "pad"])
def test_views_are_distorted_only_where_images_are_stretched(mode, monkeypatch):
    monkeypatch.setattr(augment, "_finish_light", lambda pixels, seed: pixels)
    # Red grows by 2 per column and green by 2 per row.
    rows, columns = np.indices((80, 120))
    pixels = np.stack([2 * columns, 2 * rows, 0 * rows], axis=-1).astype(np.uint8)
    ratios, fit = [], Preprocessing(24, 36, mode)
    for i in range(20):
        view = augment.augment_image(pixels, [7, i], "light", False, fit)
        view = view.numpy()
        assert view.shape == (24, 36, 3)
        inner = view[9:15, 13:23]  # never padded
        steps_x = np.diff(inner[..., 0], axis=1).mean()
        ratios.append(steps_x / np.diff(inner[..., 1], axis=0).mean())
    assert (np.abs(np.log(ratios)).max() > 0.1) == (mode == "stretch")
    if mode != "stretch":
        np.testing.assert_allclose(ratios, 1, atol=0.06)


def test_empty_areas_are_grey():
    moved = operate("translate_x", plain(0), 1.0)
    uncovered = np.floor(0.2 * SIZE).astype(int)
    assert (moved[:, SIZE - uncovered :] == augment.GREY).all()
    assert (moved[:, : SIZE - uncovered - 1] == 0).all()


def test_magnitude_zero_changes_nothing():
    pixels = np.floor(noise(0, 215))
    for name in augment.OPERATIONS:
        if name != "autocontrast":
            same = operate(name, pixels, 0.0)
            np.testing.assert_allclose(same, pixels, atol=0.01, err_msg=name)


@pytest.mark.parametrize(("magnitude", "factor"), [(1.0, 1.6), (-1.0, 0.4)])
def test_colour_operations_scale(magnitude, factor):
    pixels = noise(90, 150)
    brighter = operate("brightness", pixels, magnitude)
    np.testing.assert_allclose(brighter, factor * pixels, rtol=1e-4)
    mean = pixels.mean()
    contrast = operate("contrast", pixels, magnitude)
    np.testing.assert_allclose(contrast - mean, factor * (pixels - mean), atol=0.01)
    # The strongest channel stays, the others move towards it or away.
    saturated = operate("saturation", plain(150, 120, 90), magnitude)[5, 5]
    np.testing.assert_allclose(
        150 - saturated, factor * np.array([0, 30, 60]), atol=0.1
    )
    dotted = plain(100)
    dotted[5, 5] = 190
    sharp = operate("sharpness", dotted, magnitude)
    np.testing.assert_allclose(sharp[5, 5], 110 + factor * (190 - 110), atol=0.01)
    np.testing.assert_allclose(sharp[8:], 100, atol=0.01)


def test_posterize_keeps_few_levels():
    pixels = noise(0, 215)
    for magnitude, levels in ((1.0, 16), (-1.0, 16), (0.5, 64)):
        posterized = operate("posterize", pixels, magnitude)
        assert len(np.unique(posterized)) == levels
        assert (np.abs(posterized - pixels) <= 256 / levels).all()


def test_autocontrast_stretches_to_the_whole_range():
    pixels = noise(90, 150)
    stretched = operate("autocontrast", pixels, 0.3)
    expected = np.interp(pixels, [pixels.min(), pixels.max()], [0, 255])
    np.testing.assert_allclose(stretched, expected, atol=0.01)
    flat = plain(100) + np.linspace(0, 0.5, 3, dtype=np.float32)
    np.testing.assert_array_equal(operate("autocontrast", flat, 0.3), flat)


def test_strong_draws_two_operations_with_replacement(monkeypatch):
    steps = (1, 10, 100)
    operations = {str(s): lambda pixels, m, s=s: pixels + s for s in steps}
    monkeypatch.setattr(augment, "OPERATIONS", operations)
    monkeypatch.setattr(augment, "erase", lambda pixels, seed: pixels)
    views = make_views(make_function("strong"), np.zeros((4, 4, 3), np.uint8), 180)
    sums, counts = np.unique(views[:, 0, 0, 0], return_counts=True)
    np.testing.assert_array_equal(sums, [2, 11, 20, 101, 110, 200])
    np.testing.assert_allclose(counts, [20, 40, 20, 40, 40, 20], atol=15)


def test_strong_draws_magnitudes_uniformly_and_erases_a_quarter(monkeypatch):
    # The second operation overwrites the first with its magnitude.
    operations = {"set": lambda pixels, m: 0 * pixels + 100 + 100 * m}
    monkeypatch.setattr(augment, "OPERATIONS", operations)
    draw = tf.random.stateless_uniform
    monkeypatch.setattr(augment, "erase", lambda p, seed: 0 * p - 1 - draw([], seed))
    views = make_views(make_function("strong"), PATTERN, 200)[:, 0, 0, 0]
    assert 0.18 < (views < 0).mean() < 0.32
    # The erased rectangle is independent of the draw that decides to erase.
    assert views.min() < -1.8
    magnitudes = views[views >= 0] / 100 - 1
    counts, _ = np.histogram(magnitudes, bins=4, range=(-1, 1))
    assert counts.sum() == len(magnitudes)
    assert counts.min() > 0.15 * len(magnitudes)


@pytest.mark.parametrize("stretched", [1, 2])
def test_an_erased_rectangle_has_area_and_aspect(stretched):
    side = 100
    erase = tf.function(augment.erase)
    pixels = tf.zeros([side, stretched * side, 3])
    areas, aspects, centres = [], [], []
    for i in range(150):
        erased = erase(pixels, tf.constant([7, i])).numpy()
        assert set(np.unique(erased)) == {0, augment.GREY}
        rows, columns, _ = np.nonzero(erased)
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert len(rows) == 3 * height * width  # all of the rectangle
        width, columns = width / stretched, columns / stretched
        areas.append(height * width / side**2)
        aspects.append(height / width)
        centres.append((rows.mean(), columns.mean()))
    assert 0.02 - 0.002 <= min(areas) < 0.03
    assert 0.19 < max(areas) <= 0.2 + 0.005
    assert 0.3 - 0.03 <= min(aspects) < 0.4
    assert 2.8 < max(aspects) <= 3.3 + 0.3
    assert (np.min(centres, axis=0) < 0.2 * side).all()
    assert (np.max(centres, axis=0) > 0.8 * side).all()
