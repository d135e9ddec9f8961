import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from keras_ft.images import decode


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
    "webp extended": (encode(RGB, "webp", lossless=True, exif=b"Exif\0\0"), RGB, 0),
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


# Transparency.


def translucent(shape=(24, 32)):
    """Colours that are told apart, under every alpha from none to full."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (*shape, 4), dtype=np.uint8)
    pixels[0, :2, 3] = 0, 255
    return Image.fromarray(pixels)


def on_white(image):
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(white, image).convert("RGB"), int)


def png_of_16_bits(pixels):
    """Writes uint16 [H, W, 4], which Pillow does not."""

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 6, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


RGBA = translucent()
OPAQUE = RGBA.convert("RGB")
GREY = RGBA.convert("L")
PALETTE = RGB.quantize(16)
FRAMES = {"save_all": True, "append_images": [RGBA.rotate(180)]}
TRANSPARENT = {
    "png rgba": encode(RGBA, "png"),
    "png grey and alpha": encode(RGBA.convert("LA"), "png"),
    "png palette": encode(PALETTE, "png", transparency=bytes(range(0, 256, 17))),
    "png palette, one colour": encode(PALETTE, "png", transparency=3),
    "png rgb, one colour": encode(OPAQUE, "png", transparency=OPAQUE.getpixel((3, 4))),
    "png grey, one shade": encode(GREY, "png", transparency=GREY.getpixel((3, 4))),
    "png 16 bits": png_of_16_bits(np.asarray(RGBA, np.uint16) * 257),
    "webp lossless": encode(RGBA, "webp", lossless=True, exact=True),
    "webp lossy": encode(RGBA, "webp", quality=90),
    "webp extended": encode(RGBA, "webp", lossless=True, exif=b"Exif\0\0"),
    "webp animated": encode(RGBA, "webp", lossless=True, **FRAMES),
}


@pytest.mark.parametrize("name", TRANSPARENT)
def test_transparency_is_laid_on_white(name):
    content = TRANSPARENT[name]
    expected = on_white(Image.open(io.BytesIO(content)))
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


# Orientation.


def tiff(value, order="<", kind=3, count=1, entry_count=2, offset=8):
    """A TIFF file of one directory: its orientation comes after another entry."""
    mark = b"II" if order == "<" else b"MM"
    entries = struct.pack(order + "HHII", 0x0100, 4, 1, 6)
    field = "HHIHH" if kind == 3 else "HHII"
    values = (value, 0) if kind == 3 else (value,)
    entries += struct.pack(order + field, 0x0112, kind, count, *values)
    header = mark + struct.pack(order + "HI", 42, offset)
    directory = struct.pack(order + "H", entry_count) + entries + bytes(4)
    return header + directory


def segment(marker, content, length=None):
    length = 2 + len(content) if length is None else length
    return struct.pack(">BBH", 0xFF, marker, length) + content


def exif(content):
    return segment(0xE1, b"Exif\0\0" + content)


def jpeg(*segments, size=(48, 32)):
    """A JPEG file of an asymmetric picture, with more segments after its APP0."""
    content = encode(RGB.resize(size), "jpeg", quality=95)
    start = 4 + int.from_bytes(content[4:6])
    return content[:start] + b"".join(segments) + content[start:]


PLAIN = jpeg()
UPRIGHT = tf.io.decode_jpeg(PLAIN, 3).numpy()


def turned(orientation):
    """The picture as Pillow turns it, from TensorFlow's pixels."""
    stream = io.BytesIO(encode(Image.fromarray(UPRIGHT), "png"))
    image = Image.open(stream)
    image.getexif()[0x0112] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


def assert_orientation(content, orientation):
    assert decode.exif_orientation(tf.constant(content)) == orientation
    decoded = decode.decode_image(tf.constant(content))
    np.testing.assert_array_equal(decoded, turned(orientation))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_is_turned_as_pillow_does(orientation, order):
    content = jpeg(exif(tiff(orientation, order)))
    pillow = Image.open(io.BytesIO(content)).getexif()[0x0112]
    assert pillow == orientation
    assert_orientation(content, orientation)


def test_exif_written_by_pillow_is_read():
    tags = Image.Exif()
    tags[0x010F], tags[0x0112] = "a camera's maker", 6
    content = encode(RGB.resize((48, 32)), "jpeg", quality=95, exif=tags)
    assert_orientation(content, 6)


@pytest.mark.parametrize(
    "segments",
    [
        [segment(0xFE, b"a comment")],
        [segment(0xE2, bytes(65000)), segment(0xFE, b"")],
        [segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0Exif\0\0")],
        [b"\xff\xff\xff"],
    ],
)
def test_exif_is_found_after_other_segments(segments):
    assert_orientation(jpeg(*segments, exif(tiff(6))), 6)


def test_exif_is_found_right_after_the_start():
    assert_orientation(PLAIN[:2] + exif(tiff(8)) + PLAIN[2:], 8)


@pytest.mark.parametrize("order", "<>")
def test_an_orientation_of_type_long_is_read(order):
    assert_orientation(jpeg(exif(tiff(5, order, kind=4))), 5)


@pytest.mark.parametrize(
    "content",
    [
        *(tiff(value) for value in (0, 9, 65535)),
        tiff(2**32 - 1, kind=4),
        tiff(6, kind=2),
        tiff(6, count=0),
        tiff(6, count=65535),
        tiff(6, entry_count=0),
        tiff(6, entry_count=65535),
        tiff(6, offset=1000),
        tiff(6, offset=2**32 - 1),
        tiff(6)[:30],
        tiff(6)[:5],
        b"",
        b"XX" + tiff(6)[2:],
    ],
)
def test_malformed_exif_is_ignored(content):
    assert_orientation(jpeg(exif(content)), 1)


@pytest.mark.parametrize("length", [0, 1])
def test_the_search_ends_at_a_segment_of_no_length(length):
    content = jpeg(segment(0xE2, b"", length), exif(tiff(6)))
    assert decode.exif_orientation(tf.constant(content)) == 1


@pytest.mark.parametrize("marker", [0xD9, 0xDA, 0x00])
def test_the_search_ends_at_the_last_segment(marker):
    content = jpeg(segment(marker, b""), exif(tiff(6)))
    assert decode.exif_orientation(tf.constant(content)) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xd8",
        b"\xff\xd8" + exif(tiff(6))[:-1],
        b"\xff\xd8" + segment(0xE1, b"Exif\0\0" + tiff(6), 65535),
        b"\xff\xd8" + b"\xff" * 200_000 + b"Exif\0\0",
        b"\xff\xd9" + exif(tiff(6)),
        b"RIFF" + exif(tiff(6)),
    ],
)
def test_bytes_that_are_no_whole_jpeg_have_no_orientation(content):
    assert decode.exif_orientation(tf.constant(content)) == 1


def test_random_damage_to_exif_is_harmless():
    rng = np.random.default_rng(0)
    whole = np.frombuffer(jpeg(exif(tiff(6)))[:200], np.uint8)
    damaged = [whole.tobytes()]
    for _ in range(300):
        one = whole.copy()
        places = rng.integers(2, 80, rng.integers(1, 5))
        one[places] = rng.choice([0, 1, 2, 8, 0xD8, 0xE1, 0xFE, 0xFF], len(places))
        damaged.append(one[: rng.integers(20, 201)].tobytes())
    dataset = tf.data.Dataset.from_tensor_slices(damaged).map(decode.exif_orientation)
    found = list(dataset.as_numpy_iterator())
    assert found[0] == 6
    assert set(found) <= set(range(1, 9))


def test_one_graph_decodes_files_of_every_kind():
    contents = [
        PLAIN,
        jpeg(exif(tiff(6))),
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

    @tf.function(autograph=False)
    def served(contents):
        return tf.map_fn(
            lambda one: decode.resize(decode.decode_image(one), 16),
            contents,
            fn_output_signature=tf.TensorSpec([16, 16, 3], tf.float32),
        )

    expected = [decode.resize(one, 16) for one in alone]
    np.testing.assert_allclose(served(tf.constant(contents)), expected, atol=1e-3)
