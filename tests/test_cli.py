import json
import subprocess
import sys
from pathlib import Path

import pytest

from keras_ft import cli, export

ROOT = Path(__file__).parents[1]


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
