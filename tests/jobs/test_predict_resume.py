"""A prediction that is killed and goes on."""

import functools
from pathlib import Path

import pytest
from helpers import read_table

from keras_ft.config.settings import Config
from keras_ft.errors import UserError
from keras_ft.jobs import predict as job
from keras_ft.jobs.predict import predict
from keras_ft.serving import trained_classifier


@pytest.fixture
def run(finished_run):
    """The workdir of a finished run."""
    return Path(finished_run.run.workdir)


def config(model, data, **flags):
    return Config(mode="predict", model=model, data=data, **flags)


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.parametrize("num_bytes", [0, 30, 300, 3000, 10**6])
def test_a_killed_prediction_resumes_to_the_same_bytes(
    run, image_folder, tmp_path, monkeypatch, load_once, ending, num_bytes
):
    # Rows of CSV can have several lines.
    (image_folder / "red" / "0.png").rename(image_folder / "red" / 'line,\r\n"2".png')
    (image_folder / "red" / "1.png").write_bytes(b"no image")
    whole, output = tmp_path / f"whole.{ending}", tmp_path / f"out.{ending}"
    predict(config(run, image_folder, output=whole, batch_size=4))
    expected = whole.read_bytes()

    predict_until(num_bytes, config(run, image_folder, output=output, batch_size=4))
    assert not output.exists()
    if num_bytes:
        part = tmp_path / f"out.{ending}.part"
        assert part.read_bytes() == expected[:num_bytes]
    files = count_files_read(monkeypatch)
    predict(config(run, image_folder, output=output, batch_size=4))
    assert output.read_bytes() == expected
    assert (len(files) == 30) == (num_bytes < 1000)
    assert list(tmp_path.glob("*out*")) == [output]


def test_rows_of_other_images_or_another_model_are_not_resumed(
    run, image_folder, tmp_path, load_once
):
    output, part = tmp_path / "out.csv", tmp_path / "out.csv.part"
    predict_until(1500, config(run, image_folder, output=output, batch_size=4))
    rows = part.read_bytes()
    for data, flags, error in [
        (image_folder, {"top_k": 1}, "same model and flags"),
        (image_folder / "red", {}, "same images in the same order"),
        (image_folder / "blue" / "0.png", {}, "Received: None where row 2 of"),
    ]:
        with pytest.raises(UserError, match=error):
            predict(config(run, data, output=output, batch_size=4, **flags))
        assert part.read_bytes() == rows
    predict(config(run, image_folder / "red", output=output, overwrite=True))
    assert len(read_table(output)) == 10
    assert not part.exists()


class Killed(BaseException):
    pass


def predict_until(num_bytes, config):
    """Ends predict when it has written so many bytes, or all before it renames."""
    write, written = job._write, 0

    def write_some(stream, text):
        nonlocal written
        content = text.encode()[: num_bytes - written]
        written += len(content)
        write(stream, content.decode())
        if written >= num_bytes:
            raise Killed

    def sync(_):
        if written:
            raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(job, "_write", write_some)
        patch.setattr("os.fsync", sync)
        predict(config)


def count_files_read(monkeypatch):
    """A list that grows by each file that predict reads."""
    read, files = trained_classifier.read_image, []

    def count(file):
        files.append(file)
        return read(file)

    monkeypatch.setattr(trained_classifier, "read_image", count)
    return files


_load_once = functools.cache(trained_classifier.load_classifier)


@pytest.fixture
def load_once(monkeypatch):
    """Loads each model once, which takes most of the time of predict here."""
    monkeypatch.setattr(trained_classifier, "load_classifier", _load_once)
