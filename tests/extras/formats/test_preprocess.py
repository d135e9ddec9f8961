"""preprocess.py gives the pixels of training."""

import ast
import io
import itertools
import json
import struct
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from image_helpers import FILES, RGB, TRANSPARENT, encode, make_png
from PIL import Image

from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.extras.formats import preprocess
from keras_ft.extras.formats.preprocessing_files import write_preprocessing
from keras_ft.images import decode

RNG = np.random.default_rng(0)


def make_noisy(height, width):
    """A coarse pattern with noise, of all colours."""
    coarse = Image.fromarray(RNG.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((width, height)), int)
    pixels += RNG.integers(-30, 30, pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


NOISY = make_noisy(37, 53)


def remove_adobe(jpeg):
    """Removes the segment that says whether CMYK is inverted."""
    start = jpeg.index(b"\xff\xee")
    return jpeg[:start] + jpeg[start + 2 + int.from_bytes(jpeg[start + 2 :][:2]) :]


def move_frame(gif, canvas, start):
    """Changes the size of a GIF's canvas, and where its frame starts."""
    size = gif[6:10]
    begin = gif.index(b"\x2c\0\0\0\0" + size) + 1
    position = struct.pack("<HH", *start)
    moved = gif[:begin] + position + gif[begin + 4 :]
    return moved[:6] + struct.pack("<HH", *canvas) + moved[10:]


def make_jpegs():
    for quality in (30, 75, 100):
        for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
            options = {"quality": quality, "subsampling": subsampling}
            yield f"jpeg {quality} {subsampling}", encode(NOISY, "jpeg", **options)
    yield "jpeg progressive", encode(NOISY, "jpeg", progressive=True)
    yield "jpeg rgb", encode(NOISY, "jpeg", keep_rgb=True)
    cmyk = encode(NOISY.convert("CMYK"), "jpeg")
    yield "jpeg cmyk, not of Adobe", remove_adobe(cmyk)


def make_pngs():
    for depth in (1, 2, 4, 8, 16):
        grey = RNG.integers(0, 2**depth, (9, 13))
        key = struct.pack(">H", grey[2, 3])
        yield f"png grey {depth}", make_png(grey, depth, 0)
        yield f"png grey {depth}, one shade", make_png(grey, depth, 0, (b"tRNS", key))
        if depth < 16:
            palette = (b"PLTE", RNG.bytes(3 * 2**depth))
            yield f"png palette {depth}", make_png(grey, depth, 3, palette)
            alpha = (b"tRNS", RNG.bytes(2**depth - 1))
            content = make_png(grey, depth, 3, palette, alpha)
            yield f"png palette {depth}, transparent", content
    deep = RNG.integers(0, 2**16, (9, 13, 3))
    yield "png rgb 16", make_png(deep, 16, 2)
    yield "png grey and alpha 16", make_png(deep[..., :2], 16, 4)


def make_gifs():
    for name, options in {"": {}, ", transparent": {"transparency": 5}}.items():
        gif = encode(NOISY.quantize(64), "gif", **options)
        yield f"gif{name}", gif
        yield f"gif larger{name}", move_frame(gif, (70, 45), (0, 0))
        yield f"gif moved{name}", move_frame(gif, (70, 45), (9, 4))
        yield f"gif smaller{name}", move_frame(gif, (40, 30), (9, 4))


CONTENTS = {
    **{name: content for name, (content, *_) in FILES.items()},
    **TRANSPARENT,
    **dict(make_jpegs()),
    **dict(make_pngs()),
    **dict(make_gifs()),
    "webp lossy": encode(NOISY, "webp", quality=50),
    "bmp with alpha": encode(NOISY.convert("RGBA"), "bmp"),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_every_kind_of_file_is_decoded_as_in_training(name):
    expected = decode.decode_image(tf.constant(CONTENTS[name])).numpy()
    decoded = preprocess.decode(CONTENTS[name])
    assert decoded.dtype == np.uint8
    assert decoded.shape == expected.shape
    np.testing.assert_allclose(decoded.astype(int), expected, atol=1)


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("value", range(10))
def test_exif_is_applied_as_in_training(value, long):
    def pack(order):
        entry = struct.pack(order + "HHI", 0x0112, 4 if long else 3, 1)
        number = struct.pack(order + ("I" if long else "H"), value).ljust(4, b"\0")
        start = b"II*\0" if order == "<" else b"MM\0*"
        head = start + struct.pack(order + "IH", 8, 1)
        return b"Exif\0\0" + head + entry + number + bytes(4)

    for order, kind in itertools.product("<>", ("jpeg", "png", "webp")):
        content = encode(NOISY, kind, exif=pack(order))
        expected = decode.decode_image(tf.constant(content)).numpy()
        np.testing.assert_allclose(
            preprocess.decode(content).astype(int), expected, atol=1
        )
        assert (expected.shape[0] == 53) == (5 <= value <= 8)


@pytest.mark.parametrize(
    "options",
    [
        {"exif": b"Exif\0\0II*\0"},
        {"exif": b"Exif\0\0II*\0\xff\xff\xff\xff"},
        {"xmp": b'<x tiff:Orientation="6"/>'},
    ],
)
def test_what_training_ignores_is_ignored(options):
    content = encode(NOISY, "jpeg", **options)
    expected = decode.decode_image(tf.constant(content))
    assert expected.shape == (37, 53, 3)
    np.testing.assert_array_equal(preprocess.decode(content), expected)


@pytest.mark.parametrize("mode", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("size", [(16, 16), (16, 24), (97, 41)])
def test_images_are_resized_as_in_training(size, mode):
    for shape in [(37, 53), (300, 7), (1, 1), (1, 300), (301, 201), (16, 24)]:
        pixels = RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)
        resized = preprocess.resize(pixels, preprocess.Settings(*size, mode))
        assert resized.dtype == np.float32
        expected = decode.resize(pixels, Preprocessing(*size, mode))
        np.testing.assert_allclose(resized, expected, atol=0.02)


def test_the_files_work_where_nothing_else_is(tmp_path):
    write_preprocessing(Preprocessing(16, 24, "pad"), tmp_path)
    imported = set()
    for node in ast.walk(ast.parse((tmp_path / "preprocess.py").read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    assert imported - set(sys.stdlib_module_names) == {"numpy", "PIL"}
    content = encode(RGB, "jpeg")
    (tmp_path / "photo.jpg").write_bytes(content)
    names = ("preprocess.py", "preprocessing.json", "photo.jpg", "pixels.npy")
    subprocess.run([sys.executable, "-I", *names], check=True, cwd=tmp_path)
    pixels = np.load(tmp_path / "pixels.npy")
    assert pixels.dtype == np.float32
    expected = decode.resize(decode.decode_image(content), Preprocessing(16, 24, "pad"))
    np.testing.assert_allclose(pixels, expected, atol=1)


def test_settings_that_the_file_does_not_know_are_an_error(tmp_path):
    write_preprocessing(Preprocessing(16, 16, "crop"), tmp_path)
    path = tmp_path / "preprocessing.json"
    settings = preprocess.load_settings(path)
    assert settings == preprocess.Settings(16, 16, "crop")
    content = json.loads(path.read_text())
    for change in ({"antialias": False}, {"resize": "fill"}, {"new": 1}):
        path.write_text(json.dumps(content | change))
        with pytest.raises(ValueError, match="copy both"):
            preprocess.load_settings(path)


@pytest.mark.parametrize("content", [b"", b"a text", CONTENTS["png"][:60]])
def test_bytes_that_are_no_image_are_an_error(content):
    with pytest.raises(OSError):
        preprocess.decode(content)


def test_formats_that_the_saved_model_refuses_are_refused():
    stream = io.BytesIO()
    RGB.save(stream, "tiff")
    with pytest.raises(OSError, match="cannot identify"):
        preprocess.decode(stream.getvalue())
