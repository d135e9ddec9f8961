import numpy as np
from helpers import COLOURS, write_images
from PIL import Image

from keras_ft.audit import split_findings
from keras_ft.audit.audit import find_all
from keras_ft.audit.decoding import decode_images
from keras_ft.audit.split_findings import draw_splits, split_as_training_would
from keras_ft.config.schema import DataConfig
from keras_ft.data.dataset import load_dataset, make_splits
from keras_ft.report.terminal import summarize_check


def test_check_reports_why_training_would_not_start(tmp_path):
    folder, cache = tmp_path / "data", tmp_path / "cache"
    for split in ("train", "val", "test"):
        for name in ("blue", "red"):
            write_images(folder / split / name, COLOURS[name], 3)
    for split in ("val", "test"):
        write_images(folder / split / "dog", (0, 0, 0), 1)
    (folder / "train" / "red" / "bad.png").write_bytes(b"")
    config = DataConfig(data=str(folder), cache_dir=str(cache), on_bad_image="error")
    dataset = decode_images(load_dataset(config), cache)
    examples, obstacle = split_as_training_would(dataset, config, seed=0)
    assert str(obstacle).startswith("--data needs")
    assert "none of 'dog'" in str(obstacle)
    findings = find_all(examples, dataset)
    text = summarize_check(examples, findings, obstacle)
    assert text.splitlines()[-1] == "Training would not start."
    assert "dog: no image in train" in text
    assert "empty_file" in text
    clean = summarize_check(examples, [], None)
    assert clean.splitlines()[-2:] == ["Findings    none", "Ready to train."]


def test_an_empty_class_folder_is_one_finding(image_folder, tmp_path):
    (image_folder / "empty").mkdir()
    (image_folder / ".hidden").mkdir()
    config = DataConfig(data=str(image_folder), cache_dir=str(tmp_path / "cache"))
    dataset = decode_images(load_dataset(config), tmp_path / "cache")
    examples, obstacle = split_as_training_would(dataset, config, seed=0)
    assert "/empty, which contains no image file" in str(obstacle)
    findings = find_all(examples, dataset)
    assert [(f.path, f.name) for f in findings] == [
        (str(image_folder / ".hidden"), "suspicious_folder"),
        (str(image_folder / "empty"), "empty_folder"),
    ]
    text = summarize_check(examples, findings, obstacle)
    assert "30 in 3 classes: blue (10), green (10), red (10)\n" in text


def test_the_splits_are_those_of_the_data_whatever_the_cache_knows(
    tmp_path, monkeypatch
):
    """A resumed run draws them again, and then its images have been decoded."""
    rng = np.random.default_rng(0)
    for i in range(20):
        pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
        for name, size in (("ant", 64), ("bee", 80)):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(pixels).resize((size, size))
            image.save(tmp_path / "data" / name / f"{i}.png")
    config = DataConfig(data=str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"))
    unread = load_dataset(config)
    decoded = decode_images(unread, tmp_path / "cache")
    together = draw_splits(decoded, config, seed=1).splits
    np.testing.assert_array_equal(together[:20], together[20:])
    again = draw_splits(load_dataset(config), config, seed=1).splits
    np.testing.assert_array_equal(together, again)
    monkeypatch.setattr(split_findings, "MAX_IMAGES_BEFORE_TRAINING", 39)
    apart = draw_splits(decoded, config, seed=1).splits
    np.testing.assert_array_equal(apart, make_splits(unread, config, seed=1).splits)
