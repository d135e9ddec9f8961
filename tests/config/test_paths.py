"""Flags that are paths: where they may point, and how they are written."""

import os
from pathlib import Path

import pytest

import keras_ft
from keras_ft.config import flags
from keras_ft.config.settings import FIELDS, Config
from keras_ft.errors import UserError

BASE = {"workdir": "w", "data": "d"}
# Every flag that takes a path, a mode that it belongs to, and what it needs there.
PATHS = {
    "workdir": {},
    "data": {},
    "weights": {},
    "cache_dir": {},
    "tfds_data_dir": {},
    "model": {"mode": "predict"},
    "output": {"mode": "check"},
    "features": {"mode": "predict"},
    "heatmaps": {"mode": "predict"},
}
ADDRESSES = ["gs://b/run", "s3://b/r", "hdfs://h/r", "https://h/r.npy", "FILE:///r"]


@pytest.fixture(autouse=True)
def home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")


def test_these_are_the_flags_that_take_paths():
    marked = {name for name, field in FIELDS.items() if field.metadata["is_path"]}
    assert marked == PATHS.keys() | {"backbone"}


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("address", [*ADDRESSES, Path("gs://b/run"), "$HOME/run"])
def test_an_address_is_refused(name, address):
    with pytest.raises(UserError, match=f"--{name} must be a path on this .*Received"):
        Config(**BASE | PATHS[name] | {name: address})


@pytest.mark.parametrize("value", ["imagenet,gs://b/x.h5", "https://h/x.h5,starter"])
def test_an_address_among_weights_is_refused(value):
    with pytest.raises(UserError, match="--weights must be a path on this machine"):
        flags.parse(["", "--workdir=w", "--data=d", f"--weights={value}"])


def test_a_list_at_an_address_is_refused():
    with pytest.raises(UserError, match="--data must be a path.*@https://h/list.txt"):
        Config(mode="predict", model="m", data="@https://h/list.txt")


@pytest.mark.parametrize("name", PATHS)
def test_the_home_folder_is_expanded(name):
    config = Config(**BASE | PATHS[name] | {name: "~/x.npy"})
    [value] = [value for field, value in config.items() if field.name == name]
    assert value == (("/home/me/x.npy",) if name == "weights" else "/home/me/x.npy")


def test_the_home_folder_is_expanded_within_values():
    config = Config(mode="predict", model="m", data="@~/list.txt")
    assert config.data.data == "@/home/me/list.txt"
    config = Config(**BASE, weights=["imagenet", "~/run"], backbone="tiny")
    assert config.model.weights == ("imagenet", "/home/me/run")
    field = FIELDS["backbone"]
    expanded = keras_ft.config.fields.check_value(field, "hub:~/preset")
    assert expanded == "hub:/home/me/preset"


def test_the_home_folder_is_expanded_in_a_flagfile(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my.cfg").write_text("--workdir=~/run\n--data=d\n")
    config = flags.parse(["", "--flagfile=~/my.cfg"])
    assert config.run.workdir == f"{tmp_path}/run"
    assert flags.load_flagfile("~/my.cfg") == config


@pytest.mark.parametrize(
    "name", ["tfds:cats", "builtin:faces", "photos", "./a:/b", "@-", "a~b", "./~"]
)
def test_other_names_stay_as_they_are(name):
    assert Config(mode="predict", model="m", data=name).data.data == name


@pytest.mark.parametrize("name", ["hub:hf://a/b", "hub:kaggle://a/b", "py:a:b"])
def test_names_of_networks_stay_as_they_are(name):
    assert keras_ft.config.fields.check_value(FIELDS["backbone"], name) == name


def test_an_unknown_home_folder_is_an_error():
    with pytest.raises(UserError, match="--workdir must begin with a home folder"):
        Config(workdir="~nobody-here/run", data="d")


def test_the_model_of_python_is_a_path_too(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="--model must be a path on this machine"):
        keras_ft.load_classifier("gs://bucket/run")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match=f"Received: {tmp_path}/run"):
        keras_ft.load_classifier("~/run")


def test_the_default_cache_is_that_of_whoever_reads_the_flags(monkeypatch):
    monkeypatch.setattr(FIELDS["cache_dir"], "default", "~/cache")
    config = Config(**BASE)
    assert config.data.cache_dir == "/home/me/cache"
    assert "--cache_dir=~/cache\n" in flags.to_flagfile(config)
    config = Config(**BASE, cache_dir="~/other")
    assert "--cache_dir=/home/me/other\n" in flags.to_flagfile(config)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *(
            (name, mode)
            for name in ("workdir", "cache_dir")
            for mode in ("train", "check")
        ),
        ("workdir", "compare"),
        ("heatmaps", "predict"),
    ],
)
@pytest.mark.parametrize("below", ["", "run", "cat/run"])
def test_what_is_written_must_lie_outside_the_images(name, mode, below, tmp_path):
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    os.symlink("photos", tmp_path / "link")
    place = {name: str(tmp_path / "link" / below), "mode": mode}
    more = {"compare": {"sweep": "unfreeze=none|all"}, "predict": {"model": "m"}}
    values = {"workdir": "w", "data": f"{tmp_path}/photos"} | more.get(mode, {}) | place
    with pytest.raises(UserError, match=f"--{name} must lie outside the folder of --d"):
        Config(**values)


@pytest.mark.parametrize("place", ["", "photos.run", "photos/.run", "photos/.a/run"])
def test_a_workdir_may_lie_around_or_beside_the_images_or_be_hidden(place, tmp_path):
    (tmp_path / "photos").mkdir()
    Config(workdir=str(tmp_path / place), data=str(tmp_path / "photos"))


def test_a_workdir_may_lie_beside_a_table(tmp_path):
    (tmp_path / "labels.csv").touch()
    Config(workdir=str(tmp_path / "run"), data=str(tmp_path / "labels.csv"))
