import errno
import json
import logging
import shutil
import subprocess
import sys
from csv import DictReader
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from helpers import ROOT
from PIL import Image

from keras_ft import cli
from keras_ft.serving import export
from keras_ft.training import checkpoint
from keras_ft.training.learner import Learner


def run_without_tensorflow(*args):
    """Runs the program in a process in which importing TensorFlow fails."""
    script = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['tensorflow', 'keras'], None))\n"
        "from keras_ft.cli import main\n"
        "sys.exit(main())\n"
    )
    return subprocess.run(
        [sys.executable, "-c", script, *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_help_needs_no_tensorflow_and_exits_well():
    done = run_without_tensorflow("--help")
    assert done.returncode == 0
    assert "--head_learning_rate" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--epochs=3"], "epochs"),
        (["epochs=3"], "Every argument is a flag"),
        (["--flagfile=configs/binary.cfg", "--image_size=8"], "at least 32"),
        (["--flagfile=configs/binary.cfg", "--unfreeze=from:conv9"], "conv1, conv2"),
        (["--workdir=w", "--data=/nowhere"], "/nowhere"),
        (["--workdir=w", "--data=builtin:cats"], "builtin:cats"),
        (["--mode=predict", "--data=x"], "--model"),
        (["--mode=predict", "--data=tests", "--model=/nowhere"], "/nowhere"),
        (["--mode=evaluate", "--data=/nowhere", "--model=tests"], "--model must be"),
        (["--mode=export", "--workdir=/nowhere"], "flags.cfg"),
    ],
)
def test_mistakes_need_no_tensorflow_and_are_one_line(args, message):
    done = run_without_tensorflow(*args)
    assert done.returncode == 1
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("keras_ft: ")
    assert message in line


def test_a_mistake_leaves_no_workdir(tmp_path):
    assert cli.main(["", f"--workdir={tmp_path / 'run'}", "--data=/nowhere"]) == 1
    assert not (tmp_path / "run").exists()


def test_bad_files_end_the_run_before_tensorflow_where_asked(image_folder):
    for i in range(3):
        (image_folder / "red" / f"bad{i}.png").write_bytes(b"")
    done = run_without_tensorflow(
        "--workdir=w", f"--data={image_folder}", "--on_bad_image=error"
    )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "3 of 33" in line
    assert all(f"red/bad{i}.png" in line for i in range(3))


def flag_list(flags):
    flags = flags | {"weights": ",".join(flags["weights"])}
    return ["keras_ft", *(f"--{name}={value}" for name, value in flags.items())]


def test_the_life_of_a_run(tiny_flags, tmp_path, capsys):
    args = flag_list(tiny_flags | {"finetune_epochs": 1})
    assert cli.main(args) == 0
    summary = capsys.readouterr().out.rstrip().splitlines()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    accuracy = 100 * metrics["test"]["accuracy"]
    assert summary[-1] == f"Test accuracy: {accuracy:.1f} %"

    # The same again only prints; other flags are refused; nothing is touched.
    model = (tmp_path / "run" / "model.keras").stat().st_mtime_ns
    assert cli.main(args) == 0
    assert capsys.readouterr().out.rstrip().splitlines()[-1] == summary[-1]
    assert cli.main([*args, "--seed=7"]) == 1
    assert "--seed was 0, now 7" in capsys.readouterr().err
    assert (tmp_path / "run" / "model.keras").stat().st_mtime_ns == model

    # The flags of the run repeat it elsewhere.
    flagfile = f"--flagfile={tmp_path / 'run' / 'flags.cfg'}"
    elsewhere = tmp_path / "elsewhere"
    assert cli.main(["keras_ft", flagfile, f"--workdir={elsewhere}"]) == 0
    assert (elsewhere / "flags.cfg").read_text() == (
        tmp_path / "run" / "flags.cfg"
    ).read_text()

    assert cli.main(["keras_ft", "--mode=export", f"--workdir={elsewhere}"]) == 0
    versions = (elsewhere / "export" / "saved_model").iterdir()
    assert sorted(version.name for version in versions) == ["1", "2"]

    capsys.readouterr()
    asked = ["keras_ft", "--mode=evaluate", f"--model={elsewhere}"]
    assert cli.main([*asked, f"--data={tiny_flags['data']}"]) == 0
    last = capsys.readouterr().out.rstrip().splitlines()[-1]
    assert last == f"Accuracy: {accuracy:.1f} %"


def test_export_without_its_images_still_checks(tiny_flags, tmp_path, monkeypatch):
    args = flag_list(tiny_flags | {"finetune_epochs": 1})
    assert cli.main(args) == 0
    Path(tiny_flags["data"]).rename(tmp_path / "moved")
    checked = []
    check = export.check_parity
    monkeypatch.setattr(
        export, "check_parity", lambda *a: checked.append(a) or check(*a)
    )
    workdir = f"--workdir={tmp_path / 'run'}"
    assert cli.main(["keras_ft", "--mode=export", workdir]) == 0
    [(_, files, *_)] = checked
    assert len(files) > 0


def read_audit(path):
    with open(path, newline="") as stream:
        return [(Path(row["path"]).name, row["finding"]) for row in DictReader(stream)]


def test_check_reports_and_leaves_the_workdir_free_for_the_run(
    tiny_flags, image_folder, no_export, tmp_path, capsys
):
    (image_folder / "red" / "0.png").write_bytes(b"")
    shutil.copy(image_folder / "red" / "1.png", image_folder / "red" / "copy.png")
    args = flag_list(tiny_flags | {"finetune_epochs": 1})
    assert cli.main([*args, "--mode=check"]) == 0
    output = capsys.readouterr().out
    assert output.splitlines()[-1] == "Ready to train."
    assert "empty_file" in output
    audit = read_audit(tmp_path / "run" / "audit.csv")
    expected = [("0.png", "empty_file"), ("copy.png", "duplicate")]
    assert audit[:2] == expected

    assert cli.main(args) == 0
    assert read_audit(tmp_path / "run" / "audit.csv") == audit
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["num_examples"]["skipped"] == 1
    assert metrics["audit"]["empty_file"] == metrics["audit"]["duplicate"] == 1
    assert "1 skipped" in capsys.readouterr().out

    # A run keeps its own audit; elsewhere nothing is overwritten.
    written = (tmp_path / "run" / "audit.csv").stat().st_mtime_ns
    assert cli.main([*args, "--mode=check"]) == 0
    assert (tmp_path / "run" / "audit.csv").stat().st_mtime_ns == written
    other = f"--output={tmp_path / 'audit.csv'}"
    assert cli.main([*args, "--mode=check", other]) == 0
    assert read_audit(tmp_path / "audit.csv") == audit
    assert cli.main([*args, "--mode=check", other]) == 1
    assert "--output must not exist" in capsys.readouterr().err


def test_images_that_cannot_be_decoded_are_left_out_too(
    tiny_flags, image_folder, no_export, tmp_path, capsys
):
    file = image_folder / "red" / "0.png"
    file.write_bytes(file.read_bytes()[:900])
    args = flag_list(tiny_flags | {"finetune_epochs": 1})
    assert cli.main([*args, "--on_bad_image=error"]) == 1
    assert "1 of 30 that are not" in capsys.readouterr().err
    assert cli.main(args) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["audit"]["unreadable"] == 1

    capsys.readouterr()
    asked = ["keras_ft", "--mode=evaluate", f"--model={tmp_path / 'run'}"]
    table = image_folder / "table.csv"
    table.write_text("path,label\nred/0.png,red\nred/copy.png,red\n")
    shutil.copy(image_folder / "red" / "1.png", image_folder / "red" / "copy.png")
    output = tmp_path / "metrics.json"
    assert cli.main([*asked, f"--data={table}", f"--output={output}"]) == 0
    metrics = json.loads(output.read_text())
    assert (metrics["num_examples"], metrics["num_skipped"]) == (1, 1)
    assert cli.main([*asked, f"--data={table}", "--on_bad_image=error"]) == 1
    assert "1 of 2 that are not" in capsys.readouterr().err


def test_an_earlier_run_s_splits_are_kept_when_images_are_added(
    tiny_flags, image_folder, no_export, tmp_path
):
    args = flag_list(tiny_flags | {"finetune_epochs": 1})
    assert cli.main(args) == 0
    old = read_splits(tmp_path / "run")
    for i in range(10):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 20, 3), np.uint8)
        Image.fromarray(pixels).save(image_folder / "red" / f"new{i}.png")
    shutil.copy(tmp_path / "run" / "splits.csv", image_folder)
    assert cli.main([*args, f"--workdir={tmp_path / 'grown'}"]) == 0
    new = read_splits(tmp_path / "grown")
    assert {path: new[path] for path in old} == old
    assert len(new) == 40
    # The table alone is a data set too.
    table = f"--data={tmp_path / 'run' / 'splits.csv'}"
    assert cli.main([*args, f"--workdir={tmp_path / 'again'}", table]) == 0
    assert read_splits(tmp_path / "again") == old


def read_splits(folder):
    with open(folder / "splits.csv", newline="") as stream:
        return {row["path"]: row["split"] for row in DictReader(stream)}


def test_a_finished_run_goes_on_with_more_epochs(tiny_flags, tmp_path, capsys):
    args = flag_list(tiny_flags | {"finetune_epochs": 1, "schedule": "constant"})
    run = tmp_path / "run"
    assert cli.main(args) == 0
    first = read_history(run)
    assert cli.main([*args, "--finetune_epochs=3"]) == 0
    rows = read_history(run)
    assert rows[:1] == first
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["phases"]["finetune"]["epochs"] == 3
    assert json.loads((run / "run.json").read_text())["epochs"] == {"finetune": 3}
    versions = sorted(p.name for p in (run / "export" / "saved_model").iterdir())
    assert versions == ["1", "2"]  # what was served stays

    # Now it is a run of three epochs; fewer are another run.
    assert cli.main([*args, "--finetune_epochs=3"]) == 0
    assert cli.main([*args, "--finetune_epochs=2"]) == 1
    assert "--finetune_epochs was 3, now 2" in capsys.readouterr().err
    assert cli.main([*args, "--finetune_epochs=4", "--seed=3"]) == 1


def read_history(folder):
    with open(folder / "history.csv", newline="") as stream:
        return list(DictReader(stream))


def test_a_full_disk_is_one_line_and_the_run_goes_on_with_room(
    tiny_flags, tmp_path, capsys, monkeypatch
):
    args = flag_list(tiny_flags | {"finetune_epochs": 2})
    write = checkpoint.write_arrays

    def no_room(path, arrays, state):
        if path.name == "finetune-00002.npz":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, arrays, state)

    monkeypatch.setattr(checkpoint, "write_arrays", no_room)
    assert cli.main(args) == 1
    [line] = [x for x in capsys.readouterr().err.splitlines() if "keras_ft: " in x]
    assert "There is no room left for" in line
    assert "the same command goes on" in line
    monkeypatch.undo()
    assert cli.main(args) == 0
    assert [row["epoch"] for row in read_history(tmp_path / "run")] == ["1", "2"]


def test_accuracy_below_what_was_asked_for_is_a_failure(tiny_flags, tmp_path, capsys):
    # With this learning rate nothing is learned.
    args = flag_list(
        tiny_flags | {"finetune_epochs": 1, "finetune_learning_rate": 1e-6}
    )
    assert cli.main([*args, "--assert_accuracy_at_least=1"]) == 1
    output = capsys.readouterr()
    assert "--assert_accuracy_at_least=1 on test must hold" in output.err
    assert "SavedModel  none" in output.out
    assert not (tmp_path / "run" / "export").exists()
    # The run is finished, and fails again until less is asked for.
    assert cli.main([*args, "--assert_accuracy_at_least=1"]) == 1
    assert cli.main(args) == 0


def test_a_full_memory_is_one_line_with_advice(tiny_flags, capsys, monkeypatch):
    def full(*args, **kwargs):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")

    monkeypatch.setattr(Learner, "fit", full)
    assert cli.main(flag_list(tiny_flags)) == 1
    assert "The memory does not suffice. Lower --batch_size, 8" in (
        capsys.readouterr().err
    )


def test_a_damaged_model_and_checkpoint_cost_an_epoch_and_no_more(
    tiny_flags, tmp_path, caplog, monkeypatch
):
    args = flag_list(tiny_flags | {"finetune_epochs": 2})
    monkeypatch.setattr(
        export, "write_saved_model", lambda *_: 1 / 0
    )  # ends the run after its phases
    with pytest.raises(ZeroDivisionError):
        cli.main(args)
    monkeypatch.undo()
    run = tmp_path / "run"
    for path in (run / "model.keras", run / "checkpoints" / "finetune-00002.npz"):
        path.write_bytes(path.read_bytes()[:500])
    log = logging.getLogger("keras_ft")
    log.addHandler(caplog.handler)  # the program keeps its lines from the root logger
    assert cli.main(args) == 0
    log.removeHandler(caplog.handler)
    assert "model.keras is damaged" in caplog.text
    assert "finetune-00002.npz is damaged" in caplog.text
    assert [row["epoch"] for row in read_history(run)] == ["1", "2"]
