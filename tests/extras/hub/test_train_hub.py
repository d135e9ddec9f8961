"""Runs on networks of KerasHub, from presets in folders."""

import json
import logging
from pathlib import Path

import keras
import pytest
from helpers import ROOT, TWO_PHASES, make_arguments
from hub_helpers import make_preset

pytest.importorskip("keras_hub", reason="needs the extra hub")

from keras_ft import cli
from keras_ft.config.settings import Config
from keras_ft.jobs.evaluate import evaluate
from keras_ft.jobs.train import train


@pytest.fixture
def flags(tiny_flags, tmp_path):
    """Flags of a run of two phases, without a backbone."""
    short = TWO_PHASES | {"head_epochs": 1}
    return tiny_flags | short | {"image_size": 32, "weights": ("preset",)}


def read_metrics(flags):
    return json.loads((Path(flags["workdir"]) / "metrics.json").read_text())


def assert_evaluated_alike(flags, metrics):
    """Compares a run's metrics with those of its model, read again."""
    result = evaluate(
        Config(mode="evaluate", model=flags["workdir"], data=flags["data"])
    )
    assert result["accuracy"] == metrics["test"]["accuracy"]


def test_resnet_from_images_to_report(flags, tmp_path, caplog):
    folder = make_preset(tmp_path, "resnet")
    flags |= {"backbone": f"hub:{folder}", "unfreeze": "from:stage4"}
    with caplog.at_level(logging.INFO):
        metrics = train(Config(**flags))
    assert list(metrics["phases"]) == ["head", "finetune"]
    assert metrics["weights_used"] == "preset"
    assert metrics["exports"]["saved_model"]["difference"] < 1e-5
    assert caplog.text.count("Features of train") == 2
    assert (Path(flags["workdir"]) / "report.html").is_file()
    # The finished run is not repeated, and its model is read again.
    assert train(Config(**flags)) == read_metrics(flags)
    assert_evaluated_alike(flags, metrics)


def test_transformer_is_cached_as_a_whole_or_not_at_all(flags, tmp_path, caplog):
    folder = make_preset(tmp_path, "vit")
    flags |= {"backbone": f"hub:{folder}", "unfreeze": "from:block3"}
    with caplog.at_level(logging.INFO):
        metrics = train(Config(**flags))
    assert metrics["exports"]["saved_model"]["difference"] < 1e-5
    assert caplog.text.count("Features of train") == 1
    assert "Features are not cached: block3 begins inside a layer" in caplog.text
    assert "there is no Grad-CAM" in caplog.text
    assert_evaluated_alike(flags, metrics)


def test_an_unfinished_run_is_resumed(flags, tmp_path, no_export, caplog):
    folder = make_preset(tmp_path, "resnet")
    flags |= {"backbone": f"hub:{folder}", "unfreeze": "from:stage5"}

    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if (self.params["phase"], epoch) == ("finetune", 1):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(Config(**flags), [Interrupt()])
    metrics = train(Config(**flags))
    assert "Phase finetune resumes after epoch 1." in caplog.text
    assert metrics["phases"]["finetune"]["epochs"] == 2


def test_recipe_of_resnet18(flags, tmp_path, no_export, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    folder = make_preset(tmp_path, "resnet18")
    names = ("data", "workdir", "cache_dir", "batch_size")
    arguments = make_arguments(
        {name: flags[name] for name in names} | {"weights": ("none",)}
    )
    config = ["--flagfile=configs/resnet18.cfg", f"--backbone=hub:{folder}"]
    others = ["--classes=", "--image_size=32", "--finetune_epochs=1"]
    assert cli.main([arguments[0], *config, *arguments[1:], *others]) == 0
    metrics = read_metrics(flags)
    accuracy = 100 * metrics["test"]["accuracy"]
    assert capsys.readouterr().out.endswith(f"\nTest accuracy: {accuracy:.1f} %\n")
    assert list(metrics["phases"]) == ["finetune"]
