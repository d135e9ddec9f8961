import io
import struct

import numpy as np
import pytest
import tifffile
from conversion_helpers import RGB, decode, decode_file, problems, rng
from PIL import Image, ImageOps

from keras_ft.data import to_png
from keras_ft.data.file_facts import FORMATS, Problem
from keras_ft.errors import UserError

GREY_16 = rng.integers(0, 2**16, (30, 40), np.uint16)


def converted(tmp_path):
    return sorted((tmp_path / "cache" / "converted").glob("*"))


def decode_as_png(image):
    stream = io.BytesIO()
    image.save(stream, "png")
    return decode(stream.getvalue())


def test_files_are_converted_and_paths_stay(tmp_path, load):
    RGB.save(tmp_path / "x.tif")
    RGB.save(tmp_path / "x.png")
    dataset = load("x.tif", "x.png")
    assert dataset.examples.paths.tolist() == ["x.tif", "x.png"]
    [png] = converted(tmp_path)
    assert dataset.examples.files.tolist() == [str(png), str(tmp_path / "x.png")]
    np.testing.assert_array_equal(decode_file(png), np.asarray(RGB))
    # The facts are those of the user's file.
    assert [FORMATS[i] for i in dataset.facts["format"]] == ["tiff", "png"]
    assert dataset.facts["width"].tolist() == [40, 40]


@pytest.mark.parametrize("name", ["tiff", "avif"])
def test_nothing_is_lost(tmp_path, load, name):
    RGB.save(tmp_path / "x", name)
    [file] = load("x").examples.files
    with Image.open(tmp_path / "x") as image:
        np.testing.assert_array_equal(decode_file(file), np.asarray(image))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_an_image_is_seen_like_the_equal_png(tmp_path, load, mode):
    alpha = Image.fromarray(rng.integers(0, 256, (30, 40), np.uint8))
    image = RGB.convert(mode)
    if mode.endswith("A"):
        image.putalpha(alpha)
    image.save(tmp_path / "x.tif")
    [file] = load("x.tif").examples.files
    np.testing.assert_array_equal(decode_file(file), decode_as_png(image))


def test_cmyk_becomes_rgb(tmp_path, load):
    cmyk = RGB.convert("CMYK")
    cmyk.save(tmp_path / "x.tif")
    [file] = load("x.tif").examples.files
    expected = np.asarray(cmyk.convert("RGB"))
    np.testing.assert_array_equal(decode_file(file), expected)


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_sixteen_bits_are_reduced_as_those_of_a_png(tmp_path, load, byteorder):
    colour = rng.integers(0, 2**16, (30, 40, 3), np.uint16)
    tifffile.imwrite(tmp_path / "grey.tif", GREY_16, byteorder=byteorder)
    tifffile.imwrite(tmp_path / "rgb.tif", colour, byteorder=byteorder)
    options = {"photometric": "miniswhite", "byteorder": "<"}
    tifffile.imwrite(tmp_path / "inverted.tif", 65535 - GREY_16, **options)
    files = load("grey.tif", "rgb.tif", "inverted.tif").examples.files
    grey, rgb, inverted = map(decode_file, files)
    np.testing.assert_array_equal(grey, decode_as_png(Image.fromarray(GREY_16)))
    np.testing.assert_array_equal(grey[..., 0], GREY_16 >> 8)
    np.testing.assert_array_equal(rgb, colour >> 8)
    np.testing.assert_array_equal(inverted, grey)


def write_twelve_bits(path, pixels):
    """Writes a TIFF of 12 bits per pixel (TIFF 6.0, section 3), two in three bytes."""
    height, width = pixels.shape
    first, second = pixels.reshape(-1, 2).T.astype(int)
    triples = [first >> 4, (first & 15) << 4 | second >> 8, second & 255]
    data = np.stack(triples, axis=1).astype(np.uint8).tobytes()
    # Width, height, bits, compression, photometric, offset, rows per strip, bytes.
    tags = {256: width, 257: height, 258: 12, 259: 1, 262: 1}
    tags |= {273: 8 + 2 + 8 * 12 + 4, 278: height, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, v) for tag, v in tags.items())
    header = b"II*\0" + struct.pack("<IH", 8, len(tags))
    path.write_bytes(header + entries + bytes(4) + data)


def test_twelve_bits_are_reduced_too(tmp_path, load):
    write_twelve_bits(tmp_path / "x.tif", GREY_16 >> 4)
    [file] = load("x.tif").examples.files
    np.testing.assert_array_equal(decode_file(file)[..., 0], GREY_16 >> 8)


@pytest.mark.parametrize("name", ["tiff", "avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright(tmp_path, load, name, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    image = RGB.resize((3, 2)).resize((64, 48))  # AVIF loses details
    image.save(tmp_path / "x.jpg", exif=exif, quality=95)
    image.save(tmp_path / "x", name, exif=exif, quality=95)  # changes `exif`
    [file, jpeg] = load("x", "x.jpg").examples.files
    pixels, expected = decode_file(file).astype(int), decode_file(jpeg)
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected).mean() < 5


def test_grey_of_sixteen_bits_is_upright(tmp_path, load):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(GREY_16).save(tmp_path / "x.tif", exif=exif)
    [file] = load("x.tif").examples.files
    expected = np.rot90(GREY_16 >> 8, -1)
    np.testing.assert_array_equal(decode_file(file)[..., 0], expected)


@pytest.mark.parametrize(
    ("name", "options"), [("x.tif", {}), ("x.webp", {"lossless": True})]
)
def test_the_first_page_or_frame_is_used(tmp_path, load, name, options):
    pages = [ImageOps.invert(RGB)]
    RGB.save(tmp_path / name, save_all=True, append_images=pages, **options)
    dataset = load(name)
    assert dataset.facts["animated"].all()
    pixels = decode_file(dataset.examples.files[0])
    np.testing.assert_array_equal(pixels, np.asarray(RGB))


@pytest.mark.parametrize("dtype", ["float32", "int32", "int16"])
def test_pixels_without_a_known_range_are_refused(tmp_path, load, dtype):
    tifffile.imwrite(tmp_path / "x.tif", GREY_16.astype(dtype))
    dataset = load("x.tif")
    assert problems(dataset) == [Problem.UNSUPPORTED_PIXELS]
    assert not converted(tmp_path)


def test_a_bomb_is_not_converted(tmp_path, load):
    bomb = Image.new("1", (10_000, 10_000))
    bomb.save(tmp_path / "x.tif", compression="group4")
    assert problems(load("x.tif")) == [Problem.TOO_LARGE]
    assert not converted(tmp_path)


@pytest.mark.parametrize("name", ["tiff", "avif"])
def test_a_truncated_file_is_unreadable(tmp_path, load, name, monkeypatch):
    RGB.save(tmp_path / "x", name)
    content = (tmp_path / "x").read_bytes()
    # The header is complete: Pillow writes it to the start.
    (tmp_path / "x").write_bytes(content[: len(content) - 100])
    RGB.save(tmp_path / "y", name)
    dataset = load("x", "y")
    assert problems(dataset) == [Problem.UNREADABLE, Problem.NONE]
    assert dataset.examples.files[0] == str(tmp_path / "x")
    # It is not tried again.
    monkeypatch.delattr(to_png, "to_png")
    assert problems(load("x", "y")) == [Problem.UNREADABLE, Problem.NONE]


def test_files_are_converted_once(tmp_path, load, monkeypatch):
    RGB.save(tmp_path / "x.tif")
    files = load("x.tif").examples.files
    with monkeypatch.context() as patch:
        patch.delattr(to_png, "to_png")
        assert load("x.tif").examples.files == files
        # Its content, not its name, says what was converted.
        (tmp_path / "x.tif").rename(tmp_path / "y.tif")
        assert load("y.tif").examples.files == files
    # A changed file is converted again, and so is one whose PNG was removed.
    RGB.resize((8, 8)).save(tmp_path / "y.tif")
    [changed] = load("y.tif").examples.files
    assert changed != files[0]
    converted(tmp_path)[0].unlink()
    converted(tmp_path)[0].unlink()
    assert decode_file(load("y.tif").examples.files[0]).shape == (8, 8, 3)


def test_equal_files_share_a_png(tmp_path, load):
    names = [f"{i}.tif" for i in range(16)]
    for name in names:
        RGB.save(tmp_path / name)
    files = load(*names).examples.files
    [png] = converted(tmp_path)
    assert set(files) == {str(png)}


def test_a_killed_conversion_leaves_no_file(tmp_path, load, monkeypatch):
    def kill(*args):
        raise KeyboardInterrupt

    RGB.save(tmp_path / "x.tif")
    monkeypatch.setattr(to_png.os, "replace", kill)
    with pytest.raises(KeyboardInterrupt):
        load("x.tif")
    assert converted(tmp_path) == []


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path, load):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "converted").write_text("a file")
    RGB.save(tmp_path / "x.tif")
    with pytest.raises(UserError, match="--cache_dir, which must be a folder"):
        load("x.tif")
