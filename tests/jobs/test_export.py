import shutil

import pytest
from helpers import read_table

from keras_ft import cli
from keras_ft.serving import export


@pytest.fixture
def copied_run(finished_run, tmp_path):
    """The workdir of a finished run, to be changed."""
    return shutil.copytree(finished_run.run.workdir, tmp_path / "run")


@pytest.mark.parametrize("has_images", [True, False])
def test_a_new_version_is_checked_on_the_images_of_test(
    copied_run, has_images, monkeypatch, capsys
):
    splits = copied_run / "splits.csv"
    test = [row["path"] for row in read_table(splits) if row["split"] == "test"]
    if not has_images:  # instead of them it uses others
        splits.write_text(splits.read_text().replace(".png", ".moved"))
    checked = []
    check = export.check_parity
    monkeypatch.setattr(
        export, "check_parity", lambda *a: checked.append(a) or check(*a)
    )
    assert cli.main(["", "--mode=export", f"--workdir={copied_run}"]) == 0
    versions = copied_run / "export" / "saved_model"
    assert capsys.readouterr().out == f"{versions / '2'}\n"
    assert sorted(version.name for version in versions.iterdir()) == ["1", "2"]
    [(_, files, *_)] = checked
    assert len(files) > 0
    assert (sorted(files) == sorted(test)) == has_images


def test_a_workdir_without_a_model_is_one_line(copied_run, capsys):
    (copied_run / "model.keras").unlink()
    assert cli.main(["", "--mode=export", f"--workdir={copied_run}"]) == 1
    message = "--mode=export needs a finished run's workdir"
    assert message in capsys.readouterr().err
