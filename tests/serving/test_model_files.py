import base64
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import COLOURS, make_examples
from tensorflow.python.saved_model import loader_impl

from keras_ft.catalog.archive import Description, read_description
from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.images.pipeline import ImageReader, make_inputs
from keras_ft.kinds.task import Task
from keras_ft.models.classifier import (
    fold_classifier,
    make_backbone,
    make_classifier,
)
from keras_ft.models.heads import predict_probabilities
from keras_ft.models.trained import load_trained
from keras_ft.serving import model_files
from keras_ft.serving.trained_classifier import load_classifier

CLASS_NAMES = ("blaß", "green", "red wine")
TASKS = (Task(class_names=CLASS_NAMES),)
DESCRIPTION = Description(TASKS, Preprocessing(16, 16))


@pytest.fixture
def classifier():
    keras.utils.set_random_seed(0)
    model = make_classifier(make_backbone("tiny", (16, 16)), TASKS, dropout=0.5)
    model.layers[-1].kernel.assign(3 * model.layers[-1].kernel)  # decided answers
    return model


@pytest.fixture
def split(image_folder):
    files = [
        str(f) for name in COLOURS for f in sorted((image_folder / name).iterdir())
    ]
    return make_examples(
        np.array(files, object), np.array(files, object), np.zeros(30, int)
    )


def predict(model, split, batch_size, resize="stretch"):
    preprocessing = Preprocessing(*model.input_shape[1:3], resize)
    reader = ImageReader(split, preprocessing, batch_size)
    inputs = make_inputs(reader, range(len(split)))
    return predict_probabilities(model, TASKS, inputs, len(split))["label"]


def test_model_file_loads_with_keras_alone(classifier, tmp_path):
    path = tmp_path / "model.keras"
    classifier.compile("adam", "mse")
    classifier.optimizer.build(classifier.trainable_variables)
    model_files.write_model(classifier, DESCRIPTION, path)
    images = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3)).astype("float32")
    np.save(tmp_path / "images.npy", images)
    script = (
        "import sys, keras, numpy as np\n"
        "model = keras.models.load_model(sys.argv[1], safe_mode=True)\n"
        "assert not model.compiled  # so no optimizer was saved\n"
        "np.save(sys.argv[3], model(np.load(sys.argv[2]), training=False))\n"
        "assert not [m for m in sys.modules if m.startswith('keras_ft')]\n"
    )
    files = [str(tmp_path / name) for name in ("model.keras", "images.npy", "out.npy")]
    subprocess.run([sys.executable, "-c", script, *files], check=True, cwd=tmp_path)
    expected = classifier(images, training=False)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-5)
    loaded, description = load_trained(path)
    assert description == DESCRIPTION
    assert {v.dtype for v in loaded.weights} == {"float32"}


def test_model_file_is_replaced_whole(classifier, tmp_path, monkeypatch):
    path = tmp_path / "model.keras"
    model_files.write_model(classifier, DESCRIPTION, path)
    before = path.read_bytes()

    def full(*args):
        raise OSError("no space left")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(OSError, match="no space"):
        model_files.write_model(classifier, DESCRIPTION, path)
    assert path.read_bytes() == before


@pytest.fixture
def saved_model(classifier, tmp_path):
    folded = fold_classifier(classifier, TASKS)
    model_files.write_saved_model(folded, DESCRIPTION, tmp_path / "export")
    return tmp_path / "export"


def test_signatures_answer_as_the_keras_model(classifier, saved_model, split):
    expected = predict(classifier, split, batch_size=7)
    images = [Path(file).read_bytes() for file in split.files]
    signatures = tf.saved_model.load(str(saved_model)).signatures

    # The three names and shapes are what a client builds on.
    answer = signatures["serving_default"](image_bytes=tf.constant(images))
    assert set(answer) == {"class_name", "probability", "probabilities"}
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)
    np.testing.assert_allclose(answer["probability"], expected.max(1), atol=1e-5)
    names = [name.decode() for name in answer["class_name"].numpy()]
    assert names == [CLASS_NAMES[i] for i in expected.argmax(1)]

    pixels = np.stack([tf.io.decode_image(image) for image in images])
    assert pixels.shape == (30, 24, 20, 3)  # any size
    answer = signatures["serving_pixels"](image=tf.constant(pixels))
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)

    names = signatures["class_names"]()["class_names"].numpy()
    assert tuple(name.decode() for name in names) == CLASS_NAMES


def test_features_are_those_before_the_head(classifier, saved_model, split):
    images = tf.constant([Path(file).read_bytes() for file in split.files])
    loaded = tf.saved_model.load(str(saved_model))
    features = loaded.signatures["features"](image_bytes=images)["features"].numpy()
    head = classifier.layers[-1]
    assert features.shape == (30, head.kernel.shape[0])
    assert features.dtype == np.float32
    logits = features @ head.kernel.numpy() + head.bias.numpy()
    probabilities = tf.nn.softmax(logits)
    expected = predict(classifier, split, batch_size=7)
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    # No signature has weights or a network of its own.
    stored = tf.train.list_variables(str(saved_model / "variables" / "variables"))
    assert sum(len(shape) == 4 for _, shape in stored) == 3
    [graph] = loader_impl.parse_saved_model(str(saved_model)).meta_graphs
    nodes = [n for f in graph.graph_def.library.function for n in f.node_def]
    assert sum(node.op == "Conv2D" for node in nodes) == 3


@pytest.mark.parametrize("signature", ["serving_default", "features"])
def test_the_error_about_bytes_says_what_is_accepted(saved_model, split, signature):
    image = Path(split.files[0]).read_bytes()
    bad = [b"", image, base64.b64encode(image), b"RIFF1234WAVE"]
    serve = tf.saved_model.load(str(saved_model)).signatures[signature]
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        serve(image_bytes=tf.constant(bad))
    assert "JPEG, PNG, BMP, GIF or WebP" in error.value.message
    assert "[0 2 3]" in error.value.message


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_every_artifact_resizes_as_training_does(split, tmp_path, resize):
    keras.utils.set_random_seed(0)
    model = make_classifier(make_backbone("tiny", (16, 24)), TASKS, dropout=0.0)
    expected = predict(model, split, 8, resize)
    others = {"stretch", "crop", "pad"} - {resize}
    for other in others:
        assert np.abs(predict(model, split, 8, other) - expected).max() > 1e-3
    description = Description(TASKS, Preprocessing(16, 24, resize))
    version = tmp_path / "export"
    model_files.write_saved_model(fold_classifier(model, TASKS), description, version)
    model_files.write_model(model, description, tmp_path / "model.keras")
    for path in (version, tmp_path / "model.keras"):
        answer = load_classifier(path).predict(split.files, 7)
        np.testing.assert_allclose(answer, expected, atol=1e-5)
    images = [tf.io.decode_image(Path(file).read_bytes()) for file in split.files]
    by_pixels = tf.saved_model.load(str(version)).signatures["serving_pixels"]
    answer = by_pixels(image=tf.stack(images))["probabilities"]
    np.testing.assert_allclose(answer, expected, atol=1e-5)


def test_a_model_file_of_an_earlier_version_stretches(classifier, tmp_path):
    path = tmp_path / "model.keras"
    classifier.save(path)
    with pytest.raises(KeyError, match="class_names.json"):
        read_description(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("class_names.json", json.dumps(CLASS_NAMES))
    assert load_trained(path)[1] == DESCRIPTION


def test_saved_model_answers_where_only_tensorflow_is(classifier, saved_model, split):
    script = (
        "import sys, json, tensorflow as tf\n"
        "serve = tf.saved_model.load(sys.argv[1]).signatures['serving_default']\n"
        "answer = serve(image_bytes=tf.constant([open(sys.argv[2], 'rb').read()]))\n"
        "assert not [m for m in sys.modules if m.startswith('keras_ft')]\n"
        "print(json.dumps(answer['probabilities'].numpy().tolist()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(saved_model), split.files[0]],
        check=True,
        cwd=saved_model.parent,
        capture_output=True,
        text=True,
    )
    expected = predict(classifier, split.take([0]), 1)
    np.testing.assert_allclose(json.loads(done.stdout), expected, atol=1e-5)
