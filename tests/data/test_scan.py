import os
from pathlib import Path

import numpy as np
import pytest
from helpers import png_header
from PIL import Image

from keras_ft.data import scan

RGB = Image.fromarray(np.arange(40 * 30 * 3, dtype=np.uint8).reshape(30, 40, 3))


def scan_one(path, cache_dir):
    [facts] = scan.scan([str(path)], cache_dir)
    return facts


def problem(facts):
    return scan.PROBLEMS[facts["problem"]]


@pytest.mark.parametrize("name", ["bmp", "gif", "jpeg", "png", "webp"])
def test_format_and_size_are_told_by_the_content(tmp_path, name):
    RGB.save(tmp_path / "image.any", name)
    facts = scan_one(tmp_path / "image.any", tmp_path / "cache")
    assert scan.FORMATS[facts["format"]] == name
    assert (facts["width"], facts["height"]) == (40, 30)
    assert problem(facts) == ""
    assert not facts["animated"]
    assert not facts["decoded"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "missing_file"),
        (b"", "empty_file"),
        (b"a text that is long enough", "not_an_image"),
        (b"RIFF\x00\x00\x00\x00WAVE", "not_an_image"),
        (b"\x89PNG\r\n\x1a\n", "unreadable"),
        (b"\xff\xd8\xff", "unreadable"),
        (png_header(9000, 9900), ""),
        (png_header(10000, 10000), "too_large"),
        (png_header(60000, 60000), "too_large"),
    ],
)
def test_problems_are_told_from_the_head(tmp_path, content, expected):
    path = tmp_path / "x.png"
    if content is not None:
        path.write_bytes(content)
    assert problem(scan_one(path, tmp_path / "cache")) == expected


def test_names_that_no_file_can_have(tmp_path):
    assert problem(scan_one("a\0b.png", tmp_path)) == "missing_file"
    assert problem(scan_one(tmp_path, tmp_path)) == "missing_file"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    RGB.save(tmp_path / "x.jpg", exif=exif)
    facts = scan_one(tmp_path / "x.jpg", tmp_path / "cache")
    assert facts["orientation"] == orientation


@pytest.mark.parametrize("name", ["gif", "png", "webp"])
def test_animations_are_told(tmp_path, name):
    other = RGB.transpose(Image.Transpose.ROTATE_180)
    RGB.save(tmp_path / f"x.{name}", save_all=True, append_images=[other])
    assert scan_one(tmp_path / f"x.{name}", tmp_path / "cache")["animated"]


def test_a_second_picture_behind_a_jpeg_is_no_animation(tmp_path):
    RGB.save(tmp_path / "x.jpg", "mpo", save_all=True, append_images=[RGB])
    facts = scan_one(tmp_path / "x.jpg", tmp_path / "cache")
    assert scan.FORMATS[facts["format"]] == "jpeg"
    assert not facts["animated"]


def test_facts_are_remembered_until_the_file_changes(tmp_path):
    path, cache = tmp_path / "x.png", tmp_path / "cache"
    RGB.save(path)
    learned = []

    def learn(file, facts):
        learned.append(file)
        scan.scan_file(file, facts)

    def recall():
        [facts] = scan.recall([str(path)], cache, learn, lambda f: f["scanned"], "")
        return facts

    first = recall()
    assert recall() == first
    assert learned == [str(path)]
    RGB.resize((10, 10)).save(path)
    assert recall()["width"] == 10
    # The same size and modification time: only the time of the change tells.
    times = os.stat(path)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    recall()
    assert len(learned) == 3


def test_a_file_that_is_missing_is_not_remembered(tmp_path):
    path = tmp_path / "x.png"
    assert problem(scan_one(path, tmp_path)) == "missing_file"
    RGB.save(path)
    assert problem(scan_one(path, tmp_path)) == ""


def test_more_files_than_one_part_are_kept_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(scan, "_CHUNK", 3)
    files = [str(tmp_path / f"{width}.png") for width in range(1, 9)]
    for width, file in enumerate(files, 1):
        RGB.resize((width, 2)).save(file)
    for _ in range(2):
        facts = scan.scan(files, tmp_path / "cache")
        assert facts["width"].tolist() == list(range(1, 9))


def test_a_damaged_memory_costs_time_only(tmp_path, caplog):
    RGB.save(tmp_path / "x.png")
    cache = tmp_path / "cache"
    scan_one(tmp_path / "x.png", cache)
    [memory] = cache.iterdir()
    memory.write_bytes(b"no database" * 500)
    assert scan_one(tmp_path / "x.png", cache)["width"] == 40
    assert "not remembered" in caplog.text
    caplog.clear()
    assert scan_one(tmp_path / "x.png", cache)["width"] == 40
    assert caplog.text == ""


def test_a_cache_dir_that_is_a_file_costs_time_only(tmp_path, caplog):
    RGB.save(tmp_path / "x.png")
    (tmp_path / "cache").write_text("x")
    assert scan_one(tmp_path / "x.png", tmp_path / "cache")["width"] == 40
    assert "not remembered" in caplog.text


def test_twins_are_files_of_the_same_bytes(tmp_path):
    body = os.urandom(20_000)
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
    facts = scan.scan(files, tmp_path / "cache")
    twins = scan.find_twins(files, facts)
    assert twins.tolist() == [0, 1, 0, 3, 4, 1]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"\xff\xd8\xff\xe0", "jpeg"),
        (b"\x89PNG\r\n\x1a\n", "png"),
        (b"GIF89a", "gif"),
        (b"BM....", "bmp"),
        (b"RIFF\x00\x00\x00\x00WEBP", "webp"),
        (b"RIFF\x00\x00\x00\x00WAVE", None),
        (b"", None),
    ],
)
def test_format_is_told_by_content(header, expected):
    assert scan.image_format(header) == expected


def test_names_of_files_need_not_be_utf8(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    with open(os.fsencode(path), "wb") as stream:
        RGB.save(stream, "png")
    for _ in range(2):
        assert scan_one(path, tmp_path / "cache")["width"] == 40
