import io

import numpy as np
import pytest
import tensorflow as tf
from image_helpers import FILES, RGB, TRANSPARENT, encode
from PIL import Image

from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.images import decode


@pytest.mark.parametrize("name", FILES)
def test_every_format_is_decoded_as_by_pillow(name):
    content, image, tolerance = FILES[name]
    expected = np.asarray(image)
    if image.mode not in ("RGB", "I;16"):
        expected = np.asarray(image.convert("RGB"))
    elif expected.ndim == 2:
        expected = np.repeat(expected[..., None], 3, axis=-1)
    decoded = decode.decode_image(tf.constant(content))
    assert decoded.dtype == tf.uint8
    decoded = np.asarray(decoded, int)
    np.testing.assert_allclose(decoded, expected, atol=tolerance)


def test_resize_is_antialiased_bilinear():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (64, 48, 3), dtype=np.uint8))
    resized = decode.resize(np.asarray(image), Preprocessing(16, 16))
    assert resized.dtype == tf.float32
    expected = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(resized, expected, atol=1.5)


def make_noise(height, width):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3))
    return pixels.astype(np.uint8)


# By mode: the part of an image of 64 x 48 pixels that is used for 16 x 16, and where
# it is then: left, top, right, bottom.
PARTS = {
    "stretch": ((0, 0, 48, 64), (0, 0, 16, 16)),
    "crop": ((0, 8, 48, 56), (0, 0, 16, 16)),
    "pad": ((0, 0, 48, 64), (2, 0, 14, 16)),
}


@pytest.mark.parametrize("mode", PARTS)
def test_modes_use_another_part_of_the_image(mode):
    pixels = make_noise(64, 48)
    part, (left, top, right, bottom) = PARTS[mode]
    piece = Image.fromarray(pixels).crop(part)
    piece = piece.resize((right - left, bottom - top), Image.Resampling.BILINEAR)
    expected = np.full((16, 16, 3), decode.GREY)
    expected[top:bottom, left:right] = piece
    resized = decode.resize(pixels, Preprocessing(16, 16, mode))
    np.testing.assert_allclose(resized, expected, atol=1.5)
    # The network sees of the image what is in the result.
    box = np.array([[0, 0], [16, 16]]) - (top, left)
    seen = box / (bottom - top, right - left)  # of the part
    seen = (seen * (part[3] - part[1], part[2] - part[0]) + part[1::-1]) / (64, 48)
    np.testing.assert_allclose(
        decode.find_seen((64, 48), Preprocessing(16, 16, mode)), seen
    )


def test_modes_are_the_same_for_images_of_the_same_aspect_ratio():
    pixels = make_noise(36, 63)
    expected = decode.resize(pixels, Preprocessing(24, 42, "stretch"))
    assert expected.shape == (24, 42, 3)
    for mode in ("crop", "pad"):
        resized = decode.resize(pixels, Preprocessing(24, 42, mode))
        np.testing.assert_array_equal(resized, expected)
        seen = decode.find_seen((36, 63), Preprocessing(24, 42, mode))
        np.testing.assert_array_equal(seen, [[0, 0], [1, 1]])


@pytest.mark.parametrize("mode", PARTS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (7, 5)])
def test_images_of_any_shape_are_resized_alone_and_in_batches(mode, shape):
    pixels = make_noise(*shape)
    alone = decode.resize(pixels, Preprocessing(16, 24, mode))
    assert alone.shape == (16, 24, 3)
    assert np.any(np.abs(alone - decode.GREY) > 5)
    batch = decode.resize(np.stack([pixels, 255 - pixels]), Preprocessing(16, 24, mode))
    np.testing.assert_array_equal(batch[0], alone)
    np.testing.assert_allclose(batch[1], 255 - alone, atol=1e-3)


@pytest.mark.parametrize(
    "content",
    [b"", b"BM", b"a text", FILES["jpeg"][0][:300], FILES["bmp palette"][0][:600]],
)
def test_bytes_that_are_no_image_are_an_error(content):
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
        decode.decode_image(tf.constant(content))


# Transparency.


def composite_on_white(image):
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(white, image).convert("RGB"), int)


@pytest.mark.parametrize("name", TRANSPARENT)
def test_transparency_is_composited_composite_on_white(name):
    content = TRANSPARENT[name]
    expected = composite_on_white(Image.open(io.BytesIO(content)))
    assert (expected == 255).all(axis=-1).any()
    decoded = np.asarray(decode.decode_image(tf.constant(content)), int)
    np.testing.assert_allclose(decoded, expected, atol=1)


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_a_fully_transparent_image_is_white(kind):
    image = RGB.convert("RGBA")
    image.putalpha(0)
    decoded = decode.decode_image(tf.constant(encode(image, kind)))
    assert decoded.shape == (32, 32, 3)
    np.testing.assert_array_equal(decoded, 255)


@pytest.mark.parametrize("shape", [(40, 30), (3, 701), (2001, 1), (1, 1)])
def test_strips_of_a_large_image_are_composited_as_the_whole_is(shape, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 4)).astype(np.uint8)
    whole = decode._blend_at_once(pixels, pixels[..., 3:])
    for size in (1, 500, 10_000):
        monkeypatch.setattr(decode, "_STRIP", size)
        in_strips = tf.function(decode._blend_in_strips)(pixels)
        np.testing.assert_array_equal(in_strips, whole)


def test_one_graph_decodes_files_of_every_kind():
    oriented = Image.Exif()
    oriented[0x0112] = 6
    wide = RGB.resize((48, 32))
    contents = [
        encode(wide, "jpeg"),
        encode(wide, "jpeg", exif=oriented),
        TRANSPARENT["png rgba"],
        TRANSPARENT["webp lossy"],
        FILES["bmp palette"][0],
        FILES["gif"][0],
    ]
    alone = [decode.decode_image(tf.constant(one)) for one in contents]
    assert [one.shape[:2] for one in alone[:2]] == [(32, 48), (48, 32)]

    dataset = tf.data.Dataset.from_tensor_slices(contents).map(decode.decode_image)
    assert dataset.element_spec == tf.TensorSpec([None, None, 3], tf.uint8)
    for decoded, expected in zip(dataset, alone, strict=True):
        np.testing.assert_array_equal(decoded, expected)

    for mode in PARTS:
        served = make_served(mode)
        expected = [decode.resize(one, Preprocessing(16, 16, mode)) for one in alone]
        np.testing.assert_allclose(served(tf.constant(contents)), expected, atol=1e-3)


def make_served(mode):
    @tf.function(autograph=False)
    def served(contents):
        return tf.map_fn(
            lambda one: decode.resize(
                decode.decode_image(one), Preprocessing(16, 16, mode)
            ),
            contents,
            fn_output_signature=tf.TensorSpec([16, 16, 3], tf.float32),
        )

    return served
