"""Pictures that the network sees otherwise than the user."""

import os

import numpy as np
import pytest
from helpers import make_examples
from image_helpers import make_png
from PIL import Image, ImageDraw

from keras_ft.audit.audit import warn_of_pictures
from keras_ft.audit.decoding import load_decoded_facts
from keras_ft.audit.duplicates import find_near_pairs
from keras_ft.audit.single_files import report_files
from keras_ft.data.dataset import convert_images
from keras_ft.data.examples import Finding
from keras_ft.data.facts_cache import load_header_facts
from keras_ft.data.file_facts import PIXEL_FACTS

RNG = np.random.default_rng(0)
COARSE = Image.fromarray(RNG.integers(0, 256, (6, 6, 3), dtype=np.uint8))
PICTURE = COARSE.resize((48, 40), Image.Resampling.BICUBIC)
GREY = np.asarray(PICTURE.convert("L"), np.uint16)


def find(tmp_path, image, name="x.png", **options):
    """Returns the findings about one file: details by name."""
    path = tmp_path / name
    path.write_bytes(image) if isinstance(image, bytes) else image.save(path, **options)
    files = np.array([str(path)], object)
    facts = load_header_facts(files, tmp_path / "cache")
    examples, facts = convert_images(make_examples(files), facts, tmp_path / "cache")
    decoded = load_decoded_facts(examples.files, tmp_path / "cache")
    for fact in PIXEL_FACTS:
        facts[fact] = decoded[fact]
    return {f.name: f.detail for f in report_files(examples, facts)}


@pytest.mark.parametrize("bits", [9, 10, 11, 12, 13])
@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_a_file_of_16_bits_that_uses_fewer_is_dark(tmp_path, bits, name):
    image = Image.fromarray(GREY << bits - 8)
    [(finding, detail)] = find(tmp_path, image, name).items()
    assert finding == "dark"
    limit = int(detail.partition("values are below ")[2].partition(".")[0])
    assert 2**bits / 2 <= limit <= 2**bits
    assert "16 bits" in detail


def test_colours_of_16_bits_that_use_fewer_are_dark(tmp_path):
    content = make_png(np.asarray(PICTURE, np.uint16) << 3, 16, 2)
    assert set(find(tmp_path, content)) == {"dark"}


def test_a_file_of_16_bits_around_a_middle_value_is_blank(tmp_path):
    image = Image.fromarray((GREY << 4) + np.uint16(30_000))
    assert "16 bits" in find(tmp_path, image)["blank"]


def draw(size, colour, box, background="black"):
    image = Image.new("RGB", size, background)
    ImageDraw.Draw(image).rectangle(box, colour)
    return image


def noise(low, high, size=(300, 300)):
    return Image.fromarray(RNG.integers(low, high, (*size, 3), dtype=np.uint8))


FINE = {
    "picture": PICTURE,
    "all of 16 bits": Image.fromarray(GREY << 8),
    "digit": Image.fromarray(RNG.integers(0, 256, (8, 8), dtype=np.uint8)),
    "mask with a spot": draw((512, 512), "white", (100, 100, 110, 110)),
    "night": draw((400, 300), (120, 110, 60), (50, 50, 75, 75), (6, 6, 12)),
    "steel": noise(118, 132),
    "checkerboard": Image.fromarray(
        np.uint8(np.indices((600, 600)).sum(0) % 2 * 20 + 90)
    ),
    "opaque": PICTURE.convert("RGBA"),
}


@pytest.mark.parametrize("name", FINE)
def test_pictures_with_something_to_see_are_no_findings(tmp_path, name):
    assert not find(tmp_path, FINE[name])


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGB", (64, 64), "white"), "blank"),
        (Image.new("L", (64, 64), 0), "blank"),
        (noise(200, 204), "blank"),
        (noise(0, 12), "dark"),
        (draw((64, 64), (1, 1, 1), (5, 5, 40, 40)), "dark"),  # a mask of 0 and 1
    ],
)
def test_pictures_with_nothing_to_see_are_found(tmp_path, image, expected):
    assert set(find(tmp_path, image)) == {expected}


@pytest.mark.parametrize("name", ["x.png", "x.webp", "x.tif"])
def test_transparency_that_hides_the_picture_is_found(tmp_path, name):
    image = PICTURE.convert("RGBA")
    image.putalpha(PICTURE.getchannel("R").point(lambda v: v // 2 + 40))
    assert "infrared" in find(tmp_path, image, name, lossless=True)["transparent"]
    image.putalpha(draw((48, 40), "white", (0, 0, 9, 39)).convert("L"))
    assert "79 %" in find(tmp_path, image, name, lossless=True)["transparent"]


def test_what_is_transparent_in_a_gif_is_black(tmp_path):
    image = PICTURE.quantize(8)
    index = int(np.bincount(np.asarray(image).ravel()).argmax())
    found = find(tmp_path, image, "x.gif", transparency=index)
    assert "black" in found["transparent"]


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


@pytest.mark.parametrize("name", ["x.jpg", "x.webp"])
def test_an_orientation_in_xmp_alone_is_not_turned(tmp_path, name):
    assert set(find(tmp_path, PICTURE, name, xmp=XMP)) == {"not_turned"}


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.webp", "x.tif"])
def test_an_orientation_in_exif_is_turned(tmp_path, name):
    exif = Image.Exif()
    exif[0x0112] = 6
    found = find(tmp_path, PICTURE, name, exif=exif)
    assert found == {"exif_orientation": "EXIF orientation 6: is turned upright"}


def test_blank_pictures_are_no_near_duplicates(tmp_path):
    files = [
        str(tmp_path / name) for name in ("white.png", "blue.png", "a.png", "b.png")
    ]
    for file, image in zip(files[:2], ("white", (0, 0, 254)), strict=True):
        Image.new("RGB", (64, 64), image).save(file)
    PICTURE.save(files[2])
    PICTURE.resize((40, 36)).save(files[3])
    examples = make_examples(files).with_splits(np.array(["train"] * 4, object))
    facts = load_decoded_facts(files, tmp_path / "cache")
    assert {pair[:2] for pair in find_near_pairs(examples, facts, np.arange(4))} == {
        (3, 2)
    }


def test_a_share_of_such_pictures_is_worth_a_warning(caplog):
    findings = [Finding(f"{i}.png", "dark", "below 4096") for i in range(6)]
    warn_of_pictures(findings, 120)
    assert not caplog.text
    warn_of_pictures(findings, 100)
    assert "6 of 100 images" in caplog.text
    assert "0.png: below 4096" in caplog.text


def test_a_fifo_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    facts = load_header_facts([str(tmp_path / "x.png")], tmp_path / "cache")
    facts = load_decoded_facts([str(tmp_path / "x.png")], tmp_path / "cache")
    [finding] = report_files(make_examples(["x.png"]), facts)
    assert finding.name == "missing_file"
