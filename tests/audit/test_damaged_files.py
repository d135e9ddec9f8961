"""JPEG files that are damaged and decoded nevertheless: libjpeg does not name them."""

import re
from pathlib import Path

import pytest
from helpers import read_table
from image_helpers import damaged_jpegs
from PIL import Image

from keras_ft.audit import decoding
from keras_ft.config.settings import Config
from keras_ft.data import facts_cache
from keras_ft.jobs.check import check
from keras_ft.jobs.evaluate import evaluate
from keras_ft.jobs.predict import predict
from keras_ft.jobs.train import train


@pytest.fixture
def damaged(image_folder):
    """Makes all images JPEG and some damaged: how what libjpeg says ends, by path."""
    for file in image_folder.glob("*/*.png"):
        Image.open(file).save(file.with_suffix(".jpg"))
        file.unlink()
    cut = image_folder / "blue" / "5.jpg"
    cut.write_bytes(cut.read_bytes()[:-100])
    ends = {}
    for number, (content, end) in enumerate(damaged_jpegs().items()):
        file = image_folder / "red" / f"{number}.jpg"
        file.write_bytes(content)
        ends[str(file)] = end
    return ends


def check_named(details, damaged):
    """Checks the details of findings, by path."""
    assert set(details) == set(damaged)
    for path, end in damaged.items():
        assert details[path].startswith("Corrupt JPEG data: ")
        assert f"{end}; is used" in details[path]


def find(config):
    return {f.path: f.detail for f in check(config).findings if f.name == "damaged"}


def test_check_names_damaged_files_and_caches_what_is_wrong(
    damaged, tiny_config, monkeypatch, capfd
):
    monkeypatch.setattr(facts_cache, "_CHUNK", 7)
    found = find(tiny_config)
    check_named(found, damaged)
    monkeypatch.setattr(decoding, "_decode_file", None)  # nothing is decoded again
    assert find(tiny_config) == found
    assert "Corrupt" not in capfd.readouterr().err


def test_a_run_names_damaged_files_and_prints_nothing_else(damaged, tiny_config, capfd):
    train(tiny_config)
    workdir = Path(tiny_config.run.workdir)
    findings = read_table(workdir / "audit.csv")
    check_named(
        {f["path"]: f["detail"] for f in findings if f["finding"] == "damaged"}, damaged
    )
    splits = [row["split"] for row in read_table(workdir / "splits.csv")]
    assert splits.count("skipped") == 1  # the one that is cut off
    assert not re.search("^Corrupt", capfd.readouterr().err, re.MULTILINE)


@pytest.mark.parametrize("job", [predict, evaluate])
def test_what_was_not_audited_is_named_in_one_line(
    job, damaged, image_folder, finished_run, tmp_path, capfd, caplog
):
    flags = {"data": str(image_folder), "model": finished_run.run.workdir}
    flags |= {"cache_dir": str(tmp_path / "cache"), "output": str(tmp_path / "output")}
    job(Config(mode=job.__name__, batch_size=4, **flags))
    [message] = [m for m in caplog.messages if "Damaged JPEG files" in m]
    assert message.count(".jpg (") == len(damaged)
    for path, end in damaged.items():
        assert re.search(rf"{path} \(Corrupt JPEG data: [^()]*{end}\)", message)
    assert not re.search("^Corrupt", capfd.readouterr().err, re.MULTILINE)
