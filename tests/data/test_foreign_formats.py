"""Files of any format that Pillow reads become what a viewer shows."""

import io
import struct

import numpy as np
import pytest
from conversion_helpers import RGB, decode_file, problems, rng
from helpers import COLOURS, png_header, write_images
from PIL import Image

from keras_ft.config.settings import Config
from keras_ft.data.file_facts import FORMATS, Problem, detect_format
from keras_ft.data.pixel_limit import with_pixel_limit
from keras_ft.jobs.check import check
from keras_ft.serving.encoded import read_image

GREY = RGB.convert("L")
PALETTE = RGB.quantize(16)
DEEP = rng.integers(0, 2**16, (30, 40), np.uint16)


def make_bmp(header, palette, rows):
    """A BMP of some header, palette and rows, which are padded to four bytes."""
    start = 14 + len(header) + len(palette)
    size = start + len(rows)
    return struct.pack("<2sIII", b"BM", size, 0, start) + header + palette + rows


def make_header(bits, compression=0, size=0):
    return struct.pack(
        "<IiiHHIIiiII", 40, 40, 30, 1, bits, compression, size, 0, 0, 16, 16
    )


def pack(image, bits):
    """The rows of a palette image, from below, with some bits per pixel."""
    indices = np.asarray(image)[::-1].astype(np.uint8)
    unpacked = np.unpackbits(indices[..., None], axis=-1)[..., -bits:]
    packed = np.packbits(unpacked.reshape(len(indices), -1), axis=-1)
    return np.pad(packed, [(0, 0), (0, -packed.shape[1] % 4)]).tobytes()


def make_palette(image, width):
    colours = np.array(image.getpalette()[:48]).reshape(16, 3)[:, ::-1]
    return np.pad(colours, [(0, 0), (0, width - 3)]).astype(np.uint8).tobytes()


def make_bmps():
    """Files of each kind, and what they show."""
    four, os2 = make_palette(PALETTE, 4), struct.pack("<IHHHH", 12, 40, 30, 1, 4)
    shown = PALETTE.convert("RGB")
    one = io.BytesIO()
    RGB.convert("1").save(one, "bmp")
    # Runs of one pixel (RLE8), and the end of the bitmap.
    indices = np.asarray(PALETTE)[::-1]
    runs = (
        b"".join(b"".join(bytes([1, i]) for i in row) + b"\0\0" for row in indices)
        + b"\0\1"
    )
    colours = np.asarray(RGB).astype(int) >> 3
    rgb15 = (colours[..., 0] << 10 | colours[..., 1] << 5 | colours[..., 2])[::-1]
    rows = rgb15.astype("<u2").tobytes()
    return {
        "1 bit": (one.getvalue(), RGB.convert("1").convert("RGB")),
        "4 bits": (make_bmp(make_header(4), four, pack(PALETTE, 4)), shown),
        "OS/2": (make_bmp(os2, make_palette(PALETTE, 3), pack(PALETTE, 4)), shown),
        "RLE": (make_bmp(make_header(8, 1, len(runs)), four, runs), shown),
        "16 bits": (
            make_bmp(make_header(16)[:-8] + bytes(8), b"", rows),
            Image.fromarray((colours * 255 / 31).astype(np.uint8)),
        ),
    }


BMPS = make_bmps()


@pytest.mark.parametrize("kind", BMPS)
def test_a_bmp_that_tensorflow_can_not_decode_is_converted(tmp_path, load, kind):
    content, shown = BMPS[kind]
    (tmp_path / "x.bmp").write_bytes(content)
    dataset = load("x.bmp")
    assert dataset.facts["foreign"].all()
    pixels = decode_file(dataset.examples.files[0]).astype(int)
    assert np.abs(pixels - np.asarray(shown)).max() <= 1
    assert read_image(content).content[:4] == b"\x89PNG"


def test_common_files_are_not_converted(tmp_path, load):
    for i, image in enumerate([RGB, GREY, RGB.quantize(64), RGB.convert("RGBA")]):
        image.save(tmp_path / f"{i}.bmp")
    frames = {"save_all": True, "append_images": [RGB.convert("RGBA")]}
    RGB.save(tmp_path / "4.webp")
    rng_alpha = Image.fromarray(rng.integers(0, 256, (30, 40, 4), np.uint8))
    rng_alpha.save(tmp_path / "5.webp", **frames)
    names = [*(f"{i}.bmp" for i in range(4)), "4.webp", "5.webp"]
    dataset = load(*names)
    assert not dataset.facts["foreign"].any()
    for file in dataset.examples.files:
        assert decode_file(file).shape == (30, 40, 3)


@pytest.mark.parametrize("name", ["jpeg2000", "ppm", "tga"])
def test_other_formats_are_converted(tmp_path, load, name):
    for mode in ("RGB", "L"):
        RGB.convert(mode).save(tmp_path / mode, name)
    dataset = load("RGB", "L")
    assert [FORMATS[i] for i in dataset.facts["format"]] == [name, name]
    for file, mode in zip(dataset.examples.files, ("RGB", "L"), strict=True):
        expected = np.asarray(RGB.convert(mode).convert("RGB"))
        np.testing.assert_array_equal(decode_file(file), expected)


@pytest.mark.parametrize("name", ["jpeg2000", "ppm"])
def test_of_sixteen_bits_the_upper_eight_are_used(tmp_path, load, name):
    Image.fromarray(DEEP).save(tmp_path / "x", name)
    dataset = load("x")
    assert dataset.facts["deep"].all()
    pixels = decode_file(dataset.examples.files[0])
    np.testing.assert_array_equal(pixels[..., 0], DEEP >> 8)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"P6 1 1 255\n", "ppm"),
        (b"P7 1 1 255\n", None),
        (b"\xff\x4f\xff\x51\0", "jpeg2000"),
        (bytes([0, 0, 2, *[0] * 9, 40, 0, 30, 0, 24, 32]), "tga"),
        (bytes([0, 1, 1, 0, 0, 0, 1, 24, 0, 0, 0, 0, 40, 0, 30, 0, 8, 0]), "tga"),
        # An icon, a cursor, a font, and a file of zeros.
        (bytes([0, 0, 1, 0, 1, 0, 16, 16, *[0] * 12]), None),
        (bytes([0, 0, 2, 0, 1, 0, 16, 16, 0, 0, 1, 0, 9, 0, 9, 0, 24, 0]), None),
        (bytes([0, 1, 0, 0, 0, 18, 1, 0, 0, 4, 0, 32, 68, 83, 73, 71, 8, 0]), None),
        (bytes(64), None),
    ],
)
def test_a_format_without_a_signature_is_known_by_all_of_its_header(header, expected):
    assert detect_format(header) == expected


def test_a_cut_file_is_unreadable(tmp_path, load):
    for name in ("jpeg2000", "ppm", "tga"):
        RGB.save(tmp_path / name, name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
    GREY.save(tmp_path / "y.tga")
    found = problems(load("jpeg2000", "ppm", "tga", "y.tga"))
    assert found == [Problem.UNREADABLE] * 3 + [Problem.NONE]


def test_the_limit_of_pixels_is_a_flag(tmp_path):
    for name in ("blue", "red"):
        write_images(tmp_path / "data" / name, COLOURS[name], 4)
    (tmp_path / "data" / "red" / "large.png").write_bytes(png_header(1200, 1000))
    Image.new("1", (1200, 1000)).save(tmp_path / "data" / "blue" / "large.tif")
    config = Config(
        mode="check", data=str(tmp_path / "data"), cache_dir=str(tmp_path / "cache")
    )

    def find(megapixels):
        findings = check(config.replace(max_megapixels=megapixels)).findings
        return sorted(f.name for f in findings if "large" in f.path)

    assert "too_large" not in find(None)
    # Facts in the cache do not keep what another limit said.
    assert find(1) == ["too_large", "too_large"]
    assert find(2) == ["blank", "unreadable"]


def test_the_limit_ends_with_the_job():
    before = Image.MAX_IMAGE_PIXELS
    config = Config(mode="check", data="d", max_megapixels=3)
    assert with_pixel_limit(lambda config: Image.MAX_IMAGE_PIXELS)(config) == 3_000_000
    assert before == Image.MAX_IMAGE_PIXELS
