"""What an unfinished run needs is not left in the workdir of a finished one."""

from keras_ft.jobs.train import train
from keras_ft.runs.paths import RunPaths
from keras_ft.runs.workdir import remove_leftovers


def write(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * 1000)


def list_files(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(str(path.relative_to(folder)) for path in files)


def test_checkpoints_and_unfinished_files_go_and_others_stay(tmp_path):
    paths = RunPaths(tmp_path)
    assert remove_leftovers(paths) == 0
    results = ["export/onnx/1/model.onnx", "model.keras", "report.html"]
    names = ["head.npz", "head-00003.npz", "finetune-100000.npz"]
    write(tmp_path, *results, *(f"checkpoints/{name}" for name in names))
    write(tmp_path, ".partial-model.keras", "checkpoints/.partial-finetune-00002.npz")
    write(tmp_path, "export/.partial-a/saved_model.pb", "export/.partial-a/b/c")
    assert remove_leftovers(paths) == 7000
    assert list_files(tmp_path) == results
    assert not paths.checkpoints.exists()
    write(tmp_path, "checkpoints/head.npz", "checkpoints/mine.npz", "checkpoints/a.txt")
    remove_leftovers(paths)
    assert list_files(paths.checkpoints) == ["a.txt", "mine.npz"]


def test_a_run_that_was_killed_at_its_very_end_is_tidied_by_the_same_command(
    fake_training, tiny_config, tmp_path, caplog
):
    run = tmp_path / "run"
    train(tiny_config)
    assert not (run / "checkpoints").exists()
    write(run, "checkpoints/finetune-00002.npz")
    with caplog.at_level("INFO", "keras_ft"):
        train(tiny_config)
    [message] = [text for text in caplog.messages if text.startswith("Removed")]
    assert message == f"Removed 0.0 MB from {run}, which only an unfinished run needs."
    assert not (run / "checkpoints").exists()
    assert fake_training.phases == ["finetune"]
