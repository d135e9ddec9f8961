"""The random crop of a view."""

import numpy as np
import pytest
import tensorflow as tf

from keras_ft.images import augment

HEIGHT, WIDTH = 40, 50
VIEWS = 100
# Each part of this pattern occurs once, so the position of a crop can be found.
PATTERN = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
MIN_AREA = {"light": 0.6, "strong": 0.35}


@pytest.fixture(scope="module", params=MIN_AREA)
def crops(request):
    """The minimum area of a policy, and height, width, top and left of its crops."""
    crop = tf.function(augment.crop)
    min_area = MIN_AREA[request.param]
    found = []
    for i in range(VIEWS):
        piece = crop(PATTERN, tf.constant([7, i]), min_area).numpy()
        windows = np.lib.stride_tricks.sliding_window_view(PATTERN, piece.shape)
        [corner] = np.argwhere((windows[:, :, 0] == piece).all(axis=(2, 3, 4)))
        found.append((*piece.shape[:2], *corner))
    return min_area, np.array(found)


def test_crops_have_area_and_aspect(crops):
    min_area, sizes = crops
    heights, widths = sizes[:, 0] / HEIGHT, sizes[:, 1] / WIDTH
    areas, aspects = heights * widths, widths / heights
    assert min_area - 0.5 / HEIGHT - 0.5 / WIDTH <= areas.min() < min_area + 0.06
    assert 0.9 < areas.max() <= 1
    assert 3 / 4 - 0.05 <= aspects.min() < 0.85
    assert 1.2 < aspects.max() <= 4 / 3 + 0.05


def test_crops_are_anywhere(crops):
    heights, widths, tops, lefts = crops[1].T
    assert tops.min() == lefts.min() == 0
    for start, rest in ((tops, HEIGHT - heights), (lefts, WIDTH - widths)):
        quarters = np.round(4 * start[rest > 0] / rest[rest > 0])
        assert set(quarters) == {0, 1, 2, 3, 4}
