"""Exports of earlier versions of the program still load and answer the same."""

import json
import zipfile

import numpy as np
import pytest
from helpers import ROOT, installed_formats

from keras_ft import load_classifier
from keras_ft.catalog.archive import find_description, from_json
from keras_ft.catalog.formats import FORMATS
from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.runs.find_model import find_model

FOLDERS = sorted((ROOT / "tests" / "fixtures").glob("exports_*"))
# What rounding of another processor explains, of features to int8 above all.
TOLERANCES = {"litert_int8": 2e-2, "litert_float16": 2e-3}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
@pytest.mark.parametrize("name", FORMATS)
def test_exports_answer_as_they_did(folder, name):
    if name not in installed_formats():
        pytest.skip(f"needs the extra {FORMATS[name].extra}")
    expected = json.loads((folder / "expected.json").read_text())
    classifier = load_classifier(folder / name)
    answers = classifier.predict([folder / "images" / f for f in expected["images"]])
    assert list(answers) == list(expected["probabilities"])
    for task, probabilities in expected["probabilities"].items():
        tolerance = TOLERANCES.get(name, 1e-5)
        np.testing.assert_allclose(answers[task], probabilities, atol=tolerance)
    found = find_description(find_model(folder / name))
    assert found == from_json(json.dumps(expected["description"]))
    assert found.tasks[0].class_names == ("blau", "grün", "rot")
    assert found.tasks[1].thresholds == (0.5, 0.25)
    assert found.preprocessing == Preprocessing(32, 24, "crop")
    assert found.temperatures == {"colour": 1.25, "tags": 1.0}


def test_there_is_a_fixture_of_each_version():
    versions = [json.loads((f / "expected.json").read_text()) for f in FOLDERS]
    numbers = [version["description"]["format_version"] for version in versions]
    assert numbers == list(range(1, len(FOLDERS) + 1))
    with zipfile.ZipFile(FOLDERS[-1] / "litert" / "model.tflite") as archive:
        assert archive.namelist() == ["keras_ft.json"]
