"""What is removed from files does not show, and what is refused is no real file."""

import numpy as np
import pytest
import tensorflow as tf
from hostile_files import encode, make_blocks, make_frames, make_scans, make_texts
from PIL import Image

from keras_ft.errors import UserError
from keras_ft.extras.server import lighten as module
from keras_ft.extras.server.lighten import lighten
from keras_ft.images.decode import decode_image


@pytest.fixture(scope="module")
def image():
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 4), dtype=np.uint8)
    return Image.fromarray(coarse).resize((64, 48), Image.Resampling.BICUBIC)


def assert_same_pixels(content, other):
    a, b = (decode_image(tf.constant(each)).numpy() for each in (content, other))
    np.testing.assert_array_equal(a, b)


def test_only_the_first_frame_of_a_gif_is_left(image):
    frames = [image.rotate(90 * i).convert("RGB").quantize(64 >> i) for i in range(3)]
    still = encode(frames[0], "gif")
    for options in ({}, {"loop": 0, "duration": 50, "comment": b"x" * 300}):
        content = encode(
            frames[0], "gif", save_all=True, append_images=frames[1:], **options
        )
        light = lighten(content, 0)
        assert len(light) < len(content) / 2
        assert_same_pixels(light, content)
        assert_same_pixels(light, still)
    assert len(lighten(make_frames(100, 1000), 0)) < 2000
    assert_same_pixels(lighten(make_blocks(50), 0), make_blocks(50))
    assert len(lighten(make_blocks(10_000), 0)) < 2000
    options = {"transparency": 0, "comment": b"x" * 300, "optimize": False}
    transparent = encode(frames[0], "gif", **options)
    light = lighten(transparent, 0)
    assert b"\x21\xf9" in light  # the extension that has the transparent colour
    assert b"xxx" not in light
    assert_same_pixels(light, transparent)
    assert lighten(still, 0) == still


def test_a_png_loses_what_is_compressed_but_no_pixels(image):
    exif = Image.Exif()
    exif[274] = 6
    info = {"icc_profile": b"profile" * 100, "exif": exif}
    for picture, options in [
        (image, {}),
        (image, info),
        (image.convert("RGB").quantize(16), {"transparency": 3, **info}),
        (image.convert("I;16"), {}),
    ]:
        content = encode(picture, "png", **options)
        light = lighten(content, 0)
        assert_same_pixels(light, content)
        assert (b"iCCP" in light, b"eXIf" in light) == (False, b"eXIf" in content)
    light = lighten(make_texts(100, 1000), 0)
    assert b"zTXt" not in light
    assert_same_pixels(light, make_texts(1, 1))


def test_scans_of_a_jpeg_are_counted(image, monkeypatch):
    rgb = image.convert("RGB")
    thumbnail = {"exif": b"Exif\0\0" + encode(rgb, "jpeg", progressive=True)}
    # 1 scan, and 10 as libjpeg writes them.
    for options, scans in [({}, 1), ({"progressive": True}, 10), (thumbnail, 1)]:
        content = encode(rgb, "jpeg", quality=100, restart_marker_rows=1, **options)
        content += encode(rgb, "jpeg")  # as phones append a second picture
        for limit in (scans - 1, scans):
            monkeypatch.setattr(module, "MAX_SCANS", limit)
            if limit < scans:
                with pytest.raises(UserError, match=f"at most {limit} scans"):
                    lighten(content, 64 * 48)
            else:
                assert lighten(content, 64 * 48) == content


def test_too_many_scans_and_too_many_pixels_in_scans_are_refused():
    lighten(make_scans(64, 50), 64 * 64)
    for content, num_pixels in [
        (make_scans(64, 1000), 64 * 64),
        (make_scans(64, 50), 80_000_000),
    ]:
        with pytest.raises(UserError, match="A JPEG may have at most 100 scans, and"):
            lighten(content, num_pixels)


@pytest.mark.parametrize("name", ["gif", "png", "jpeg", "webp", "bmp"])
def test_damaged_files_raise_nothing(image, name):
    content = encode(image.convert("RGB"), name)
    for end in range(4, len(content), 7):
        assert content.startswith(lighten(content[:end], 1)[:-1])
