"""A trained classifier as the start of another one."""

import hashlib

import keras
import numpy as np
import pytest
from helpers import reason_not_used
from model_helpers import bits, infer, make_pixels, randomise

from keras_ft.catalog.archive import Description
from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.kinds.task import MULTILABEL, Task
from keras_ft.models import weights
from keras_ft.models.classifier import get_backbone, make_backbone, make_classifier
from keras_ft.models.heads import set_temperatures
from keras_ft.models.trained_heads import copy_heads, read_heads
from keras_ft.serving.model_files import write_model

OLD = (Task(class_names=("a", "b", "c")),)


@pytest.fixture(scope="module")
def trained():
    """A classifier of three classes with a temperature of 2."""
    keras.utils.set_random_seed(0)
    model = make_classifier(
        randomise(make_backbone("tiny", (16, 16))), OLD, dropout=0.5
    )
    model.get_layer("head").bias.assign([0.5, -1.0, 2.0])
    return set_temperatures(model, OLD, {"label": 2.0})


@pytest.fixture(scope="module")
def workdir(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_model(
        trained, Description(OLD, Preprocessing(16, 16)), folder / "model.keras"
    )
    return folder


def go_on(workdir, *tasks):
    start = weights.load_start("tiny", (16, 16), [str(workdir)])
    model = make_classifier(start.backbone, tasks, dropout=0.0)
    before = {layer.name: layer.get_weights() for layer in model.layers}
    copy_heads(start.heads, model, tasks)
    return model, before


def test_the_same_classes_begin_with_the_same_logits(trained, workdir):
    model, _ = go_on(workdir, *OLD)
    pixels = make_pixels(16)
    np.testing.assert_allclose(infer(model, pixels), infer(trained, pixels), rtol=1e-5)
    # There is no temperature besides the head that the next one would come on top of.
    assert model.layers[-1].name == "head"


def test_classes_that_stay_keep_their_logits_in_any_order(trained, workdir, caplog):
    with caplog.at_level("INFO", "keras_ft"):
        # Of one task, the name of the column does not matter.
        model, before = go_on(workdir, Task("species", ("c", "new", "a")))
    kernel, bias = before["head"]
    pixels = make_pixels(16)
    logits, expected = infer(model, pixels), infer(trained, pixels)
    np.testing.assert_allclose(logits[:, [2, 0]], expected[:, [0, 2]], rtol=1e-5)
    after = model.get_layer("head").get_weights()
    np.testing.assert_array_equal(after[0][:, 1], kernel[:, 1])
    np.testing.assert_array_equal(after[1][1], bias[1])
    assert "the head has 2 of 3 classes, new: new, left out: b." in caplog.text
    with caplog.at_level("INFO", "keras_ft"):
        go_on(workdir, Task(class_names=("B", "c")))
    assert "new: B, left out: a, b; 'B' and 'b' are different names." in caplog.text


def test_heads_of_tasks_are_those_of_the_same_name_and_kind(tmp_path, caplog):
    tags = Task("tags", ("x", "y"), kind=MULTILABEL, thresholds=(0.5, 0.5))
    old = (Task("species", ("a", "b")), tags)
    trained = make_classifier(
        randomise(make_backbone("tiny", (16, 16))), old, dropout=0.0
    )
    write_model(
        trained, Description(old, Preprocessing(16, 16)), tmp_path / "model.keras"
    )
    new = (Task("tags", ("y", "z"), kind=MULTILABEL), Task("age", ("a", "b")))
    with caplog.at_level("INFO", "keras_ft"):
        model, before = go_on(tmp_path, *new)
    pixels = make_pixels(16)
    expected = np.array(trained(pixels, training=False)["tags"])
    logits = np.array(model(pixels, training=False)["tags"])
    np.testing.assert_allclose(logits[:, 0], expected[:, 1], rtol=1e-5)
    after = model.get_layer("head_age").get_weights()
    for a, b in zip(after, before["head_age"], strict=True):
        np.testing.assert_array_equal(a, b)
    assert "the head of tags has 1 of 2 classes, new: z, left out: x." in caplog.text
    assert "the head of age is new." in caplog.text


def test_a_model_starts_one_of_another_size_and_its_hash_is_recorded(trained, workdir):
    start = weights.load_start("tiny", (16, 24), [str(workdir / "model.keras")])
    assert bits(start.backbone) == bits(get_backbone(trained))
    assert start.backbone.input_shape == (None, 16, 24, 3)
    digest = hashlib.sha256((workdir / "model.keras").read_bytes()).hexdigest()
    assert (start.weights.file, start.weights.sha256) == (start.weights.used, digest)
    by_folder = weights.load_start("tiny", (16, 16), [str(workdir)]).weights
    assert by_folder.used == str(workdir)
    assert (by_folder.file, by_folder.sha256) == (start.weights.file, digest)


def test_a_head_without_temperature_is_read_as_it_is():
    model = make_classifier(make_backbone("tiny", (16, 16)), OLD, dropout=0.0)
    head = read_heads(model, OLD)["label"]
    np.testing.assert_array_equal(head.kernel, model.get_layer("head").kernel)


def test_weights_of_other_kinds_bring_no_head(tmp_path):
    file = tmp_path / "tiny.weights.h5"
    make_backbone("tiny", (16, 16)).save_weights(file)
    assert weights.load_start("tiny", (16, 16), [str(file)]).heads == {}
    assert weights.load_start("tiny", (16, 16), ["none"]).heads == {}


def test_another_backbone_and_damage_are_one_short_reason(workdir, tmp_path):
    assert "its backbone is tiny" in reason_not_used(str(workdir), "vgg16")
    damaged = tmp_path / "model.keras"
    content = bytearray((workdir / "model.keras").read_bytes())
    content[2000:6000] = bytes(4000)
    damaged.write_bytes(content)
    assert reason_not_used(str(damaged)).startswith("cannot be read: ")


def test_the_image_size_is_that_of_the_trained_model(workdir):
    start = weights.load_start("tiny", None, ["/nowhere", str(workdir)])
    assert start.backbone.input_shape[1:3] == (16, 16)
