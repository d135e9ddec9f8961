import json
import subprocess
import sys
from pathlib import Path

from helpers import ROOT

from keras_ft import cli

MISTAKES = [
    (["--epochs=3"], "epochs"),
    (["epochs=3"], "Every argument is a flag"),
    (["--flagfile=configs/binary.cfg", "--image_size=8"], "at least 32"),
    (["--flagfile=configs/binary.cfg", "--unfreeze=from:conv9"], "conv1, conv2"),
    (["--workdir=w", "--data=/nowhere"], "/nowhere"),
    (["--workdir=w", "--data=builtin:cats"], "builtin:cats"),
    (["--workdir=w", "--data=tests", "--weights=/nowhere"], "there is no such file"),
    (["--mode=predict", "--data=x"], "--model"),
    (["--mode=predict", "--data=tests", "--model=/nowhere"], "/nowhere"),
    (["--mode=evaluate", "--data=/nowhere", "--model=tests"], "--model must be"),
    (["--mode=export", "--workdir=/nowhere"], "flags.cfg"),
]
# Runs several command lines; prints the exit status and the output of each as JSON.
WITHOUT_TENSORFLOW = """
import contextlib, io, json, sys
sys.modules.update(dict.fromkeys(["tensorflow", "keras"], None))
from keras_ft.cli import main
results = []
for args in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["keras_ft", *args])
    results.append([status, out.getvalue(), err.getvalue()])
print(json.dumps(results))
"""


def run_without_tensorflow(*command_lines):
    """Runs the program in a process in which importing TensorFlow fails.

    Returns:
        For each command line the exit status, standard output and standard error.
    """
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW, json.dumps(command_lines)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_help_and_mistakes_need_no_tensorflow(image_folder):
    bad = [f"red/bad{i}.png" for i in range(3)]
    for name in bad:
        (image_folder / name).write_bytes(b"")
    bad_files = ["--workdir=w", f"--data={image_folder}", "--on_bad_image=error"]
    cases = [*MISTAKES, (bad_files, "3 of 33"), *((bad_files, name) for name in bad)]
    (status, out, err), *results = run_without_tensorflow(
        ["--help"], *(args for args, _ in cases)
    )
    assert (status, err) == (0, "")
    assert "--head_learning_rate" in out
    for (_, message), (status, out, err) in zip(cases, results, strict=True):
        assert (status, out) == (1, "")
        [line] = err.splitlines()
        assert line.startswith("keras_ft: ")
        assert message in line


def test_a_mistake_leaves_no_workdir(tmp_path):
    assert cli.main(["", f"--workdir={tmp_path / 'run'}", "--data=/nowhere"]) == 1
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_summarized_again_and_not_repeated(finished_run, capsys):
    run = Path(finished_run.run.workdir)
    model = (run / "model.keras").stat().st_mtime_ns
    args = ["", f"--flagfile={run / 'flags.cfg'}", f"--workdir={run}"]
    assert cli.main(args) == 0
    metrics = json.loads((run / "metrics.json").read_text())
    accuracy = f"Test accuracy: {100 * metrics['test']['accuracy']:.1f} %"
    assert capsys.readouterr().out.rstrip().splitlines()[-1] == accuracy
    # Other flags are refused.
    assert cli.main([*args, "--seed=7"]) == 1
    assert "--seed was 0, now 7" in capsys.readouterr().err
    assert (run / "model.keras").stat().st_mtime_ns == model


def test_a_reader_that_ends_early_is_no_error():
    process = subprocess.Popen(
        [sys.executable, "-m", "keras_ft", "--help"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    assert process.communicate()[1] == b""
    assert process.returncode == 1


def test_a_full_disk_is_one_line(image_folder, monkeypatch, capsys):
    def fail(config):
        raise OSError(28, "No space left on device", "/tmp/x.py")

    monkeypatch.setattr("keras_ft.jobs.check.check", fail)

    assert cli.main(["", "--mode=check", f"--data={image_folder}"]) == 1

    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "device: '/tmp/x.py'. Make room" in error
    assert "TMPDIR" in error


def test_a_check_fails_where_training_would_not_start(image_folder, tmp_path, capsys):
    (image_folder / "red" / "0.png").write_bytes(b"")
    output = tmp_path / "audit.csv"
    flags = [f"--data={image_folder}", "--on_bad_image=error", f"--output={output}"]

    assert cli.main(["", "--mode=check", *flags]) == 1

    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == "Training would not start."
    assert "--on_bad_image" in printed.err.splitlines()[-1]
    assert "empty_file" in output.read_text()
