import re
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image

import keras_ft
from keras_ft.config.settings import Config
from keras_ft.errors import UserError


def test_the_documented_example_runs(tmp_path, monkeypatch):
    text = (ROOT / "docs" / "api.md").read_text()
    [example] = re.findall(r"<!-- python -->\n```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (70, 50), "white").save("photo.jpg")
    names = {}
    exec(example, names)
    assert names["metrics"]["test"]["accuracy"] > 0.8
    # Evaluated without the images of train and val.
    assert names["measured"]["num_examples"] == 30
    assert names["measured"]["accuracy"] == names["metrics"]["test"]["accuracy"]
    assert len(names["checked"].examples) == 200
    probabilities = names["classifier"].predict(["photo.jpg", "photo.jpg"])
    assert probabilities.shape == (2, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(UserError, match=r"1 of 2 that are not: text\.jpg"):
        names["classifier"].predict(["photo.jpg", "text.jpg"])
    # Finished: the same call gives the same, and nothing is trained.
    history = Path("runs/notebook/history.csv")
    before = history.stat().st_mtime_ns
    assert keras_ft.fine_tune(names["config"]) == names["metrics"]
    assert history.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "values",
    [
        {"weights": "starter", "head_epochs": 3, "deterministic": True},
        {"weights": ("imagenet", "starter"), "head_epochs": "auto"},
        {"patience": None, "dropout": 0.5, "overwrite": False},
    ],
)
def test_keywords_are_flags(values):
    config = keras_ft.Config(data="photos", workdir="run", **values)
    given = dict(values)
    if isinstance(given.get("weights"), str):
        given["weights"] = (given["weights"],)
    if given.get("head_epochs") == "auto":
        given["head_epochs"] = None
    assert config == Config(data="photos", workdir="run", **given)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 3}, "epochs"),
        ({"head_epochs": "many"}, "head_epochs"),
        ({"head_epochs": -1}, "at least 0"),
        ({"data": ""}, "needs --data"),
    ],
)
def test_mistakes_are_told_as_on_the_command_line(values, message):
    with pytest.raises(UserError, match=message):
        keras_ft.Config(**({"data": "photos", "workdir": "run"} | values))


@pytest.mark.parametrize(
    ("function", "values", "message"),
    [
        ("fine_tune", {"mode": "compare", "sweep": "dropout=0|0.1"}, "--sweep needs"),
        ("fine_tune", {"mode": "check", "head_epochs": 0, "unfreeze": "none"}, "train"),
        ("evaluate", {"mode": "predict", "top_k": 5}, "--top_k needs --mode=predict"),
        ("check", {"mode": "serve", "data": ""}, "--mode=check needs --data"),
        ("compare", {}, "--mode=compare needs --sweep"),
    ],
)
def test_flags_are_those_of_the_function_whatever_the_mode(function, values, message):
    config = keras_ft.Config(**({"data": "photos", "workdir": "run"} | values))
    with pytest.raises(UserError, match=message) as error:
        getattr(keras_ft, function)(config)
    assert "\n" not in str(error.value)
