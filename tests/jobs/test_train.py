"""The main job as it trains; `test_train_life.py` has its orchestration."""

import dataclasses
import json
import math
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import COLOURS, make_arguments, read_table
from PIL import Image

from keras_ft import cli
from keras_ft.catalog.archive import Description
from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.config.config import Config
from keras_ft.data import dataset as data
from keras_ft.errors import UserError
from keras_ft.host import onednn
from keras_ft.images.pipeline import ImageReader, make_inputs
from keras_ft.jobs import train_steps
from keras_ft.jobs.export import export as write_next_version
from keras_ft.jobs.train import train
from keras_ft.models import weights
from keras_ft.models.classifier import get_backbone
from keras_ft.models.heads import predict_probabilities
from keras_ft.models.trained import load_trained
from keras_ft.runs.paths import RunPaths
from keras_ft.training import callbacks, phase


def read_json(folder, name):
    return json.loads((Path(folder) / name).read_text())


def test_two_phases_end_in_a_workdir_that_explains_itself(finished_run):
    folder, [used] = Path(finished_run.run.workdir), finished_run.model.weights
    metrics, record = (read_json(folder, n) for n in ("metrics.json", "run.json"))
    assert metrics["class_names"] == sorted(COLOURS)
    assert metrics["num_examples"] == {"train": 18, "val": 6, "test": 6, "skipped": 0}
    assert metrics["weights_used"] == used
    assert metrics["seconds"]["total"] == sum(
        value for name, value in metrics["seconds"].items() if name != "total"
    )
    assert record["state"] == "finished"
    expected = dataclasses.asdict(weights.load_backbone("tiny", (16, 16), (used,))[1])
    assert record["weights"] == json.loads(json.dumps(expected))
    assert record["packages"]["keras"] == keras.__version__
    assert record["onednn"] == onednn.is_on()

    rows = read_table(folder / "history.csv")
    assert [(row["phase"], int(row["epoch"])) for row in rows] == [
        *(("head", epoch) for epoch in (1, 2, 3)),
        *(("finetune", epoch) for epoch in (1, 2)),
    ]
    assert float(rows[0]["learning_rate"]) == pytest.approx(0.01)
    assert float(rows[-1]["learning_rate"]) == pytest.approx(1e-3)

    # The best epoch of the history is the model that is saved and measured.
    best = min(rows, key=lambda row: float(row["val_calibrated_loss"]))
    assert best["phase"] == metrics["best_phase"]
    assert int(best["epoch"]) == metrics["best_epoch"]
    assert metrics["val"]["loss"] == pytest.approx(float(best["val_loss"]), abs=1e-4)
    of_phase = metrics["phases"][metrics["best_phase"]]["test"]
    assert metrics["test"]["confusion_matrix"] == of_phase["confusion_matrix"]
    assert metrics["test"]["loss"] == pytest.approx(of_phase["loss"])
    examples = data.load_splits(finished_run.data, finished_run.run.seed)
    model, description = load_trained(folder / "model.keras")
    tasks = examples.tasks
    calibration = metrics["calibration"]
    assert description == Description(
        tasks, Preprocessing(16, 16), {"label": calibration["temperature"]}
    )
    for name in ("val", "test"):
        split = examples.split(name)
        inputs = make_inputs(
            ImageReader(split, Preprocessing(16, 16), batch_size=8), len(split)
        )
        predicted = predict_probabilities(model, tasks, inputs, len(split))
        probabilities = predicted["label"]
        accuracy = (probabilities.argmax(1) == split.labels).mean()
        assert accuracy == pytest.approx(metrics[name]["accuracy"])
        of_label = probabilities[np.arange(len(split)), split.labels]
        loss = pytest.approx(-np.log(of_label).mean(), rel=1e-4)
        assert metrics[name]["loss"] == loss
    assert (folder / "export" / "saved_model" / "1" / "saved_model.pb").exists()


def test_the_flags_of_a_run_repeat_it_bit_for_bit(finished_run, no_export, tmp_path):
    first, second = Path(finished_run.run.workdir), tmp_path / "elsewhere"
    flagfile = f"--flagfile={first / 'flags.cfg'}"
    assert cli.main(["keras_ft", flagfile, f"--workdir={second}"]) == 0
    assert (second / "flags.cfg").read_text() == (first / "flags.cfg").read_text()
    a, b = (load_trained(f / "model.keras")[0] for f in (first, second))
    for one, other in zip(a.weights, b.weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_converted_images_train_the_same_model(tiny_flags, image_folder, tmp_path):
    flags = tiny_flags | {"deterministic": True}
    expected = train(Config(**flags))
    for file in sorted(image_folder.glob("*/*.png")):
        with Image.open(file) as image:
            image.save(file.with_suffix(".tif"))
        file.unlink()
    converted = Config(**flags | {"workdir": str(tmp_path / "converted")})
    metrics = train(converted)
    for name in ("num_examples", "val", "test"):
        assert metrics[name] == expected[name]
    assert metrics["exports"]["saved_model"]["difference"] <= 1e-4
    splits, expected_splits = (
        read_table(tmp_path / folder / "splits.csv") for folder in ("converted", "run")
    )
    for row, of_png in zip(splits, expected_splits, strict=True):
        assert row == of_png | {"path": of_png["path"].replace(".png", ".tif")}
    # The paths of its splits are converted again.
    [row] = write_next_version(converted).values()
    assert row["path"] == "export/saved_model/2"


def test_each_phase_starts_where_the_best_epoch_was(
    no_export, two_phase_flags, monkeypatch
):
    """Early stopping leaves the next phase the best weights, not the last."""
    starts = []

    def head(model):  # the phases' networks have no more in common
        return [weight.copy() for weight in model.get_layer("head").get_weights()]

    class Start(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            starts.append(head(self.model))

    class Worse(keras.callbacks.Callback):
        """Makes every epoch but the first look worse."""

        def on_epoch_end(self, epoch, logs=None):
            logs["val_calibrated_loss"] = 0.1 + epoch
            if epoch == 0:
                starts.append(head(self.model))

    make = callbacks.make_callbacks
    monkeypatch.setattr(
        phase, "make_callbacks", lambda *args: [Start(), Worse(), *make(*args)]
    )
    metrics = train(Config(**two_phase_flags | {"patience": 1, "head_epochs": 5}))
    assert metrics["phases"]["head"]["epochs"] == 2  # stopped early
    assert metrics["phases"]["head"]["best_epoch"] == 1
    head_start, after_best_epoch, finetune_start, _ = starts
    assert not np.array_equal(head_start[0], after_best_epoch[0])
    for old, new in zip(after_best_epoch, finetune_start, strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_finished_run_is_resumed_for_more_epochs(tiny_flags, no_export, capsys):
    flags = tiny_flags | {"finetune_epochs": 1, "schedule": "constant"}
    assert cli.main(make_arguments(flags)) == 0
    run = Path(flags["workdir"])
    first = read_table(run / "history.csv")
    flags["finetune_epochs"] = 3
    assert cli.main(make_arguments(flags)) == 0
    rows = read_table(run / "history.csv")
    assert rows[:1] == first
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    metrics = read_json(run, "metrics.json")
    assert metrics["phases"]["finetune"]["epochs"] == 3
    assert read_json(run, "run.json")["epochs"] == {"finetune": 3}
    versions = sorted(p.name for p in (run / "export" / "saved_model").iterdir())
    assert versions == ["1", "2"]  # a version that may be in use stays

    # BatchNorm is trained with random weights.
    assert metrics["weights_used"] == "none"
    assert list(metrics["phases"]) == ["finetune"]
    model, _ = load_trained(run / "model.keras")
    moving = [w for w in model.weights if w.path.endswith("moving_mean")]
    assert moving
    assert all(np.any(keras.ops.convert_to_numpy(w)) for w in moving)

    # Now it is a run of three epochs; fewer are another run.
    history = (run / "history.csv").stat().st_mtime_ns
    assert cli.main(make_arguments(flags)) == 0
    capsys.readouterr()
    assert cli.main(make_arguments(flags | {"finetune_epochs": 2})) == 1
    assert "--finetune_epochs was 3, now 2" in capsys.readouterr().err
    assert cli.main(make_arguments(flags | {"finetune_epochs": 4, "seed": 3})) == 1
    assert (run / "history.csv").stat().st_mtime_ns == history


def test_divergence_ends_the_run_and_keeps_the_best_model(two_phase_flags, no_export):
    flags = two_phase_flags | {"finetune_learning_rate": 100.0, "optimizer": "sgd"}
    flags |= {"momentum": 0.99, "finetune_epochs": 40, "patience": 40}
    flags["head_epochs"] = 1
    with pytest.raises(UserError, match="diverged.*Lower --finetune_learning_rate"):
        train(Config(**flags))
    assert read_json(flags["workdir"], "run.json")["state"] == "running"
    model, _ = load_trained(Path(flags["workdir"]) / "model.keras")
    assert all(math.isfinite(float(keras.ops.sum(weight))) for weight in model.weights)


def test_an_unreadable_image_is_named(tiny_flags, image_folder, monkeypatch):
    monkeypatch.setattr(train_steps, "decode_images", lambda dataset, _: dataset)
    broken = image_folder / "red" / "4.png"
    broken.write_bytes(broken.read_bytes()[:100])
    config = Config(**tiny_flags)
    with pytest.raises(UserError, match="1 of 30 that are not: .*red/4.png"):
        train(config)
    # Found only now, but remembered: the next run skips it.
    examples = data.load_splits(config.data, 0)
    assert examples.paths[examples.splits == "skipped"] == [str(broken)]


def test_nothing_is_written_when_there_are_no_weights(tiny_flags, tmp_path):
    flags = tiny_flags | {"weights": (str(tmp_path / "no.h5"),), "head_epochs": 1}
    with pytest.raises(UserError, match="no.h5"):
        train(Config(**flags))
    assert not (tmp_path / "run").exists()


def test_model_keras_is_the_same_if_its_phases_are_not_repeated(
    two_phase_flags, no_export
):
    config = Config(**two_phase_flags)
    paths = RunPaths(config.run.workdir)

    def train_and_read():
        """Metrics on test, and which layers of model.keras are trainable."""
        test = train(config)["test"]
        layers = get_backbone(load_trained(paths.model)[0]).layers
        return test, [layer.trainable for layer in layers]

    before = train_and_read()
    content = json.loads(paths.record.read_text())
    paths.record.write_text(json.dumps(content | {"state": "running"}))
    paths.metrics.unlink()
    assert train_and_read() == before


@pytest.mark.parametrize("resize", ["crop", "pad"])
def test_every_mode_gives_the_results_of_a_run_that_is_not_square(
    tiny_flags, resize, tmp_path, capsys
):
    flags = tiny_flags | {"image_size": "16x24", "resize": resize, "augment": "strong"}
    assert cli.main(make_arguments(flags)) == 0
    run = Path(flags["workdir"])
    metrics = read_json(run, "metrics.json")
    assert metrics["exports"]["saved_model"]["difference"] <= 1e-4
    model, description = load_trained(run / "model.keras")
    assert model.input_shape == (None, 16, 24, 3)
    assert description.preprocessing.mode == resize
    [row] = write_next_version(Config(mode="export", workdir=str(run))).values()
    assert row["path"] == "export/saved_model/2"
    for i, path in enumerate([run, run / "export" / "saved_model"]):
        output = f"{tmp_path}/{i}.json"
        args = [f"--model={path}", f"--data={flags['data']}", f"--output={output}"]
        assert cli.main(["", "--mode=evaluate", *args]) == 0
        measured = json.loads(Path(output).read_text())
        assert measured["confusion_matrix"] == metrics["test"]["confusion_matrix"]
        assert measured["loss"] == pytest.approx(metrics["test"]["loss"], abs=1e-4)
    capsys.readouterr()
    assert cli.main(make_arguments(flags | {"resize": "stretch"})) == 1
    assert f"--resize was {resize}, now stretch" in capsys.readouterr().err
