"""The main job as it trains; `test_train_life.py` has its orchestration."""

import dataclasses
import json
import runpy
import sys
import traceback
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import COLOURS, ROOT, leave_out_export, make_arguments, read_table
from PIL import Image

from keras_ft import cli
from keras_ft.audit import audit
from keras_ft.catalog.archive import Description
from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.config.settings import Config
from keras_ft.data import dataset as data
from keras_ft.errors import UserError
from keras_ft.host import onednn
from keras_ft.images.pipeline import ImageReader, make_inputs
from keras_ft.jobs.export import export as write_next_version
from keras_ft.jobs.train import train
from keras_ft.models import weights
from keras_ft.models.classifier import get_backbone
from keras_ft.models.heads import predict_probabilities
from keras_ft.models.trained import load_trained
from keras_ft.report.terminal import describe_best
from keras_ft.runs.paths import RunPaths
from keras_ft.training import callbacks, early_stopping, phases

slow = pytest.mark.slow


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
            ImageReader(split, Preprocessing(16, 16), batch_size=8), range(len(split))
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
    flags = tiny_flags | {"deterministic": True, "report": False}
    with pytest.MonkeyPatch.context() as patch:
        leave_out_export(patch.setattr)
        expected = train(Config(**flags))
    # BatchNorm is trained with random weights.
    assert list(expected["phases"]) == ["finetune"]
    model, _ = load_trained(tmp_path / "run" / "model.keras")
    moving = [w for w in model.weights if w.path.endswith("moving_mean")]
    assert moving
    assert all(np.any(keras.ops.convert_to_numpy(w)) for w in moving)
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
        assert row.pop("sha256") != of_png.pop("sha256")
        assert row == of_png | {"path": of_png["path"].replace(".png", ".tif")}
    # The paths of its splits are converted again.
    [row] = write_next_version(converted).values()
    assert row["path"] == "export/saved_model/2"


def test_each_phase_starts_where_the_best_epoch_was_and_a_callback_sees_it(
    no_export, two_phase_flags, monkeypatch
):
    """Early stopping leaves the next phase the best weights, not the last."""
    weights, seen = [], []

    class Worse(callbacks.Validate):
        """Makes every epoch but the first look worse."""

        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            logs["val_calibrated_loss"] = 0.1 + epoch

    class User(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            params = self.params
            seen.append((params["phase"], params["initial_epoch"], params["epochs"]))
            self.read()

        def on_epoch_end(self, epoch, logs=None):
            seen.append((epoch, logs["val_calibrated_loss"], logs["accuracy"] >= 0))
            if epoch == 0:
                self.read()
            if self.params["phase"] == "finetune":
                self.model.stop_training = True

        def read(self):  # the phases' networks have no more in common
            layer = self.model.get_layer("head")
            weights.append([weight.copy() for weight in layer.get_weights()])

    monkeypatch.setattr(phases, "Validate", Worse)
    flags = two_phase_flags | {"patience": 1, "head_epochs": 5, "finetune_epochs": 3}
    metrics = train(Config(**flags), [User()])
    assert metrics["phases"]["head"]["epochs"] == 2  # stopped early
    assert metrics["phases"]["head"]["best_epoch"] == 1
    assert metrics["phases"]["finetune"]["epochs"] == 1  # stopped by the user
    assert seen == [
        *(("head", 0, 5), (0, 0.1, True), (1, 1.1, True)),
        *(("finetune", 0, 3), (0, 0.1, True)),
    ]
    head_start, after_best_epoch, finetune_start, _ = weights
    assert not np.array_equal(head_start[0], after_best_epoch[0])
    for old, new in zip(after_best_epoch, finetune_start, strict=True):
        np.testing.assert_array_equal(old, new)  # the phase is too short for a share


def test_the_mean_of_epochs_is_not_called_a_solved_head(
    no_export, two_phase_flags, monkeypatch
):
    def average(model, epochs, measure_val, monitor):
        return epochs[0].value - 9, tuple(sorted(e.epoch + 1 for e in epochs))

    monkeypatch.setattr(phases, "average_epochs", average)
    flags = two_phase_flags | {"finetune_epochs": 3, "solve_head": True}
    metrics = train(Config(**flags))
    assert metrics["phases"]["finetune"]["averaged_epochs"] == [1, 2, 3]
    assert not metrics["phases"]["finetune"]["solved"]
    words = describe_best(metrics | {"best_phase": "finetune"})
    assert words == "phase finetune, mean of epochs 1, 2 and 3"


def test_a_callback_that_stops_training_stops_the_resumed_run_where_it_did(
    no_export, tiny_flags, caplog
):
    """And what a callback raises ends the run, which can be resumed."""
    config = Config(**tiny_flags | {"finetune_epochs": 5, "deterministic": True})

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

        def on_train_end(self, logs=None):
            raise KeyError("of the user")

    with pytest.raises(KeyError, match="of the user"):
        train(config, [Stop()])
    metrics = train(config)
    assert "Phase finetune resumes after epoch 2." in caplog.text
    assert metrics["phases"]["finetune"]["epochs"] == 2
    folder = Path(config.run.workdir)
    assert len(read_table(folder / "history.csv")) == 2
    assert not (folder / "checkpoints").exists()


def test_few_calls_lie_between_the_command_and_fit(no_export, tiny_flags, monkeypatch):
    calls = []

    class Enough(Exception):
        pass

    class Stack(early_stopping.EarlyStopping):
        def on_train_begin(self, logs=None):
            calls.extend(traceback.extract_stack()[:-1])
            raise Enough

    monkeypatch.setattr(phases, "EarlyStopping", Stack)
    monkeypatch.setattr(sys, "argv", make_arguments(tiny_flags))
    with pytest.raises(Enough):
        runpy.run_path(str(ROOT / "run.py"), run_name="__main__")
    ours = [
        (str(Path(call.filename).relative_to(ROOT)), call.name)
        for call in calls
        if call.filename == str(ROOT / "run.py")
        or Path(call.filename).is_relative_to(ROOT / "keras_ft")
    ]
    assert ours[-1] == ("keras_ft/training/phases.py", "train_phase")
    assert len(ours) <= 5, ours
    assert len({file for file, _ in ours}) <= 4, ours


def test_an_unreadable_image_is_named(tiny_flags, image_folder, monkeypatch):
    monkeypatch.setattr(audit, "decode_images", lambda dataset, *_: dataset)
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
    two_phase_flags, no_export, monkeypatch
):
    config = Config(**two_phase_flags)
    paths = RunPaths(config.run.workdir)
    with monkeypatch.context() as patches:  # killed before it has removed them
        patches.setattr("keras_ft.jobs.train.remove_leftovers", lambda paths: 0)
        train(config)

    def read():
        """Metrics on test, the history, and which layers are trainable."""
        layers = get_backbone(load_trained(paths.model)[0]).layers
        test = read_json(paths.folder, "metrics.json")["test"]
        return test, paths.history.read_text(), [layer.trainable for layer in layers]

    before = read()
    content = json.loads(paths.record.read_text())
    paths.record.write_text(json.dumps(content | {"state": "running"}))
    paths.metrics.unlink()
    train(config)
    assert read() == before


@pytest.mark.parametrize("resize", [pytest.param("crop", marks=slow), "pad"])
def test_every_mode_gives_the_results_of_a_run_that_is_not_square(
    tiny_flags, resize, tmp_path, capsys
):
    flags = tiny_flags | {"image_size": "16x24", "resize": resize, "augment": "strong"}
    flags |= {"finetune_epochs": 1}
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
