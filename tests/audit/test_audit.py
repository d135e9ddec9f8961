import collections
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import png_header
from PIL import Image, ImageOps

from keras_ft.audit import audit
from keras_ft.audit.audit import find_all
from keras_ft.audit.decoding import decode_images
from keras_ft.audit.split_findings import draw_splits
from keras_ft.config.schema import DataConfig
from keras_ft.data.dataset import load_dataset, make_splits


def scene(seed, size=(96, 80)):
    """An image of random soft shapes, different for each seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (9, 11, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def save(image, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """Two classes with splits; 12, 3 and 3 images each."""
    seed = 0
    for split, count in (("train", 12), ("val", 3), ("test", 3)):
        for name in ("ant", "bee"):
            for i in range(count):
                save(scene(seed), tmp_path / "data" / split / name / f"{i}.png")
                seed += 1
    return tmp_path / "data"


OF_PAIRS = ("duplicate", "leak", "conflict")


def find(folder, **fields):
    """Returns path in the folder, name and detail of each finding."""
    config = DataConfig(
        data=str(folder), cache_dir=str(folder.parent / "cache"), **fields
    )
    dataset = decode_images(load_dataset(config), Path(config.cache_dir))
    examples = draw_splits(dataset, config, seed=0)
    findings, prefix = find_all(examples, dataset), f"{folder}/"
    for finding in findings:  # about two images, or one
        compares = finding.name.removeprefix("near_") in OF_PAIRS
        assert bool(finding.other) == compares and finding.other in finding.detail
    return [
        (f.path.removeprefix(prefix), f.name, f.detail.replace(prefix, ""))
        for f in findings
    ]


def names(findings):
    return {(path, name) for path, name, _ in findings}


def test_a_clean_set_has_no_findings(folder):
    assert find(folder) == []


def write_bad_files(folder):
    """Writes a file of each kind to train/ant; returns the expected findings."""
    ant = folder / "train" / "ant"
    jpeg = io.BytesIO()
    scene(100).save(jpeg, "jpeg")
    (ant / "truncated.jpg").write_bytes(jpeg.getvalue()[: len(jpeg.getvalue()) // 2])
    png = (ant / "0.png").read_bytes()
    (ant / "damaged.png").write_bytes(png[:2000] + bytes(200) + png[2200:])
    (ant / "empty.jpg").write_bytes(b"")
    (ant / "text.jpg").write_text("<html>not found</html>")
    (ant / "bomb.png").write_bytes(png_header(10_000, 9_000))
    scene(101).save(ant / "really_png.jpg", "png")
    frames = {"save_all": True, "append_images": [scene(103)]}
    scene(102).save(ant / "moving.gif", **frames)
    scene(104).save(ant / "moving.webp", **frames)
    exif = Image.Exif()
    exif[274] = 6
    scene(105).save(ant / "turned.jpg", exif=exif)
    scene(106, (5, 90)).save(ant / "thin.png")
    (ant / "photo.psd").write_bytes(b"8BPS")
    scene(107).save(ant / "pages.tif", **frames)
    scene(108).save(ant / "turned.tif", exif=exif)
    scene(109).convert("F").save(ant / "float.tif")
    scene(110).save(ant / "really_tiff.jpg", "tiff")
    scene(111).save(ant / "really_jpeg.tif", "jpeg")
    scene(112).save(ant / "fine.avif")
    avif = (ant / "fine.avif").read_bytes()
    (ant / "truncated.avif").write_bytes(avif[:-20])
    (ant / "photo.heic").write_bytes(b"\0\0\0\x10ftypheic\0\0\0\0")
    (ant / "__MACOSX").mkdir()
    return {
        ("train/ant/truncated.jpg", "unreadable"),
        ("train/ant/damaged.png", "unreadable"),
        ("train/ant/empty.jpg", "empty_file"),
        ("train/ant/text.jpg", "not_an_image"),
        ("train/ant/bomb.png", "too_large"),
        ("train/ant/really_png.jpg", "wrong_extension"),
        ("train/ant/moving.gif", "animated"),
        ("train/ant/moving.webp", "animated"),
        ("train/ant/turned.jpg", "exif_orientation"),
        ("train/ant/thin.png", "too_small"),
        ("train/ant/photo.psd", "ignored_file"),
        ("train/ant/pages.tif", "animated"),
        ("train/ant/turned.tif", "exif_orientation"),
        ("train/ant/float.tif", "unsupported_pixels"),
        ("train/ant/really_tiff.jpg", "wrong_extension"),
        ("train/ant/really_jpeg.tif", "wrong_extension"),
        ("train/ant/truncated.avif", "unreadable"),
        ("train/ant/photo.heic", "missing_package"),
        ("train/ant/__MACOSX", "suspicious_folder"),
    }


NUM_UNREADABLE = 8


@pytest.fixture
def no_heic(monkeypatch):
    """Hides the package that reads HEIC."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)


def test_every_kind_of_bad_file_is_found(folder, no_heic):
    expected = write_bad_files(folder)
    for _ in range(2):  # the second time from the cache
        findings = find(folder)
        assert names(findings) == expected
        assert len(findings) == len(expected)
    details = {(path, name): detail for path, name, detail in findings}
    assert details["train/ant/bomb.png", "too_large"] == "10000 x 9000 pixels"
    assert "PNG" in details["train/ant/really_png.jpg", "wrong_extension"]
    assert "orientation 6" in details["train/ant/turned.jpg", "exif_orientation"]
    assert "first page" in details["train/ant/pages.tif", "animated"]
    assert "TIFF" in details["train/ant/really_tiff.jpg", "wrong_extension"]
    assert "JPEG" in details["train/ant/really_jpeg.tif", "wrong_extension"]
    assert "8 or 16 bits" in details["train/ant/float.tif", "unsupported_pixels"]
    heic = details["train/ant/photo.heic", "missing_package"]
    assert "pip install 'keras_ft[heic]'" in heic


def test_unreadable_files_are_skipped_and_counted(folder, no_heic):
    write_bad_files(folder)
    config = DataConfig(data=str(folder), cache_dir=str(folder.parent / "cache"))
    dataset = decode_images(load_dataset(config), Path(config.cache_dir))
    examples = make_splits(dataset, config, seed=0)
    assert len(examples.train) == 24 + 10
    assert np.sum(examples.splits == "skipped") == NUM_UNREADABLE


def test_duplicates_of_converted_files_are_found(folder):
    for path in ("train/ant/a.tif", "train/ant/b.tif", "test/bee/c.tif"):
        scene(100).save(folder / path)
    scene(100).save(folder / "val" / "ant" / "d.avif", quality=90)
    found = {(path, name): detail for path, name, detail in find(folder)}
    same = "the same bytes as train/ant/a.tif"
    assert found["train/ant/b.tif", "duplicate"] == same
    assert found["test/bee/c.tif", "leak"] == f"{same} in train"
    assert found["val/ant/d.avif", "near_leak"].startswith("looks like")


def test_duplicates_leaks_and_conflicts_are_found(folder):
    def copy(source, target):
        (folder / target).write_bytes((folder / source).read_bytes())

    copy("train/ant/0.png", "train/ant/copy.png")
    copy("train/ant/1.png", "test/ant/leak.png")
    copy("val/bee/0.png", "test/bee/leak.png")
    copy("train/ant/2.png", "train/bee/conflict.png")
    copy("train/bee/3.png", "val/ant/both.png")
    found = {
        (path, name): detail
        for path, name, detail in find(folder)
        if name != "ignored_file"
    }
    assert found == {
        ("train/ant/copy.png", "duplicate"): "the same bytes as train/ant/0.png",
        ("test/ant/leak.png", "leak"): "the same bytes as train/ant/1.png in train",
        ("test/bee/leak.png", "leak"): "the same bytes as val/bee/0.png in val",
        ("train/bee/conflict.png", "duplicate"): "the same bytes as train/ant/2.png",
        ("train/bee/conflict.png", "conflict"): (
            "the same bytes as train/ant/2.png of class ant"
        ),
        ("train/ant/2.png", "conflict"): (
            "the same bytes as train/bee/conflict.png of class bee"
        ),
        ("val/ant/both.png", "leak"): "the same bytes as train/bee/3.png in train",
        ("val/ant/both.png", "conflict"): (
            "the same bytes as train/bee/3.png of class bee"
        ),
        (
            "train/bee/3.png",
            "conflict",
        ): "the same bytes as val/ant/both.png of class ant",
    }


CHANGES = {
    "smaller": lambda image: image.resize((60, 50)),
    "mirrored": ImageOps.mirror,
    "cropped": lambda image: image.crop((1, 1, 95, 79)),
    "brighter": lambda image: image.point(lambda v: min(255, int(v * 1.1))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_near_duplicates_are_found(folder, change):
    image = CHANGES[change](Image.open(folder / "train" / "ant" / "4.png"))
    image.save(folder / "train" / "ant" / "near.jpg", quality=60)
    image.save(folder / "test" / "bee" / "near.jpg", quality=70)
    findings = find(folder)
    assert names(findings) == {
        ("train/ant/near.jpg", "near_duplicate"),
        ("test/bee/near.jpg", "near_leak"),
        ("test/bee/near.jpg", "near_conflict"),
    }
    assert all("bits differ" in detail for _, _, detail in findings)


def test_small_images_are_no_near_duplicates(folder):
    rng = np.random.default_rng(0)
    for i in range(200):
        pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
        save(Image.fromarray(pixels), folder / "train" / "ant" / f"small{i}.png")
        if i < 20:
            save(Image.fromarray(pixels ^ 1), folder / "test" / "ant" / f"small{i}.png")
    assert find(folder) == []


def test_duplicates_are_kept_in_one_split_and_are_no_leak(tmp_path):
    for name, seeds in (("ant", range(30)), ("bee", range(30, 60))):
        for i in seeds:
            for copy in "ab":
                save(scene(i), tmp_path / "data" / name / f"{i}{copy}.png")
    findings = find(tmp_path / "data", val_fraction=0.2, test_fraction=0.2)
    count = collections.Counter(name for _, name, _ in findings)
    assert count == {"duplicate": 60}


def test_groups_in_several_given_splits_are_found(folder):
    rows = ["path,label,split,group"]
    for split in ("train", "val", "test"):
        for name in ("ant", "bee"):
            for i in range(12 if split == "train" else 3):
                group = "p1" if (split, i) in {("train", 0), ("test", 1)} else ""
                rows.append(f"data/{split}/{name}/{i}.png,{name},{split},{group}")
    table = folder.parent / "table.csv"
    table.write_text("\n".join(rows))
    [finding] = find(table)
    assert finding[1:] == ("group_leak", "group p1 is in train and test")


def test_small_classes_and_classes_missing_in_a_split_are_found(folder):
    for i in range(5):
        save(scene(200 + i), folder / "train" / "cat" / f"{i}.png")
    assert set(find(folder)) == {
        ("cat", "few_images", "5 images in train, fewer than 10"),
        ("cat", "missing_class", "no image in val"),
        ("cat", "missing_class", "no image in test"),
    }


def test_near_duplicates_are_kept_in_one_split_and_are_no_leak(tmp_path):
    """Each photograph three times, one of them of another class."""
    for i in range(40):
        image, name = scene(i), ("ant", "bee")[i % 2]
        save(image, tmp_path / "data" / name / f"{i}.png")
        save(ImageOps.mirror(image), tmp_path / "data" / name / f"{i} mirrored.png")
        save(image.resize((60, 50)), tmp_path / "data" / "cat" / f"{i}.png")
    names = collections.Counter(name for _, name, _ in find(tmp_path / "data"))
    assert names["near_duplicate"] > 40
    assert names["near_conflict"] > 40
    assert names["near_leak"] == 0


def test_pictures_that_all_look_alike_are_still_divided(tmp_path):
    for i in range(30):
        for name in ("ant", "bee"):
            picture = scene(0).point(lambda v, i=i: max(0, v - i))
            save(picture, tmp_path / "data" / name / f"{i}.png")
    names = {name for _, name, _ in find(tmp_path / "data")}
    assert {"near_leak", "near_duplicate"} <= names


def test_what_was_not_searched_before_training_is_a_finding(folder, monkeypatch):
    config = DataConfig(data=str(folder), cache_dir=str(folder.parent / "cache"))
    dataset = load_dataset(config)
    assert audit.audit_before_training(dataset, config, 0).findings == []
    monkeypatch.setattr(audit, "MAX_IMAGES_BEFORE_TRAINING", 35)
    [finding] = audit.audit_before_training(dataset, config, 0).findings
    assert finding.name == "not_searched"
    assert "near duplicates, among more than 35 images" in finding.detail
