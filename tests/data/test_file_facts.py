import numpy as np
import pytest
from helpers import png_header
from PIL import Image

from keras_ft.data import file_facts
from keras_ft.data.file_facts import Problem

RGB = Image.fromarray(np.arange(40 * 30 * 3, dtype=np.uint8).reshape(30, 40, 3))


def read(path):
    facts = np.zeros(1, file_facts.FACTS)
    file_facts.read_header(str(path), facts[0])
    assert facts["header_read"]
    return facts[0]


def problem(path):
    return read(path)["problem"]


@pytest.mark.parametrize("name", ["avif", "bmp", "gif", "jpeg", "png", "tiff", "webp"])
def test_format_and_size_are_read_from_the_header(tmp_path, name):
    RGB.save(tmp_path / "image.any", name)
    facts = read(tmp_path / "image.any")
    assert file_facts.FORMATS[facts["format"]] == name
    assert (facts["width"], facts["height"]) == (40, 30)
    assert facts["problem"] == 0
    assert not facts["animated"]
    assert not facts["decoded"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, Problem.MISSING_FILE),
        (b"", Problem.EMPTY_FILE),
        (b"a text that is long enough", Problem.NOT_AN_IMAGE),
        (b"RIFF\x00\x00\x00\x00WAVE", Problem.NOT_AN_IMAGE),
        (b"\x89PNG\r\n\x1a\n", Problem.UNREADABLE),
        (b"\xff\xd8\xff", Problem.UNREADABLE),
        (b"II*\0", Problem.UNREADABLE),
        (b"\0\0\0\x10ftypavif\0\0\0\0", Problem.UNREADABLE),
        (png_header(9000, 9900), Problem.NONE),
        (png_header(10000, 10000), Problem.TOO_LARGE),
        (png_header(60000, 60000), Problem.TOO_LARGE),
    ],
)
def test_problems_are_found_in_the_header(tmp_path, content, expected):
    path = tmp_path / "x.png"
    if content is not None:
        path.write_bytes(content)
    assert problem(path) == expected


def test_impossible_names_and_folders_are_missing_files(tmp_path):
    assert problem("a\0b.png") == Problem.MISSING_FILE
    assert problem(tmp_path) == Problem.MISSING_FILE


@pytest.mark.parametrize("name", ["jpeg", "tiff"])
def test_exif_orientation_is_read(tmp_path, name):
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[274] = orientation
        RGB.save(tmp_path / "x", name, exif=exif)
        assert read(tmp_path / "x")["orientation"] == orientation


@pytest.mark.parametrize("name", ["avif", "gif", "png", "tiff", "webp"])
def test_animations_are_detected(tmp_path, name):
    other = RGB.transpose(Image.Transpose.ROTATE_180)
    RGB.save(tmp_path / f"x.{name}", save_all=True, append_images=[other])
    assert read(tmp_path / f"x.{name}")["animated"]


def test_a_second_picture_in_a_jpeg_is_no_animation(tmp_path):
    RGB.save(tmp_path / "x.jpg", "mpo", save_all=True, append_images=[RGB])
    facts = read(tmp_path / "x.jpg")
    assert file_facts.FORMATS[facts["format"]] == "jpeg"
    assert not facts["animated"]


def test_exact_duplicates_are_files_with_the_same_bytes(tmp_path):
    body = bytes(20_000)
    contents = {
        "a": body,
        "b": body[:10_000] + b"x" + body[10_001:],  # the same ends
        "c": body,
        "d": body + b"x",
        "e": b"",
        "f": body[:10_000] + b"x" + body[10_001:],
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(b"\x89PNG" + content)
    files = [str(tmp_path / name) for name in contents]
    facts = np.array([read(file) for file in files])
    duplicates = file_facts.find_exact_duplicates(files, facts)
    assert duplicates.tolist() == [0, 1, 0, 3, 4, 1]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"\xff\xd8\xff\xe0", "jpeg"),
        (b"\x89PNG\r\n\x1a\n", "png"),
        (b"GIF89a", "gif"),
        (b"BM....", "bmp"),
        (b"RIFF\x00\x00\x00\x00WEBP", "webp"),
        (b"RIFF\x00\x00\x00\x00WAVE", None),
        (b"II*\0", "tiff"),
        (b"MM\0*", "tiff"),
        (b"II+\0", "tiff"),
        (b"\0\0\0\x10ftypavif\0\0\0\0", "avif"),
        (b"\0\0\0\x10ftypheic\0\0\0\0", "heic"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "heic"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", "avif"),
        # The brands end with their box.
        (b"\0\0\0\x10ftypisom\0\0\0\0heicavif", None),
        (b"", None),
    ],
)
def test_format_is_detected_from_the_first_bytes(header, expected):
    assert file_facts.detect_format(header) == expected
