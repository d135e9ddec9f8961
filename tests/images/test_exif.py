import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from keras_ft.images import exif as graph
from keras_ft.images.decode import decode_image

Y, X = np.mgrid[:32, :32] * 8
IMAGE = Image.fromarray(np.stack([X, Y, (X + Y) // 2], -1).astype(np.uint8))


def encode(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def tiff(value, order="<", kind=3, count=1, entry_count=2, offset=8):
    """Makes a TIFF file of one directory, with orientation as the second entry."""
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
    """Makes a JPEG file of an asymmetric image, with more segments after its APP0."""
    content = encode(IMAGE.resize(size), "jpeg", quality=95)
    start = 4 + int.from_bytes(content[4:6])
    return content[:start] + b"".join(segments) + content[start:]


PLAIN = jpeg()
UPRIGHT = np.asarray(Image.open(io.BytesIO(PLAIN)))


def rotate(orientation):
    """Rotates the image with Pillow."""
    stream = io.BytesIO(encode(Image.fromarray(UPRIGHT), "png"))
    image = Image.open(stream)
    image.getexif()[0x0112] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


def read_orientation(content):
    return graph.read_orientation(graph.find_in_jpeg(tf.convert_to_tensor(content)))


def assert_orientation(content, orientation):
    assert read_orientation(content) == orientation
    decoded = decode_image(tf.constant(content))
    np.testing.assert_array_equal(decoded, rotate(orientation))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_is_rotated_as_by_pillow(orientation, order):
    content = jpeg(exif(tiff(orientation, order)))
    pillow = Image.open(io.BytesIO(content)).getexif()[0x0112]
    assert pillow == orientation
    assert_orientation(content, orientation)


def test_exif_written_by_pillow_is_read():
    tags = Image.Exif()
    tags[0x010F], tags[0x0112] = "a camera's maker", 6
    content = encode(IMAGE.resize((48, 32)), "jpeg", quality=95, exif=tags)
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


def test_exif_may_be_the_first_segment():
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
def test_the_search_ends_at_a_segment_of_invalid_length(length):
    content = jpeg(segment(0xE2, b"", length), exif(tiff(6)))
    assert read_orientation(content) == 1


@pytest.mark.parametrize("marker", [0xD9, 0xDA, 0x00])
def test_the_search_ends_at_the_last_segment(marker):
    content = jpeg(segment(marker, b""), exif(tiff(6)))
    assert read_orientation(content) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xd8",
        b"\xff\xd8" + exif(tiff(6))[:-1],
        b"\xff\xd8" + segment(0xE1, b"Exif\0\0" + tiff(6), 65535),
        b"\xff\xd8" + b"\xff" * 200_000 + b"Exif\0\0",
        b"RIFF" + exif(tiff(6)),
    ],
)
def test_bytes_that_are_no_complete_jpeg_have_no_orientation(content):
    assert read_orientation(content) == 1


def png(*, before=(), after=()):
    """Makes a PNG file of the image, with more chunks before and after its pixels."""
    content = encode(Image.fromarray(UPRIGHT), "png")
    start, end = content.index(b"IDAT") - 4, content.index(b"IEND") - 4
    return b"".join(
        [content[:start], *before, content[start:end], *after, content[end:]]
    )


def chunk(kind, content):
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def webp(content):
    image = Image.fromarray(UPRIGHT)
    return encode(image, "webp", lossless=True, exif=content)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("orientation", range(1, 9))
def test_png_and_webp_are_rotated_as_by_pillow(orientation, order):
    content = tiff(orientation, order)
    with_mark = webp(content).replace(content, b"Exif\0\0" + content)
    for file in (
        png(before=[chunk(b"eXIf", content)]),
        png(before=[chunk(b"tEXt", b"a\0eXIf")], after=[chunk(b"eXIf", content)]),
        webp(content),
        with_mark,
    ):
        decoded = decode_image(tf.constant(file))
        np.testing.assert_array_equal(decoded, rotate(orientation))


@pytest.mark.parametrize("alpha", [0, 128, 255])
def test_transparent_images_are_rotated(alpha):
    image = Image.fromarray(UPRIGHT)
    image.putalpha(alpha)
    tags = Image.Exif()
    tags[0x0112] = 6
    for kind in ("png", "webp"):
        plain = decode_image(tf.constant(encode(image, kind, lossless=True)))
        turned = encode(image, kind, lossless=True, exif=tags)
        expected = np.rot90(plain, -1)
        np.testing.assert_array_equal(decode_image(tf.constant(turned)), expected)


@pytest.mark.parametrize("content", [tiff(9), tiff(6)[:9], b"", b"XX" + tiff(6)[2:]])
def test_malformed_exif_of_png_and_webp_is_ignored(content):
    for file in (png(before=[chunk(b"eXIf", content)]), webp(b"Exif\0\0" + content)):
        np.testing.assert_array_equal(decode_image(tf.constant(file)), UPRIGHT)


def test_random_damage_to_exif_is_harmless():
    rng = np.random.default_rng(0)
    whole = np.frombuffer(jpeg(exif(tiff(6)))[:200], np.uint8)
    damaged = [whole.tobytes()]
    for _ in range(300):
        one = whole.copy()
        places = rng.integers(2, 80, rng.integers(1, 5))
        one[places] = rng.choice([0, 1, 2, 8, 0xD8, 0xE1, 0xFE, 0xFF], len(places))
        damaged.append(one[: rng.integers(20, 201)].tobytes())
    dataset = tf.data.Dataset.from_tensor_slices(damaged).map(read_orientation)
    found = list(dataset.as_numpy_iterator())
    assert found[0] == 6
    assert set(found) <= set(range(1, 9))
