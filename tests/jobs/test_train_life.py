"""The life of a run: begun, resumed, overwritten; phases are not trained but faked."""

import csv
import errno
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from helpers import COLOURS, make_arguments, read_table, write_images

from keras_ft import cli
from keras_ft.config.settings import Config
from keras_ft.errors import UserError
from keras_ft.host import onednn
from keras_ft.jobs import train as job
from keras_ft.jobs.train import train
from keras_ft.models.classifier import make_backbone
from keras_ft.models.trained import load_trained
from keras_ft.serving import exports

pytestmark = pytest.mark.usefixtures("fake_training")


def read_metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def read_splits(folder):
    return {row["path"]: row["split"] for row in read_table(folder / "splits.csv")}


@pytest.mark.parametrize(
    ("monitor", "finetune"),
    [
        *(("val_calibrated_loss", probability) for probability in (0.7, 0.8, 0.9)),
        ("val_accuracy", 0.7),  # equal, too
        ("val_loss", 0.9),
    ],
)
def test_the_better_phase_wins_and_of_equal_ones_the_second(
    fake_training, two_phase_flags, tmp_path, monitor, finetune
):
    fake_training.of_label["finetune"] = finetune
    metrics = train(Config(**two_phase_flags, monitor=monitor))
    is_worse = monitor != "val_accuracy" and finetune < 0.8
    best = "head" if is_worse else "finetune"
    assert metrics["best_phase"] == best
    assert metrics["monitor"] == monitor
    of_label = fake_training.of_label[best]
    for split in ("val", "test"):
        assert metrics[split]["loss"] == pytest.approx(-np.log(of_label), rel=1e-5)
        of_phase = metrics["phases"][best][split]["loss"]
        assert metrics[split]["loss"] == pytest.approx(of_phase)
    model, _ = load_trained(tmp_path / "run" / "model.keras")
    number = ["head", "finetune"].index(best) + 1
    assert all(np.all(weight == number) for weight in model.get_weights())


def test_the_first_phase_begins_with_the_initial_weights(
    fake_training, two_phase_flags, monkeypatch
):
    before = make_backbone("tiny", (16, 16))
    before.load_weights(two_phase_flags["weights"][0])
    train_phase = fake_training.train_phase

    def check(run, phase, earlier, examples, classifier):
        if phase.name == "head":
            backbone = classifier.get_layer("tiny")
            for old, new in zip(before.weights, backbone.weights, strict=True):
                np.testing.assert_array_equal(old, new)
        return train_phase(run, phase, earlier, examples, classifier)

    monkeypatch.setattr("keras_ft.training.phases.train_phase", check)
    train(Config(**two_phase_flags))
    assert fake_training.phases == ["head", "finetune"]


def test_overwriting_removes_the_old_run_once_there_is_a_model(
    fake_training, tiny_flags, tmp_path
):
    train(Config(**tiny_flags))
    (tmp_path / "run" / "history.csv").write_text("old")
    train(Config(**tiny_flags, overwrite=True))
    assert len(fake_training.phases) == 2
    assert not (tmp_path / "run" / "previous").exists()
    assert not (tmp_path / "run" / "history.csv").exists()
    versions = list((tmp_path / "run" / "export" / "saved_model").iterdir())
    assert [version.name for version in versions] == ["1"]


@pytest.mark.parametrize(
    ("best", "damaged", "repeated"),
    [
        ("head", None, []),
        ("head", "checkpoints/finetune.npz", ["finetune"]),
        # What follows a repeated phase is repeated too, whichever is the best.
        ("head", "model.keras", ["head", "finetune"]),
        ("finetune", "model.keras", ["head", "finetune"]),
    ],
)
def test_finished_phases_are_not_repeated_unless_their_files_are_damaged(
    fake_training,
    two_phase_flags,
    tmp_path,
    caplog,
    monkeypatch,
    best,
    damaged,
    repeated,
):
    fake_training.of_label["finetune"] = 0.7 if best == "head" else 0.95
    with monkeypatch.context() as patch:
        patch.setattr(exports, "write_exports", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):  # ends the run after its phases
            train(Config(**two_phase_flags))
    if damaged:
        path = tmp_path / "run" / damaged
        path.write_bytes(path.read_bytes()[:500])
    assert train(Config(**two_phase_flags))["best_phase"] == best
    assert fake_training.phases == ["head", "finetune", *repeated]
    # All weights of a model are the number of the training that it comes from.
    number = len(fake_training.phases) - fake_training.phases[::-1].index(best)
    model, _ = load_trained(tmp_path / "run" / "model.keras")
    assert all(np.all(np.asarray(weight) == number) for weight in model.weights)
    assert (damaged or "").rpartition("/")[2] in caplog.text
    assert ("is damaged" in caplog.text) == bool(damaged)


def test_a_full_disk_is_one_line_and_the_run_resumes_with_room(
    fake_training, two_phase_flags, capsys
):
    fake_training.error["finetune"] = OSError(errno.ENOSPC, "No space left on device")
    args = make_arguments(two_phase_flags)
    assert cli.main(args) == 1
    [line] = [x for x in capsys.readouterr().err.splitlines() if "keras_ft: " in x]
    assert "There is no room left: " in line
    assert "The same command resumes" in line
    assert cli.main(args) == 0
    assert fake_training.phases == ["head", "finetune", "finetune"]


@pytest.mark.parametrize("of_run", [True, False, None])
def test_a_resumed_run_keeps_onednn_as_it_was(
    fake_training, tiny_flags, tmp_path, monkeypatch, caplog, of_run
):
    requested = []
    monkeypatch.setattr(job, "import_tensorflow", requested.append)
    fake_training.error["finetune"] = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(UserError, match="no room left"):
        train(Config(**tiny_flags))
    file = tmp_path / "run" / "run.json"
    record = json.loads(file.read_text())
    assert record["onednn"] == onednn.is_on()
    file.write_text(json.dumps(record | {"onednn": of_run}))
    caplog.clear()
    train(Config(**tiny_flags))
    assert requested == ["auto", of_run]
    assert json.loads(file.read_text())["onednn"] is of_run
    differs = of_run == (not onednn.is_on())
    assert ("rounding of results may differ" in caplog.text) == differs


def test_tensorflow_is_imported_as_chosen_before_tfds_imports_it(
    tiny_flags, monkeypatch
):
    calls = []

    def load_dataset(config):
        calls.append("data")
        raise UserError("enough")

    monkeypatch.setattr(job, "import_tensorflow", calls.append)
    monkeypatch.setattr(job, "load_dataset", load_dataset)
    for data in ("tfds:beans", tiny_flags["data"]):
        with pytest.raises(UserError, match="enough"):
            train(Config(**tiny_flags | {"data": data}))
    assert calls == ["auto", "data", "data"]


def test_a_full_memory_is_one_line_with_advice(fake_training, tiny_flags, capsys):
    fake_training.error["finetune"] = tf.errors.ResourceExhaustedError(
        None, None, "OOM"
    )
    assert cli.main(make_arguments(tiny_flags)) == 1
    assert "Lower --batch_size, 8" in capsys.readouterr().err


def test_accuracy_below_what_is_required_is_a_failure(
    fake_training, tiny_flags, tmp_path, capsys
):
    fake_training.of_label["finetune"] = 0.1
    args = make_arguments(tiny_flags)
    assert cli.main([*args, "--assert_accuracy_at_least=1"]) == 1
    output = capsys.readouterr()
    assert "--assert_accuracy_at_least=1 on test must hold" in output.err
    assert "Exports     none" in output.out
    assert not (tmp_path / "run" / "export").exists()
    # The run has finished, and fails again until less is required.
    assert cli.main([*args, "--assert_accuracy_at_least=1"]) == 1
    assert cli.main(args) == 0
    assert fake_training.phases == ["finetune"]


def test_the_splits_of_an_earlier_run_are_kept_when_images_are_added(
    tiny_flags, image_folder, tmp_path
):
    def split(workdir, data=image_folder):
        train(Config(**tiny_flags | {"workdir": tmp_path / workdir, "data": data}))
        return read_splits(tmp_path / workdir)

    old = split("run")
    write_images(tmp_path / "new", (250, 10, 10), 10)
    for file in (tmp_path / "new").iterdir():
        file.rename(image_folder / "red" / f"new{file.name}")
    shutil.copy(tmp_path / "run" / "splits.csv", image_folder)
    new = split("grown")
    assert {path: new[path] for path in old} == old
    assert len(new) == 40
    # The table alone is a data set too.
    assert split("again", tmp_path / "run" / "splits.csv") == old


def read_audit(path):
    with open(path, newline="") as stream:
        _, *rows = csv.reader(stream)
    return [(file.rpartition("/")[2], finding) for file, finding, _ in rows]


def test_the_audit_of_check_is_that_of_the_run(
    tiny_flags, image_folder, tmp_path, capsys
):
    (image_folder / "red" / "0.png").write_bytes(b"")
    shutil.copy(image_folder / "red" / "1.png", image_folder / "red" / "copy.png")
    args, run = make_arguments(tiny_flags), tmp_path / "run"
    assert cli.main([*args, "--mode=check"]) == 0
    output = capsys.readouterr().out
    assert output.splitlines()[-1] == "Ready to train."
    assert "empty_file" in output
    assert (run / "audit.html").exists()
    audit = read_audit(run / "audit.csv")
    assert audit[:2] == [("0.png", "empty_file"), ("copy.png", "duplicate")]

    assert cli.main(args) == 0
    assert read_audit(run / "audit.csv") == audit
    metrics = read_metrics(run)
    assert metrics["num_examples"]["skipped"] == 1
    assert metrics["audit"]["empty_file"] == metrics["audit"]["duplicate"] == 1
    assert "1 skipped" in capsys.readouterr().out

    # A run keeps its own audit; elsewhere nothing is overwritten.
    written = (run / "audit.csv").stat().st_mtime_ns
    assert cli.main([*args, "--mode=check"]) == 0
    assert (run / "audit.csv").stat().st_mtime_ns == written
    other = f"--output={tmp_path / 'audit.csv'}"
    assert cli.main([*args, "--mode=check", other]) == 0
    assert read_audit(tmp_path / "audit.csv") == audit
    assert cli.main([*args, "--mode=check", other]) == 1
    assert "--output must not exist" in capsys.readouterr().err


def test_check_and_run_warn_of_test_images_that_are_in_train(
    tiny_flags, image_folder, tmp_path, capsys
):
    splits = ["train"] * 6 + ["val", "test"] * 2
    rows = [
        f"{name}/{i}.png,{name},{split}"
        for name in sorted(COLOURS)
        for i, split in enumerate(splits)
    ]
    shutil.copy(image_folder / "red" / "0.png", image_folder / "red" / "7.png")
    table = image_folder / "labels.csv"
    table.write_text("\n".join(["path,label,split", *rows]))
    args = make_arguments(tiny_flags | {"data": table})
    warning = (
        "Results on test are likely too good: 1 of 6 images is identical to images "
        "in train or val."
    )
    assert cli.main([*args, "--mode=check"]) == 0
    assert f"\nWarning: {warning}\n" in capsys.readouterr().out
    assert cli.main(args) == 0
    assert f"\nWarning: {warning}\n" in capsys.readouterr().out
    assert read_metrics(tmp_path / "run")["warnings"] == [warning]


def test_images_that_cannot_be_decoded_are_skipped(
    tiny_flags, image_folder, tmp_path, capsys
):
    file = image_folder / "red" / "0.png"
    file.write_bytes(file.read_bytes()[:900])
    args = make_arguments(tiny_flags)
    assert cli.main([*args, "--on_bad_image=error"]) == 1
    assert "1 of 30 that are not" in capsys.readouterr().err
    assert cli.main(args) == 0
    assert read_metrics(tmp_path / "run")["audit"]["unreadable"] == 1
