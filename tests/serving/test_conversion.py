import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers import ROOT, write_images

from keras_ft.catalog.archive import find_description
from keras_ft.catalog.formats import FORMATS, SAVED_MODEL
from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.errors import UserError
from keras_ft.models.classifier import fold_classifier, make_backbone, make_classifier
from keras_ft.models.heads import set_temperatures
from keras_ft.models.trained import describe_network
from keras_ft.serving import conversion
from keras_ft.serving.model_files import write_model
from keras_ft.serving.runtimes import load_network
from keras_ft.serving.trained_classifier import classify, load_classifier
from keras_ft.tasks import Task

for extra in ("ai_edge_litert", "onnx", "onnxruntime", "tf2onnx", "openvino"):
    pytest.importorskip(extra, reason="needs the extras litert, onnx and openvino")

ONE = (Task(class_names=("blaß", 'red "wine"', "<b>")),)
SEVERAL = (
    Task("colour", ("blue", "green")),
    Task("tags", ("a", "b", "c"), True, (0.3, 0.25, 0.75)),
)
# Largest difference of a probability of each format from the Keras model.
TOLERANCES = {
    "litert": 1e-5,
    "litert_float16": 1e-2,
    "litert_int8": 5e-2,
    "onnx": 1e-5,
    "openvino": 1e-5,
}


@pytest.fixture(scope="module", params=["one", "several"])
def exported(request, tmp_path_factory):
    """A model, pixels, its description, and the folders of its exports."""
    keras.utils.set_random_seed(0)
    tasks = ONE if request.param == "one" else SEVERAL
    size = (32, 32) if request.param == "one" else (24, 40)
    model = make_classifier(make_backbone("tiny", size), tasks, dropout=0.5)
    for layer in model.layers:
        if layer.name.startswith("head"):
            layer.kernel.assign(4 * layer.kernel)  # decided answers
    temperatures = {task.name: 2.0 - i for i, task in enumerate(tasks)}
    model = set_temperatures(model, tasks, temperatures)
    description = describe_network(model, tasks, Preprocessing(*size, "crop"))
    folded = fold_classifier(model, tasks)
    network = conversion.trace(folded, tasks)
    folder = tmp_path_factory.mktemp(request.param)
    for name, write in conversion.WRITERS.items():
        (folder / name).mkdir()
        write(network, description, folder / name)
    write_model(model, description, folder / "model.keras")
    return model, description, folder


def path_of(folder, name):
    return folder / name / FORMATS[name].file


def test_every_format_has_a_writer():
    assert set(conversion.WRITERS) == set(FORMATS) - {SAVED_MODEL}


@pytest.mark.parametrize("name", conversion.WRITERS)
def test_a_network_answers_in_its_own_runtime_in_batches_of_any_size(exported, name):
    model, description, folder = exported
    shape = (5, *model.input_shape[1:])
    pixels = np.random.default_rng(0).uniform(0, 255, shape).astype("float32")
    logits = model(pixels, training=False)
    network = load_network(path_of(folder, name))
    for start, end in ((0, 5), (1, 2), (0, 3)):
        answer = network(pixels[start:end])
        names = {
            conversion.output_name(t, description.tasks) for t in description.tasks
        }
        assert set(answer) == names
        for task in description.tasks:
            activate = keras.ops.sigmoid if task.is_multilabel else keras.ops.softmax
            of_task = logits[task.name] if len(names) > 1 else logits
            expected = np.array(activate(of_task))[start:end]
            actual = answer[conversion.output_name(task, description.tasks)]
            assert actual.shape == expected.shape
            np.testing.assert_allclose(actual, expected, atol=TOLERANCES[name])
            assert expected.std() > 0.02  # so that a swapped output would differ


def test_names_are_those_that_the_documentation_gives():
    assert conversion.output_name(ONE[0], ONE) == "probabilities"
    assert conversion.output_name(SEVERAL[1], SEVERAL) == "tags/probabilities"
    [multilabel] = SEVERAL[1:]
    assert conversion.output_name(multilabel, [multilabel]) == "tags/probabilities"


@pytest.mark.parametrize("name", [*conversion.WRITERS, "model.keras"])
def test_every_file_describes_itself(exported, name):
    model, description, folder = exported
    path = folder / name if name == "model.keras" else path_of(folder, name)
    found = find_description(path)
    assert found == description
    assert found.preprocessing.size == model.input_shape[1:3]
    expected = [2.0 - i for i in range(len(found.tasks))]
    assert list(found.temperatures.values()) == pytest.approx(expected)


def test_descriptions_are_read_without_tensorflow(exported):
    _, description, folder = exported
    script = (
        "import sys, pathlib\n"
        "sys.modules.update(dict.fromkeys(['tensorflow', 'keras'], None))\n"
        "from keras_ft.catalog.archive import find_description\n"
        "for path in sys.argv[1:]:\n"
        "    print(ascii(find_description(pathlib.Path(path)).tasks))\n"
    )
    paths = [str(path_of(folder, name)) for name in conversion.WRITERS]
    done = subprocess.run(
        [sys.executable, "-c", script, *paths],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == [ascii(description.tasks)] * len(paths)


@pytest.mark.parametrize("name", ["litert", "onnx", "openvino"])
def test_image_files_give_the_answers_of_the_keras_model(exported, name, tmp_path):
    _, _, folder = exported
    write_images(tmp_path / "images", (20, 200, 40), 7)
    files = sorted(map(str, (tmp_path / "images").iterdir()))
    answers, expected = (
        list(classify(load_classifier(path), files, batch_size=3))
        for path in (path_of(folder, name), folder / "model.keras")
    )
    for (answer, _), (row, _) in zip(answers, expected, strict=True):
        for task in row:
            np.testing.assert_allclose(answer[task], row[task], atol=TOLERANCES[name])


@pytest.mark.parametrize("name", conversion.WRITERS)
def test_a_damaged_file_is_one_line(exported, name, tmp_path):
    path = path_of(exported[2], name)
    damaged = tmp_path / path.name
    damaged.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match="can't be read as a model") as error:
        load_classifier(damaged)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("litert", "ai_edge_litert.interpreter", "litert"),
        ("onnx", "onnxruntime", "onnx"),
        ("openvino", "openvino", "openvino"),
    ],
)
def test_a_missing_runtime_is_named(exported, name, module, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"pip install 'keras_ft\[{extra}\]'"):
        load_classifier(path_of(exported[2], name))


def test_networks_of_another_program_are_one_line(tmp_path):
    import onnx

    value = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["image"], ["y"])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([node], "g", [value], [out])
    opset = [onnx.helper.make_opsetid("", 15)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(UserError, match="can't be read as a model of keras_ft"):
        load_classifier(tmp_path / "other.onnx")


def test_a_description_of_a_later_version_is_refused(exported, tmp_path):
    xml = path_of(exported[2], "openvino").read_text(encoding="utf-8")
    quoted = json.dumps("format_version")[1:-1]
    later = xml.replace(f"&quot;{quoted}&quot;: 1", f"&quot;{quoted}&quot;: 99")
    assert later != xml
    (tmp_path / "model.xml").write_text(later, encoding="utf-8")
    with pytest.raises(UserError, match="format version is 99, of a newer version"):
        load_classifier(tmp_path / "model.xml")
