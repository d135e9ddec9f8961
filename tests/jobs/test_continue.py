"""A run that goes on from the model of another one."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import make_arguments, read_table, write_images

from keras_ft import cli
from keras_ft.catalog.archive import read_description, to_json
from keras_ft.config.settings import Config
from keras_ft.errors import UserError
from keras_ft.jobs.train import train
from keras_ft.models.heads import set_temperatures
from keras_ft.models.trained import load_trained
from keras_ft.serving import model_files


@pytest.fixture
def old(finished_run, tmp_path):
    """A finished workdir with a temperature of 2 instead of 1."""
    folder = shutil.copytree(finished_run.run.workdir, tmp_path / "old")
    model, description = load_trained(folder / "model.keras")
    model = set_temperatures(model, description.tasks, {"label": 2.0})
    model_files.write_model(model, description, folder / "model.keras")
    return folder


@pytest.fixture
def starts(fake_training, monkeypatch):
    """The logits of the classifiers that training begins with."""
    logits = []
    train_phase = fake_training.train_phase
    pixels = np.random.default_rng(0).uniform(0, 255, (4, 16, 16, 3))

    def spy(run, phase, earlier, examples, classifier):
        logits.append(np.array(classifier(pixels, training=False)))
        return train_phase(run, phase, earlier, examples, classifier)

    monkeypatch.setattr("keras_ft.training.phases.train_phase", spy)
    spy.pixels, spy.logits = pixels, logits
    return spy


def test_a_run_goes_on_from_backbone_and_head(
    starts, two_phase_flags, image_folder, old, caplog
):
    write_images(image_folder / "dark", (10, 10, 10), 10)
    shutil.rmtree(image_folder / "green")
    with caplog.at_level("INFO", "keras_ft"):
        metrics = train(Config(**two_phase_flags | {"weights": (str(old),)}))
    model, _ = load_trained(old / "model.keras")
    expected = np.array(model(starts.pixels, training=False))
    # Of blue, dark, red the classes blue and red are those of blue, green, red.
    np.testing.assert_allclose(
        starts.logits[0][:, [0, 2]], expected[:, [0, 2]], rtol=1e-4, atol=1e-5
    )
    assert metrics["weights_used"] == str(old)
    assert "2 of 3 classes, new: dark, left out: green" in caplog.text


def test_terms_of_the_first_weights_stay_with_a_chain_of_models(
    fake_training, two_phase_flags, old, tmp_path, caplog
):
    model, description = load_trained(old / "model.keras")
    description = dataclasses.replace(description, origin="starter")
    model_files.write_model(model, description, old / "model.keras")
    before = old
    for name in ("second", "third"):
        moved = before.rename(tmp_path / f"moved-{name}") / "model.keras"
        flags = {"weights": (str(moved),), "workdir": str(tmp_path / name)}
        caplog.clear()
        metrics = train(Config(**two_phase_flags | flags))
        assert metrics["weights_used"] == str(moved)
        assert metrics["weights_origin"] == "starter"
        assert "research, not commerce" in metrics["weights_terms"]
        assert metrics["weights_terms"] in caplog.text
        before = tmp_path / name
    content = to_json(read_description(before / "model.keras"))
    assert json.loads(content)["weights_terms"] == metrics["weights_terms"]


def test_a_resumed_run_needs_the_same_model(
    starts, fake_training, two_phase_flags, old
):
    config = Config(**two_phase_flags | {"weights": (str(old),)})
    fake_training.error["finetune"] = OSError(28, "No space left on device")
    with pytest.raises(UserError, match="no room"):
        train(config)
    path = old / "model.keras"
    content = path.read_bytes()
    model, description = load_trained(path)
    model = set_temperatures(model, description.tasks, {"label": 3.0})
    model_files.write_model(model, description, path)
    with pytest.raises(UserError, match="began with other weights"):
        train(config)
    path.write_bytes(content)
    assert train(config)["weights_used"] == str(old)
    record = json.loads((Path(config.run.workdir) / "run.json").read_text())
    assert record["weights"]["file"] == str(path)


def test_images_that_the_old_model_was_trained_on_are_reported(
    fake_training, two_phase_flags, finished_run, caplog
):
    # Other splits of the same images.
    flags = two_phase_flags | {"weights": (finished_run.run.workdir,), "seed": 1}
    flags["data"] = finished_run.data.data
    warnings = train(Config(**flags))["warnings"]
    splits = Path(finished_run.run.workdir) / "splits.csv"
    old = {r["path"] for r in read_table(splits) if r["split"] == "train"}
    new = read_table(Path(flags["workdir"]) / "splits.csv")
    measured = [r["path"] for r in new if r["split"] in ("val", "test")]
    count = sum(path in old for path in measured)
    assert count > 0
    [warning] = warnings
    assert f"{count} of {len(measured)} images in val and test are ones" in warning
    assert warning in caplog.text

    caplog.clear()
    train(Config(**flags | {"data": splits, "overwrite": True}))
    assert "too good" not in caplog.text


def test_another_backbone_or_the_own_workdir_is_one_line(two_phase_flags, old, capsys):
    flags = two_phase_flags | {"weights": (str(old),), "workdir": str(old)}
    assert cli.main(make_arguments(flags) + ["--overwrite"]) == 1
    assert "must not be the run's own --workdir" in capsys.readouterr().err
    flags = two_phase_flags | {"weights": (str(old),), "backbone": "vgg16"}
    assert cli.main(make_arguments(flags | {"image_size": 32})) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "its backbone is tiny, which needs --backbone=tiny" in line


def test_the_image_size_is_that_of_the_old_model(
    fake_training, two_phase_flags, old, tmp_path, capsys, caplog
):
    """It is recorded, and does not follow the old model any more."""
    flags = two_phase_flags | {"weights": (str(old),), "image_size": "auto"}
    with caplog.at_level("INFO", "keras_ft"):
        train(Config(**flags))
    assert f"Image size: 16, that of weights: {old}." in caplog.messages
    run = Path(flags["workdir"])
    assert json.loads((run / "run.json").read_text())["image_size"] == "16"
    assert "--image_size=auto\n" in (run / "flags.cfg").read_text()
    assert read_description(run / "model.keras").preprocessing.size == (16, 16)

    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(
        json.dumps(record | {"state": "running", "image_size": "24"})
    )
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    train(Config(**flags))
    assert read_description(run / "model.keras").preprocessing.size == (24, 24)

    assert cli.main([*make_arguments(flags), "--mode=check"]) == 0
    assert "Image size  16\n" in capsys.readouterr().out
