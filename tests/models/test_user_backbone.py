"""`--backbone=py:MODULE:FUNCTION`: what may be returned, and what is made of it."""

import sys

import keras
import numpy as np
import pytest
from helpers import make_examples, make_flags, make_task
from model_helpers import make_pixels

from keras_ft import Config, evaluate, fine_tune
from keras_ft.catalog.archive import Description
from keras_ft.catalog.backbones import find_backbone, is_model_name, stages_to_train
from keras_ft.catalog.preprocessing import ImageSize, Preprocessing
from keras_ft.errors import UserError
from keras_ft.host import user_code
from keras_ft.images.pipeline import ImageReader
from keras_ft.models.classifier import get_backbone, make_classifier, split
from keras_ft.models.trained import describe_network, load_trained
from keras_ft.models.weights import load_backbone
from keras_ft.serving import model_files
from keras_ft.training.feature_pass import Request
from keras_ft.training.features import describe

NETS = """
    import keras
    from keras import layers

    @keras.saving.register_keras_serializable()
    class Scale(layers.Layer):
        def __init__(self, factor, **options):
            super().__init__(**options)
            self.factor = factor
        def call(self, x):
            return x * self.factor
        def get_config(self):
            return {**super().get_config(), "factor": self.factor}

    class Unregistered(layers.Layer):
        def call(self, x):
            return x

    def make(*inner, shape=(16, 16, 3), first=layers.Rescaling(1 / 255)):
        images = keras.Input(shape)
        x = first(images)
        x = layers.Conv2D(6, 3, 2, "same", name="one")(x)
        x = layers.BatchNormalization(name="one_bn")(x)
        x = layers.Conv2D(8, 3, 2, "same", activation="relu", name="two")(x)
        for layer in inner:
            x = layer(x)
        return keras.Model(images, x)

    def maps():
        return make(), {"stem": "one", "end": "two"}

    def any_size():
        return make(shape=(None, None, 3))

    def with_shape(image_shape):
        return make(shape=image_shape)

    def pooled():
        return make(layers.GlobalMaxPooling2D(), layers.Dense(5, name="last"))

    def own_layer():
        return make(first=Scale(1 / 255))

    def staged():
        return own_layer(), {"start": "one", "end": "two"}

    def sequential():
        return keras.Sequential([keras.Input((16, 16, 3)), layers.Conv2D(4, 3)])

    def unregistered():
        return make(Unregistered())

    def with_lambda():
        return make(layers.Lambda(lambda x: 2 * x))

    def tokens():
        return make(layers.Reshape((-1, 8)))

    def no_model():
        return 7

    def misnamed():
        return make(), {"stem": "one", "end": "three"}

    def unordered():
        return make(), {"end": "two", "stem": "one"}

    def with_bypass():
        images = keras.Input((16, 16, 3))
        x = layers.Conv2D(3, 1, name="a")(images)
        y = layers.Conv2D(3, 1, name="b")(x)
        z = layers.Conv2D(3, 1, name="c")(y)
        sum_ = layers.Add(name="sum")([x, z])
        return keras.Model(images, sum_), {"one": "a", "two": "c"}

    def of_width(width):
        return make(shape=(16, width, 3))

    text = "no function"
"""


@pytest.fixture
def load(write_module):
    write_module("nets", NETS)

    def load(name, size=16, weights="preset"):
        return load_backbone(f"py:nets:{name}", ImageSize(size, size), [weights])

    return load


@pytest.mark.parametrize(
    ("name", "shape", "stages"),
    [
        ("maps", (4, 4, 8), ("stem", "end")),
        ("any_size", (4, 4, 8), ("all",)),
        ("with_shape", (4, 4, 8), ("all",)),
        ("pooled", (1, 1, 5), ("all",)),
        ("own_layer", (4, 4, 8), ("all",)),
        ("sequential", (14, 14, 4), ("all",)),
    ],
)
def test_networks(load, name, shape, stages):
    backbone, weights = load(name)
    assert backbone.output_shape[1:] == shape
    assert is_model_name(backbone.name)
    assert find_backbone(f"py:nets:{name}").stage_names == stages
    assert stages_to_train(f"py:nets:{name}", "all") == stages
    assert weights.used == "preset"
    assert weights.file is None and len(weights.sha256) == 64


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unregistered", "register_keras_serializable.*Unregistered"),
        ("with_lambda", "layers that can be saved"),
        ("tokens", r"output of shape \(None, 16, 8\)"),
        ("no_model", "Received: int"),
        ("misnamed", "stages as a dict"),
        ("unordered", "in order"),
        ("with_bypass", "single tensor.*two, at c"),
        ("text", "must be a function"),
    ],
)
def test_what_is_refused_in_one_line(load, name, message):
    with pytest.raises(UserError, match=f"^--backbone=py:nets:{name} .*{message}") as e:
        load(name)
    assert "\n" not in str(e.value)


def test_the_wrong_arguments_are_shown_with_the_flag(load):
    with pytest.raises(TypeError) as raised:
        load("of_width")
    text = user_code.describe(raised.value)
    assert text.endswith("the code of --backbone=py:nets:of_width raised this.")


def test_another_image_size_is_refused(load):
    with pytest.raises(UserError, match=r"B, 24, 24, 3.*shape \(16, 16, 3\)"):
        load("maps", 24)


@pytest.mark.parametrize(
    ("name", "stages"), [("maps", ()), ("maps", ("end",)), ("pooled", ("all",))]
)
def test_a_split_network_computes_the_same(load, name, stages):
    backbone, _ = load(name)
    tasks = [make_task(3)]
    classifier = make_classifier(backbone, tasks, 0.2)
    pixels = make_pixels(16)
    parts = split(classifier, tasks, stages, fold=True)
    assert (parts.frozen is None) == (stages == ("all",))
    np.testing.assert_allclose(
        parts.join()(pixels)["label"], classifier(pixels), atol=1e-5
    )


def test_a_second_call_is_another_network(load, write_module):
    write_module("shared", "import nets\nmodel = nets.make()\ndef get(): return model")
    backbone, first = load_backbone("py:shared:get", ImageSize(16, 16), ["preset"])
    backbone.set_weights([weight + 1 for weight in backbone.get_weights()])
    assert load_backbone("py:shared:get", ImageSize(16, 16), ["preset"])[1] == first


@pytest.mark.parametrize(
    ("name", "code"), [("maps", ""), ("own_layer", "py:nets:own_layer")]
)
def test_only_layers_of_the_users_need_their_module(load, tmp_path, name, code):
    backbone, _ = load(name)
    tasks = [make_task(3)]
    classifier = make_classifier(backbone, tasks, 0.2)
    description = describe_network(classifier, tasks, Preprocessing(16, 16))
    assert description.code == code
    path = tmp_path / "model.keras"
    model_files.write_model(classifier, description, path)
    keras.saving.get_custom_objects().clear()
    if code:
        (tmp_path / "nets.py").rename(tmp_path / "elsewhere.py")
        sys.modules.pop("nets")
        with pytest.raises(UserError, match=f"--backbone={code} must name a module"):
            load_trained(path)
        (tmp_path / "elsewhere.py").rename(tmp_path / "nets.py")
    model, found = load_trained(path)
    assert isinstance(found, Description) and found.code == code
    assert get_backbone(model).name == f"py_nets_{name}"
    np.testing.assert_allclose(model(make_pixels(16)), classifier(make_pixels(16)))


def test_a_run_with_two_phases_exports_a_network_with_own_layers(
    load, image_folder, tmp_path
):
    flags = make_flags(tmp_path) | {
        "backbone": "py:nets:staged",
        "weights": "preset",
        "head_epochs": 1,
        "finetune_epochs": 1,
        "unfreeze": "from:end",
        "report": False,
    }
    metrics = fine_tune(Config(**flags))
    assert list(metrics["phases"]) == ["head", "finetune"]
    assert metrics["weights_used"] == "preset"
    export = metrics["exports"]["saved_model"]
    assert export["difference"] < 1e-5 and not export["error"]
    assert load_trained(tmp_path / "run" / "model.keras")[1].code == "py:nets:staged"
    # As another process would, in the same folder.
    sys.modules.pop("nets")
    keras.saving.get_custom_objects().clear()
    config = Config(mode="evaluate", data=flags["data"], model=str(tmp_path / "run"))
    assert evaluate(config)["accuracy"] == metrics["test"]["accuracy"]


def test_cached_features_belong_to_the_source(load, image_folder):
    backbone, _ = load("maps")
    classifier = make_classifier(backbone, [make_task(3)], 0.2)
    frozen = split(classifier, [make_task(3)], ("end",), fold=True).frozen
    file = str(image_folder / "red" / "0.png")
    reader = ImageReader(
        make_examples([file], [file], [0], ["a"]), Preprocessing(16, 16), 1
    )
    origin = {"backbone": backbone.name}
    key = describe(Request("val", frozen, reader, origin))
    assert key["source"] == user_code.source_of("py:nets:maps")
