"""`--mode=export`, predict and evaluate of a run that has not finished."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import leave_out_export

from keras_ft.catalog.archive import find_description
from keras_ft.config.settings import Config
from keras_ft.errors import UserError
from keras_ft.jobs import export as export_job
from keras_ft.jobs.evaluate import evaluate
from keras_ft.jobs.train import train
from keras_ft.models.trained import load_trained
from keras_ft.runs.find_model import find_model, hash_model
from keras_ft.serving import exports


class Stop(keras.callbacks.Callback):
    """Stops when an epoch of a phase begins."""

    def __init__(self, phase, epoch):
        super().__init__()
        self.when = phase, epoch

    def on_epoch_begin(self, epoch, logs=None):
        if (self.params["phase"], epoch) == self.when:
            raise InterruptedError


def stop(config, phase, epoch):
    with pytest.raises(InterruptedError):
        train(config, callbacks=[Stop(phase, epoch)])
    return Path(config.run.workdir)


def export(workdir, data=""):
    return export_job.export(Config(mode="export", workdir=str(workdir), data=data))


def test_its_best_epoch_is_exported_and_it_ends_as_any_other(
    two_phase_flags, tmp_path, caplog
):
    flags = two_phase_flags | {"deterministic": True, "report": False}
    with pytest.MonkeyPatch.context() as patch:
        leave_out_export(patch.setattr)
        whole = train(Config(**flags | {"workdir": str(tmp_path / "whole")}))
    config = Config(**flags)
    run = stop(config, "finetune", 1)
    before = {p: p.stat().st_mtime_ns for p in (run / "checkpoints").iterdir()}
    assert export(run)["saved_model"]["path"] == "export/saved_model/1"
    early = run / "export" / "saved_model" / "1"
    of_run = find_description(early).run
    assert f"of {of_run['unfinished']} of an unfinished run" in caplog.text
    assert "Resumes" not in caplog.text
    assert of_run["unfinished"] in ("phase head, epoch 3", "phase finetune, epoch 1")
    assert {p: p.stat().st_mtime_ns for p in (run / "checkpoints").iterdir()} == before
    assert not (run / "metrics.json").exists()
    content = hash_model(early)

    metrics = train(config)
    assert metrics["exports"]["saved_model"]["path"] == "export/saved_model/2"
    assert hash_model(early) == content
    for key in ("best_phase", "best_epoch", "val", "test"):
        assert metrics[key] == whole[key]
    models = [load_trained(f / "model.keras")[0] for f in (run, tmp_path / "whole")]
    for one, other in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(one, other)


def test_it_may_be_in_its_first_phase(
    two_phase_flags, no_export, tmp_path, monkeypatch, caplog
):
    flags = two_phase_flags | {"deterministic": True, "monitor": "val_loss"}
    run = stop(Config(**flags), "head", 2)
    with pytest.raises(UserError, match="has not finished; --mode=export exports"):
        find_model(run)
    written = []
    write = exports.write_exports

    def write_exports(config, model, *args):
        written.append(model)
        return write(config, model, *args)

    monkeypatch.setattr(exports, "write_exports", write_exports)
    export(run)
    assert "phase head, epoch 2 of an unfinished run" in caplog.text
    shorter = flags | {"head_epochs": 2, "unfreeze": "none"}
    shorter["workdir"] = str(tmp_path / "shorter")
    train(Config(**shorter))
    expected, _ = load_trained(tmp_path / "shorter" / "model.keras")
    trained = written[0].get_weights()
    for one, other in zip(trained, expected.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_without_an_epoch_there_is_nothing_to_export(two_phase_flags, no_export):
    run = stop(Config(**two_phase_flags), "head", 0)
    with pytest.raises(UserError, match="needs a run that has finished an epoch"):
        export(run)


def test_its_images_may_be_moved(two_phase_flags, no_export, image_folder, caplog):
    run = stop(Config(**two_phase_flags), "head", 1)
    moved = str(image_folder.rename(image_folder.with_name("moved")))
    message = f"If they were moved, give .* --data. Received: .*--data={image_folder}: "
    with pytest.raises(UserError, match=message):
        export(run)
    assert export(run, moved)["saved_model"]["path"] == "export/saved_model/1"
    assert "phase head, epoch 1 of an unfinished run" in caplog.text


def test_its_model_is_used_with_a_warning(fake_training, two_phase_flags, caplog):
    fake_training.error["finetune"] = InterruptedError()
    with pytest.raises(InterruptedError):
        train(Config(**two_phase_flags))
    names = {name: two_phase_flags[name] for name in ("data", "workdir")}
    assert evaluate(Config(mode="evaluate", **names))["num_examples"] > 0
    assert "has not finished: the model is the best of the phases" in caplog.text


def test_what_the_end_of_a_run_exported_is_replaced_and_what_was_asked_for_stays(
    fake_training, two_phase_flags, tmp_path
):
    config = Config(**two_phase_flags)
    fake_training.error["finetune"] = InterruptedError()
    with pytest.raises(InterruptedError):
        train(config)
    record = tmp_path / "run" / "run.json"
    content = json.loads(record.read_text()) | {"early_exports": {"saved_model": 2}}
    record.write_text(json.dumps(content))
    for name in ("saved_model/1", "saved_model/2", "saved_model/3", "onnx/1"):
        (tmp_path / "run" / "export" / name).mkdir(parents=True)
    (tmp_path / "run" / "export" / ".partial-x").mkdir()
    train(config)
    exported = (tmp_path / "run" / "export").glob("*/*")
    assert sorted(str(p.relative_to(p.parents[1])) for p in exported) == [
        *("saved_model/1", "saved_model/2", "saved_model/3")
    ]
