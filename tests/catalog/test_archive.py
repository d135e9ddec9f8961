"""Tests of what a model file says of itself, also if it is damaged."""

import json
import zipfile

import pytest

from keras_ft.catalog.archive import (
    DESCRIPTION,
    Description,
    from_json,
    is_classifier,
    read_backbone_name,
    read_description,
    to_json,
)
from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.kinds.task import MULTILABEL, Task

WHOLE = Description(
    (
        Task("species", ("cat", "dog", "owl")),
        Task("tags", ("big", "wet"), MULTILABEL, (0.5, 0.25)),
    ),
    Preprocessing(32, 48, "pad"),
    {"species": 1.5, "tags": 1.0},
    {"backbone": "tiny"},
    "py:mine:make",
)
CONTENT = json.loads(to_json(WHOLE))
OTHERS = (None, True, -1, 0.5, float("nan"), "x", "", [], [[]], {}, {"a": {}})


def _paths(value, path=()):
    """The place of each value in a document, `run` is anyone's."""
    yield path
    items = {}
    if isinstance(value, dict):
        items = value
    elif isinstance(value, list):
        items = dict(enumerate(value))
    for key, item in items.items():
        if path != ("run",):
            yield from _paths(item, (*path, key))


def _replaced(path, new):
    """The document with another value at a place, or without it."""
    content = json.loads(json.dumps({"": CONTENT}))
    *parents, last = ("", *path)
    parent = content
    for key in parents:
        parent = parent[key]
    if new is KeyError:
        del parent[last]
    else:
        parent[last] = new
    return json.dumps(content.get(""))


def test_a_description_is_read_as_it_was_written():
    assert from_json(to_json(WHOLE)) == WHOLE


@pytest.mark.parametrize("path", [p for p in _paths(CONTENT) if p], ids=str)
def test_every_other_type_of_any_value_is_refused_or_harmless(path):
    for other in (KeyError, *OTHERS):
        try:
            found = from_json(_replaced(path, other))
        except ValueError:
            continue
        # What remains has the types that the program relies on.
        assert from_json(to_json(found)) == found
        assert all(isinstance(name, str) for t in found.tasks for name in t.class_names)
        assert all(
            isinstance(side, int) and side > 0 for side in found.preprocessing.size
        )


@pytest.mark.parametrize(
    ("path", "new", "message"),
    [
        (("format_version",), 2, "a newer version of keras_ft"),
        (("tasks",), [], "no tasks"),
        (("tasks", 1, "name"), "species", "no tasks with names of their own"),
        (("tasks", 0, "class_names"), ["cat", "cat", "owl"], "no task: species"),
        (("tasks", 0, "kind"), "ranking", "no task: species"),
        (("tasks", 1, "thresholds"), [0.5], "no task: tags with 2 classes, 1 thr"),
        (("tasks", 1, "thresholds"), [], "no task: tags with 2 classes, 0 thr"),
        (("image_size",), [0, 48], "pixels"),
        (("image_size",), [32, 48, 3], "no preprocessing"),
        (("resize",), "squeeze", "no preprocessing: resize squeeze"),
        (("tasks", 0, "class_names", 1), 7, r"class_names\[1\] must be text"),
    ],
)
def test_a_wrong_value_is_named(path, new, message):
    with pytest.raises(ValueError, match=message):
        from_json(_replaced(path, new))


@pytest.mark.parametrize("text", ["", "[]", "3", "null", "\xff", "{", "[" * 99_999])
def test_what_is_no_description_is_a_value_error(text):
    with pytest.raises(ValueError):
        from_json(text.encode("latin1"))


@pytest.mark.parametrize(
    "config", ["", "[]", '{"config": {"layers": [3]}}', "[" * 99_999]
)
def test_another_network_is_a_value_error(tmp_path, config):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", config)
        archive.writestr("class_names.json", '["a", "b"]')
    assert is_classifier(path)
    for read in (read_description, read_backbone_name):
        with pytest.raises(ValueError):
            read(path)


def test_a_bomb_is_no_classifier(tmp_path):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(DESCRIPTION, to_json(WHOLE))
        archive.writestr("model.weights.h5", bytes(100_000_000))
    assert not is_classifier(path)
    with pytest.raises(zipfile.BadZipFile, match="when it is unpacked"):
        read_description(path)
