import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_ft.errors import UserError
from keras_ft.serving.trained_classifier import classify, load_classifier


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 broken"])
def test_a_file_that_is_no_model_is_one_line(tmp_path, content):
    path = tmp_path / "model.keras"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match="--model") as error:
        load_classifier(path)
    assert "\n" not in str(error.value)


def test_a_damaged_saved_model_is_one_line(finished_run, tmp_path):
    versions = Path(finished_run.run.workdir) / "export" / "saved_model"
    version = shutil.copytree(versions / "1", tmp_path / "1")
    (version / "saved_model.pb").write_bytes(b"damaged")
    with pytest.raises(UserError, match="can't be read as a model of keras_ft"):
        load_classifier(version)


def test_the_error_about_heic_names_the_package(finished_run, tmp_path, monkeypatch):
    classifier = load_classifier(Path(finished_run.run.workdir) / "model.keras")
    (tmp_path / "x.heic").write_bytes(b"\0\0\0\x10ftypheic\0\0\0\0")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UserError, match=r"1 of 1 .*x.heic.*pip install .*\[heic\]"):
        classifier.predict([tmp_path / "x.heic"])


def test_files_that_cannot_be_decoded_are_found_in_a_batch(finished_run, image_folder):
    classifier = load_classifier(Path(finished_run.run.workdir) / "model.keras")
    files = [str(image_folder / "red" / f"{i}.png") for i in range(10)]
    expected = [p["label"] for p, _ in classify(classifier, files, batch_size=10)]
    for i in (2, 3, 9):  # the headers are whole
        Path(files[i]).write_bytes(Path(files[i]).read_bytes()[:200])
    answers = list(classify(classifier, iter(files), batch_size=10))
    assert [i for i, (_, error) in enumerate(answers) if error] == [2, 3, 9]
    for row, (probabilities, error) in zip(expected, answers, strict=True):
        if not error:
            np.testing.assert_allclose(probabilities["label"], row, atol=1e-5)


def test_files_are_taken_few_batches_ahead(finished_run, image_folder):
    classifier = load_classifier(Path(finished_run.run.workdir) / "model.keras")
    taken = []

    def list_files():
        for i in range(100):
            taken.append(i)
            yield str(image_folder / "red" / f"{i % 10}.png")

    answers = classify(classifier, list_files(), batch_size=2)
    next(answers)
    assert len(taken) <= 10
    answers.close()
    assert len(taken) <= 10


def test_probabilities_match_the_keras_model(finished_run, image_folder):
    run = Path(finished_run.run.workdir)
    exported = load_classifier(run / "export" / "saved_model" / "1")
    keras_model = load_classifier(run / "model.keras")
    files = [str(image_folder / "red" / f"{i}.png") for i in range(10)]
    ours = [p["label"] for p, _ in classify(exported, files, batch_size=3)]
    theirs = [p["label"] for p, _ in classify(keras_model, files, batch_size=10)]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_images_in_memory_get_the_answers_of_their_files(finished_run, image_folder):
    classifier = load_classifier(Path(finished_run.run.workdir) / "model.keras")
    files = [image_folder / name / "0.png" for name in ("red", "green", "blue")]
    expected = classifier.predict(files)
    pixels = [np.asarray(Image.open(file)) for file in files]
    for images in (
        [file.read_bytes() for file in files],
        [Image.open(file) for file in files],
        pixels,
        np.array(pixels),
        [str(files[0]), Image.open(files[1]).convert("RGBA"), pixels[2]],
    ):
        np.testing.assert_allclose(classifier.predict(images), expected, rtol=1e-5)
    with pytest.raises(UserError, match="2 of 3 that are not: number 0, number 2"):
        classifier.predict([b"no image", pixels[0], b""])
    # One image need not be in a list.
    content = files[0].read_bytes()
    for one in (str(files[0]), files[0], content, Image.open(files[0]), pixels[0]):
        probabilities = classifier.predict(one)
        assert probabilities.shape == (3,)
        np.testing.assert_allclose(probabilities, expected[0], rtol=1e-5)
    nothing = classifier.predict([])
    assert (nothing.shape, nothing.dtype) == ((0, 3), np.float32)


def test_probabilities_with_the_names_of_classes(finished_run, image_folder):
    classifier = load_classifier(Path(finished_run.run.workdir) / "model.keras")
    files = [image_folder / name / "0.png" for name in ("red", "green")]
    named = classifier.predict_classes(files)
    for row, expected in zip(named, classifier.predict(files), strict=True):
        assert [*row.values()] == sorted(expected.tolist(), reverse=True)
        assert [row[name] for name in classifier.class_names] == expected.tolist()
    assert classifier.predict_classes(files[0]) == pytest.approx(named[0], rel=1e-5)
    assert classifier.predict_classes([]) == []
    assert repr(classifier) == "Classifier(3 classes: blue, green, red)"


def test_a_classifier_from_before_a_fork_is_an_error(finished_run, monkeypatch):
    classifier = load_classifier(Path(finished_run.run.workdir) / "model.keras")
    monkeypatch.setattr(os, "getpid", lambda: classifier.process + 1)
    with pytest.raises(UserError, match="before a fork; load it in each process"):
        classifier.predict([])


def test_a_file_that_was_taken_for_a_path_is_not_repeated(finished_run):
    classifier = load_classifier(Path(finished_run.run.workdir) / "model.keras")
    with pytest.raises(UserError, match="A... and 999800 characters more") as error:
        classifier.predict(["A" * 1_000_000])
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("image", "received"),
    [
        (np.zeros([4, 4, 3]), r"ndarray float64 of shape \(4, 4, 3\)"),
        (np.zeros([4, 4], np.uint8), r"ndarray uint8 of shape \(4, 4\)"),
        (np.zeros([1, 4, 4, 3], np.uint8), r"ndarray uint8 of shape \(1, 4, 4, 3\)"),
        (7, "int 7"),
    ],
)
def test_what_is_no_image_is_told(finished_run, image_folder, image, received):
    classifier = load_classifier(Path(finished_run.run.workdir) / "model.keras")
    with pytest.raises(UserError, match=f"Images must be .*Received: {received}") as e:
        classifier.predict([image_folder / "red" / "0.png", image])
    assert "\n" not in str(e.value)
