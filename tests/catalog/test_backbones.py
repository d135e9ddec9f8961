"""The table of backbones."""

import inspect
import pkgutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers import make_task
from model_helpers import make_pixels

from keras_ft.catalog.backbones import BACKBONES, stages_to_train
from keras_ft.errors import UserError
from keras_ft.models.classifier import make_backbone, make_classifier

FROM_KERAS = [name for name in BACKBONES if name != "tiny"]


# --- rows ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", FROM_KERAS)
def test_normalisation_is_that_of_the_family(name):
    stand_in = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Identity()], name=name
    )
    classifier = make_classifier(stand_in, [make_task(2)], dropout=0.0)
    normalise = keras.Model(classifier.input, classifier.get_layer(name).output)
    builder = pkgutil.resolve_name(BACKBONES[name].builder)
    expected = inspect.getmodule(builder).preprocess_input(make_pixels(8))
    np.testing.assert_allclose(normalise(make_pixels(8)), expected, atol=1e-4)
    is_identity = np.array_equal(expected, make_pixels(8))
    assert is_identity == (BACKBONES[name].normalisation == "included")


def test_name_of_the_row_does_not_change_the_network():
    # Keras lets the `name` of an EfficientNetV2 choose how it normalises its input.
    size = BACKBONES["efficientnet_v2_b0"].min_image_size
    ours = make_backbone("efficientnet_v2_b0", (size, size))
    theirs = keras.applications.EfficientNetV2B0(
        include_top=False, weights=None, input_shape=(size, size, 3)
    )
    theirs.set_weights(ours.get_weights())
    np.testing.assert_array_equal(ours(make_pixels(size)), theirs(make_pixels(size)))


def test_table_needs_no_tensorflow():
    code = (
        "import sys; import keras_ft.catalog.backbones; "
        "print({'tensorflow', 'keras', 'numpy'} & set(sys.modules))"
    )
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert output.strip() == "set()"


# --- stages_to_train -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("unfreeze", "expected"),
    [
        ("all", "conv1 conv2 conv3 conv4 conv5"),
        ("none", ""),
        ("from:conv1", "conv1 conv2 conv3 conv4 conv5"),
        ("from:conv4", "conv4 conv5"),
        ("from:conv5", "conv5"),
        ("to:conv1", "conv1"),
        ("to:conv2", "conv1 conv2"),
        ("to:conv5", "conv1 conv2 conv3 conv4 conv5"),
    ],
)
def test_stages_to_train_of_resnet50(unfreeze, expected):
    # `all` has the stages of the paper.
    assert stages_to_train("resnet50", unfreeze) == tuple(expected.split())


@pytest.mark.parametrize(
    "unfreeze", ["", "some", "from:", "from:conv6", "conv5", "After:conv5", "all:conv5"]
)
def test_unknown_unfreeze_is_refused_and_the_stages_are_named(unfreeze):
    with pytest.raises(UserError, match="conv1, conv2, conv3, conv4, conv5") as caught:
        stages_to_train("resnet50", unfreeze)
    assert f"unfreeze={unfreeze}" in str(caught.value)
