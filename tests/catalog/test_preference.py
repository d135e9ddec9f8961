"""What is known about `--weights` before TensorFlow is imported."""

import json
import zipfile

import pytest

from keras_ft.catalog import preference
from keras_ft.catalog.archive import DESCRIPTION, Description, to_json
from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.errors import UserError
from keras_ft.kinds.task import Task


def write_classifier(path, *layers):
    """Writes the parts of a model.keras that are read without TensorFlow."""
    config = {"config": {"layers": [{"config": {"name": name}} for name in layers]}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("class_names.json", '["a", "b"]')


@pytest.fixture
def run(tmp_path):
    """A workdir whose model has the backbone tiny."""
    (tmp_path / "run").mkdir()
    write_classifier(tmp_path / "run" / "model.keras", "image", "tiny", "head")
    return tmp_path / "run"


def test_a_workdir_stands_for_its_model(run):
    expected = run / "model.keras"
    assert preference.find_file("tiny", str(run)) == expected
    assert preference.find_file("tiny", str(expected)) == expected
    preference.check_preference("tiny", [str(run)])


def test_another_backbone_is_one_line(run):
    with pytest.raises(UserError) as error:
        preference.check_preference("resnet50", [str(run)])
    assert str(error.value).endswith(
        f"Received: {run}: its backbone is tiny, which needs --backbone=tiny"
    )


@pytest.mark.parametrize("item", ["imagenet", "starter", "none"])
def test_an_item_that_may_be_usable_is_enough(run, item):
    preference.check_preference("resnet50", [str(run), item])


def test_reasons_of_all_items_are_in_one_line(run, tmp_path):
    (tmp_path / "notes.txt").write_text("")
    items = ["starter", *map(str, (tmp_path, tmp_path / "notes.txt", "/nowhere"))]
    with pytest.raises(UserError) as error:
        preference.check_preference("vgg16", items)
    message = str(error.value)
    assert "\n" not in message
    for reason in (
        "starter: it exists for resnet50 only",
        f"{tmp_path}: there is no model.keras in this folder",
        "notes.txt: the file's name must end in",
        "/nowhere: there is no such file",
    ):
        assert reason in message
    # What failed is not advised.
    assert "such as imagenet, a workdir or a .weights.h5" in message


def test_a_damaged_model_is_a_reason(run):
    write_classifier(run / "model.keras", "image", "head")
    with pytest.raises(preference.UnusableWeights, match="cannot be read: no backbone"):
        preference.check_item("tiny", str(run))


def test_the_image_size_is_that_of_the_weights(tmp_path):
    task = Task(class_names=("a", "b"))
    described = Description((task,), Preprocessing(48, 96), {task.name: 1.0})
    write_classifier(tmp_path / "model.keras", "image", "resnet50", "head")
    with zipfile.ZipFile(tmp_path / "model.keras", "a") as archive:
        archive.writestr(DESCRIPTION, to_json(described))
    (tmp_path / "own.weights.h5").write_text("")
    sizes = {
        "starter": (64, 64),
        "imagenet": (224, 224),
        "none": (224, 224),
        str(tmp_path): (48, 96),
        str(tmp_path / "own.weights.h5"): (224, 224),
    }
    for item, size in sizes.items():
        assert preference.find_image_size("resnet50", item) == size
    with pytest.raises(preference.UnusableWeights, match="no such file"):
        preference.find_image_size("resnet50", "/nowhere/model.keras")


@pytest.mark.parametrize(
    ("name", "weights", "described"),
    [
        ("resnet50", ["imagenet", "starter"], "224 with weights imagenet, 64 with "),
        ("xception", ["imagenet", "starter"], "299"),
        ("resnet50", ["imagenet", "none"], "224"),
        ("resnet50", ["/nowhere"], ""),
    ],
)
def test_the_image_size_is_described_by_the_weights(name, weights, described):
    text = preference.describe_image_size(name, weights)
    assert text == described + "weights starter" * described.endswith("with ")
