import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_ft import decode


def encode(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def colourful():
    y, x = np.mgrid[:32, :32] * 8
    return Image.fromarray(np.stack([x, y, (x + y) // 2], -1).astype(np.uint8))


RGB = colourful()
DEEP = Image.fromarray((np.mgrid[:32, :32][1] * 2000).astype(np.uint16))
FILES = {
    "jpeg": (encode(RGB, "jpeg", quality=95), RGB, 9),
    "jpeg grey": (encode(RGB.convert("L"), "jpeg"), RGB.convert("L"), 4),
    "jpeg cmyk": (encode(RGB.convert("CMYK"), "jpeg", quality=95), RGB, 4),
    "png": (encode(RGB, "png"), RGB, 0),
    "png grey": (encode(RGB.convert("L"), "png"), RGB.convert("L"), 0),
    "png palette": (encode(RGB.quantize(64), "png"), RGB.quantize(64), 0),
    "png alpha": (encode(RGB.convert("RGBA"), "png"), RGB, 0),
    "png 16 bit": (encode(DEEP, "png"), Image.fromarray(np.asarray(DEEP) // 256), 0),
    "bmp": (encode(RGB, "bmp"), RGB, 0),
    "bmp grey": (encode(RGB.convert("L"), "bmp"), RGB.convert("L"), 0),
    "bmp palette": (encode(RGB.quantize(64), "bmp"), RGB.quantize(64), 0),
    "gif": (encode(RGB.quantize(64), "gif"), RGB.quantize(64), 0),
    "gif animated": (
        encode(
            RGB.quantize(64),
            "gif",
            save_all=True,
            append_images=[RGB.rotate(90).quantize(64)],
        ),
        RGB.quantize(64),
        0,
    ),
    "webp": (encode(RGB, "webp", lossless=True), RGB, 0),
    "webp alpha": (encode(RGB.convert("RGBA"), "webp", lossless=True), RGB, 0),
}


@pytest.mark.parametrize("name", FILES)
def test_every_format_is_decoded_as_pillow_does(name):
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
    resized = decode.resize(np.asarray(image), 16)
    assert resized.dtype == tf.float32
    expected = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(resized, expected, atol=1.5)


@pytest.mark.parametrize(
    "content",
    [b"", b"BM", b"a text", FILES["jpeg"][0][:300], FILES["bmp palette"][0][:600]],
)
def test_what_is_no_image_is_an_error(content):
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
        decode.decode_image(tf.constant(content))
