import importlib
import logging
import os

from PIL import Image

from keras_ft.audit import decoding
from keras_ft.audit.decoding import decode_images
from keras_ft.config.schema import DataConfig
from keras_ft.data.dataset import load_dataset


def test_more_new_images_than_the_limit_are_not_decoded(image_folder, tmp_path, caplog):
    for file in image_folder.glob("red/*"):  # they are converted, not decoded
        Image.open(file).save(file.with_suffix(".tif"))
        file.unlink()
    cache = tmp_path / "cache"
    config = DataConfig(data=str(image_folder), cache_dir=str(cache))
    dataset = load_dataset(config)
    assert not decode_images(dataset, cache, max_images=29).facts["decoded"].any()
    assert "30 images were never decoded" in caplog.text
    assert decode_images(dataset, cache, max_images=30).facts["decoded"].all()
    # They are cached now.
    again = load_dataset(config)
    assert decode_images(again, cache, max_images=0).facts["decoded"].all()


def test_damage_after_the_header_is_unreadable(image_folder, tmp_path):
    file = image_folder / "red" / "0.png"
    file.write_bytes(file.read_bytes()[:-100])
    config = DataConfig(data=str(image_folder), cache_dir=str(tmp_path / "cache"))
    dataset = load_dataset(config)
    assert not dataset.facts["problem"].any()
    facts = decode_images(dataset, tmp_path / "cache").facts
    assert (facts["problem"] > 0).sum() == 1
    assert facts["decoded"].sum() == 29


def test_many_cores_are_no_reason_for_a_warning(
    image_folder, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    importlib.reload(decoding)  # as it is before the first image is decoded
    config = DataConfig(data=str(image_folder), cache_dir=str(tmp_path / "cache"))
    dataset = load_dataset(config)
    monkeypatch.setattr(logging.getLogger("tensorflow"), "propagate", True)
    facts = decoding.decode_images(dataset, tmp_path / "cache").facts
    assert facts["decoded"].all()
    assert "retracing" not in caplog.text
