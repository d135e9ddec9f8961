import csv
import dataclasses
import json
import math

import keras
import numpy as np
import pytest
from helpers import COLOURS

from keras_ft.config.config import Config
from keras_ft.data import dataset as data
from keras_ft.errors import UserError
from keras_ft.images.pipeline import ImageReader, make_inputs
from keras_ft.jobs import train, train_steps
from keras_ft.models import weights
from keras_ft.models.classifier import make_backbone, predict_probabilities
from keras_ft.serving import export
from keras_ft.training import callbacks, phase


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Weights of a tiny backbone, for phases that need some."""
    keras.utils.set_random_seed(1)
    path = tmp_path_factory.mktemp("weights") / "tiny.weights.h5"
    make_backbone("tiny", 16).save_weights(path)
    return str(path)


@pytest.fixture
def two_phase_flags(tiny_flags, pretrained):
    return tiny_flags | {
        "weights": (pretrained,),
        "head_epochs": 3,
        "head_learning_rate": 0.01,
        "finetune_epochs": 2,
        "finetune_learning_rate": 1e-3,
        "schedule": "constant",
        "warmup_epochs": 0,
        "deterministic": True,
    }


def fine_tune(flags):
    config = Config(**flags)
    metrics = train.train(config)
    return metrics, data.load_splits(config.data, config.run.seed)


def predict(model, split):
    inputs = make_inputs(ImageReader(split, 16, batch_size=8), len(split))
    return predict_probabilities(model, inputs, len(split))


def history(tmp_path):
    with open(tmp_path / "run" / "history.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def test_two_phases_end_in_a_workdir_that_explains_itself(two_phase_flags, tmp_path):
    metrics, splits = fine_tune(two_phase_flags)
    run = tmp_path / "run"
    assert json.loads((run / "metrics.json").read_text()) == metrics
    assert json.loads((run / "run.json").read_text())["state"] == "finished"
    assert metrics["class_names"] == sorted(COLOURS)
    assert metrics["num_examples"] == {"train": 18, "val": 6, "test": 6, "skipped": 0}
    assert metrics["weights_used"] == two_phase_flags["weights"][0]
    assert metrics["seconds"]["total"] == sum(
        value for name, value in metrics["seconds"].items() if name != "total"
    )

    rows = history(tmp_path)
    assert [(row["phase"], int(row["epoch"])) for row in rows] == [
        ("head", 1),
        ("head", 2),
        ("head", 3),
        ("finetune", 1),
        ("finetune", 2),
    ]
    assert float(rows[0]["learning_rate"]) == pytest.approx(0.01)
    assert float(rows[-1]["learning_rate"]) == pytest.approx(1e-3)

    # The best epoch of the history is the model that is saved and measured.
    best = min(rows, key=lambda row: float(row["val_loss"]))
    assert best["phase"] == metrics["best_phase"]
    assert int(best["epoch"]) == metrics["best_epoch"]
    assert metrics["val"]["loss"] == pytest.approx(float(best["val_loss"]), abs=1e-4)
    best = metrics["phases"][metrics["best_phase"]]["test"]
    assert metrics["test"]["confusion_matrix"] == best["confusion_matrix"]
    assert metrics["test"]["loss"] == pytest.approx(best["loss"])
    model, class_names = export.load_model(run / "model.keras")
    probabilities = predict(model, splits.test)
    assert class_names == splits.class_names
    accuracy = (probabilities.argmax(1) == splits.test.labels).mean()
    assert accuracy == pytest.approx(metrics["test"]["accuracy"])
    assert (run / "export" / "saved_model" / "1" / "saved_model.pb").exists()


def test_fine_tuning_that_makes_things_worse_cannot_win(
    two_phase_flags, no_export, tmp_path
):
    flags = two_phase_flags | {"finetune_learning_rate": 3.0, "optimizer": "sgd"}
    metrics, splits = fine_tune(flags)
    phases = metrics["phases"]
    assert phases["finetune"]["val"]["loss"] > phases["head"]["val"]["loss"]
    assert metrics["best_phase"] == "head"
    for split in ("val", "test"):
        expected = pytest.approx(phases["head"][split]["loss"])
        assert metrics[split]["loss"] == expected
    model, _ = export.load_model(tmp_path / "run" / "model.keras")
    probabilities = predict(model, splits.val)
    of_label = probabilities[np.arange(len(splits.val)), splits.val.labels]
    assert -np.log(of_label).mean() == pytest.approx(metrics["val"]["loss"], rel=1e-4)
    # The backbone of the model that won is the one that came in.
    before = make_backbone("tiny", 16, None)
    before.load_weights(flags["weights"][0])
    for old, new in zip(before.weights, model.get_layer("tiny").weights, strict=True):
        np.testing.assert_array_equal(old, new)


def test_each_phase_starts_where_the_best_epoch_was(
    no_export, two_phase_flags, tmp_path, monkeypatch
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
            logs["val_loss"] = 0.1 + epoch
            if epoch == 0:
                starts.append(head(self.model))

    make = callbacks.make_callbacks
    monkeypatch.setattr(
        phase,
        "make_callbacks",
        lambda *args: [Start(), Worse(), *make(*args)],
    )
    metrics, _ = fine_tune(two_phase_flags | {"patience": 1, "head_epochs": 5})
    assert metrics["phases"]["head"]["epochs"] == 2  # stopped early
    assert metrics["phases"]["head"]["best_epoch"] == 1
    head_start, after_best_epoch, finetune_start, _ = starts
    assert not np.array_equal(head_start[0], after_best_epoch[0])
    for old, new in zip(after_best_epoch, finetune_start, strict=True):
        np.testing.assert_array_equal(old, new)


def test_equal_runs_are_bitwise_equal(two_phase_flags, no_export, tmp_path):
    models = []
    for name in ("a", "b"):
        flags = two_phase_flags | {
            "workdir": str(tmp_path / name),
            "dropout": 0.5,
            "label_smoothing": 0.1,
        }
        fine_tune(flags)
        models.append(export.load_model(tmp_path / name / "model.keras")[0])
    for a, b in zip(models[0].weights, models[1].weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_monitor_chooses_the_model(two_phase_flags, no_export, tmp_path):
    metrics, _ = fine_tune(two_phase_flags | {"monitor": "val_accuracy"})
    rows = history(tmp_path)
    best = max(float(row["val_accuracy"]) for row in rows)
    assert metrics["monitor"] == "val_accuracy"
    assert metrics["val"]["accuracy"] == pytest.approx(best)


def test_random_weights_are_trained_with_batch_norm(tiny_flags, no_export, tmp_path):
    metrics, _ = fine_tune(tiny_flags | {"finetune_epochs": 1})
    assert metrics["weights_used"] == "none"
    assert list(metrics["phases"]) == ["finetune"]
    model, _ = export.load_model(tmp_path / "run" / "model.keras")
    moving = [w for w in model.weights if w.path.endswith("moving_mean")]
    assert moving
    assert all(np.any(keras.ops.convert_to_numpy(w)) for w in moving)


def test_divergence_ends_the_run_and_keeps_the_best_model(
    two_phase_flags, no_export, tmp_path
):
    flags = two_phase_flags | {"finetune_learning_rate": 100.0, "optimizer": "sgd"}
    flags |= {"momentum": 0.99, "finetune_epochs": 40, "patience": 40}
    with pytest.raises(UserError, match="diverged.*Lower --finetune_learning_rate"):
        fine_tune(flags)
    run = tmp_path / "run"
    assert json.loads((run / "run.json").read_text())["state"] == "running"
    model, _ = export.load_model(run / "model.keras")
    assert all(math.isfinite(float(keras.ops.sum(weight))) for weight in model.weights)


def test_an_unreadable_image_is_named(tiny_flags, image_folder, monkeypatch):
    monkeypatch.setattr(train_steps, "decode_images", lambda dataset, _: dataset)
    broken = image_folder / "red" / "4.png"
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(UserError, match="1 of 30 that are not: .*red/4.png"):
        fine_tune(tiny_flags)
    # Found only now, but remembered: the next run leaves it out.
    config = Config(**tiny_flags)
    splits = data.load_splits(config.data, 0)
    assert splits.paths[splits.splits == "skipped"] == [str(broken)]


def test_overwriting_drops_the_old_run_once_there_is_a_model(tiny_flags, tmp_path):
    fine_tune(tiny_flags | {"finetune_epochs": 1})
    fine_tune(tiny_flags | {"finetune_epochs": 1, "overwrite": True})
    assert not (tmp_path / "run" / "previous").exists()
    assert [row["epoch"] for row in history(tmp_path)] == ["1"]
    versions = list((tmp_path / "run" / "export" / "saved_model").iterdir())
    assert [version.name for version in versions] == ["1"]


def test_nothing_is_written_when_there_are_no_weights(tiny_flags, tmp_path):
    flags = tiny_flags | {"weights": (str(tmp_path / "no.h5"),), "head_epochs": 1}
    with pytest.raises(UserError, match="no.h5"):
        fine_tune(flags)
    assert not (tmp_path / "run").exists()


def test_run_json_says_which_weights_were_used(two_phase_flags, no_export, tmp_path):
    fine_tune(two_phase_flags | {"finetune_epochs": 0, "head_epochs": 1})
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    expected = weights.load_backbone("tiny", 16, two_phase_flags["weights"])[1]
    assert run["weights"] == json.loads(json.dumps(dataclasses.asdict(expected)))
    assert run["packages"]["keras"] == keras.__version__
