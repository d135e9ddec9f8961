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
    ],
)
def test_mistakes_are_told_as_on_the_command_line(values, message):
    with pytest.raises(UserError, match=message):
        keras_ft.Config(**({"data": "photos", "workdir": "run"} | values))


@pytest.mark.parametrize(
    ("function", "values", "message"),
    [
        ("fine_tune", {"mode": "compare", "sweep": "dropout=0|0.1"}, "d: compare; of"),
        ("fine_tune", {"mode": "evaluate"}, "a Config of mode train. .*evaluate"),
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


def test_objects_are_shown_in_a_line(image_folder):
    config = keras_ft.Config(mode="check", data=str(image_folder), seed=3)
    assert repr(config) == f"Config(mode='check', seed=3, data={str(image_folder)!r})"
    checked = keras_ft.check(config)
    assert repr(checked.examples) == "Examples(30 images)"
    assert repr(checked).startswith("CheckResult(30 images, ")
    assert repr(checked).endswith(" findings, obstacle=None)")


@pytest.mark.parametrize("run", ["fine_tune", "check", "evaluate"])
def test_without_data_and_table_nothing_is_done(run):
    mode = {"fine_tune": "train"}.get(run, run)
    config = keras_ft.Config(mode=mode, workdir="run")
    with pytest.raises(UserError, match=f"--mode={mode} needs --data"):
        getattr(keras_ft, run)(config)


class Frame(dict):
    """Stands in for a DataFrame of pandas: a dict of columns that writes CSV."""

    columns = property(dict.keys)

    def to_csv(self, index):
        rows = [self.columns, *zip(*self.values(), strict=True)]
        return "".join(f"{','.join(row)}\n" for row in rows)


@pytest.mark.parametrize("kind", [Frame, dict])
def test_a_table_takes_the_place_of_data(
    kind, tiny_flags, image_folder, fake_training, monkeypatch
):
    monkeypatch.chdir(image_folder)
    paths = sorted(
        str(p.relative_to(image_folder)) for p in image_folder.rglob("*.png")
    )
    table = kind(path=paths, label=[path.split("/")[0] for path in paths])
    flags = tiny_flags | {"data": ""}
    config = keras_ft.Config(**flags)
    metrics = keras_ft.fine_tune(config, table=table)
    assert metrics["class_names"] == ["blue", "green", "red"]
    # The run can be repeated from its files, and the same call finds it finished.
    [written] = map(str, Path(tiny_flags["workdir"]).glob("table-*.csv"))
    assert f"--data={written}\n" in Path(tiny_flags["workdir"], "flags.cfg").read_text()
    monkeypatch.chdir("/")
    assert keras_ft.fine_tune(config.replace(data=written)) == metrics
    monkeypatch.chdir(image_folder)
    assert keras_ft.fine_tune(config, table=table) == metrics
    assert fake_training.phases == ["finetune"]
    checked = keras_ft.check(config.replace(mode="check", workdir=""), table=table)
    assert len(checked.examples) == 30
    other = kind({name: column[1:] for name, column in table.items()})
    before = Path(written).read_bytes()
    with pytest.raises(UserError, match="images have changed .*: 1 gone") as error:
        keras_ft.fine_tune(config, table=other)
    assert "\n" not in str(error.value)
    assert Path(written).read_bytes() == before
    with pytest.raises(UserError, match="data and table exclude each other"):
        keras_ft.fine_tune(keras_ft.Config(**tiny_flags), table=table)


@pytest.mark.parametrize(
    ("table", "received"),
    [
        ({"file": ["a"], "label": ["b"]}, "dict of columns file, label"),
        ({"path": ["a"], "label": []}, "dict of columns unknown"),
        ([{"path": "a"}], "list"),
    ],
)
def test_what_is_no_table_is_told(table, received, tmp_path):
    config = keras_ft.Config(workdir=str(tmp_path / "run"))
    with pytest.raises(UserError, match=f"table must be .*Received: {received}"):
        keras_ft.fine_tune(config, table=table)
    assert not (tmp_path / "run").exists()


def test_evaluate_takes_a_table(finished_run):
    folder = Path(finished_run.data.data)
    paths = sorted(folder.rglob("*.png"))
    table = {"path": paths, "label": [path.parent.name for path in paths]}
    config = keras_ft.Config(mode="evaluate", model=finished_run.run.workdir)
    measured = keras_ft.evaluate(config, table=table)
    assert measured["num_examples"] == 6  # without those of train and val
