import base64
import io
import os

import numpy as np
import pytest
from helpers import make_examples, make_task
from PIL import Image

from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.images.decode import find_seen
from keras_ft.models.classifier import make_backbone, make_classifier
from keras_ft.report import gallery


def decode(uri):
    kind, _, encoded = uri.partition(";base64,")
    assert kind == "data:image/jpeg"
    return Image.open(io.BytesIO(base64.b64decode(encoded)))


def test_errors_are_wrong_predictions_highest_loss_first():
    task, labels = make_task(3), np.array([0, 0, 1, 1, 2])
    probabilities = np.array(
        [[0.9, 0.1, 0], [0.4, 0.6, 0], [0.7, 0.1, 0.2], [0, 1, 0], [0.5, 0.3, 0.2]]
    )
    assert gallery.find_errors(task, labels, probabilities).tolist() == [2, 4, 1]
    right = gallery.find_errors(task, labels[[0, 3]], probabilities[[0, 3]])
    assert right.tolist() == []


def test_thumbnails_are_small_upright_and_keep_the_aspect_ratio(tmp_path):
    image = Image.new("RGB", (400, 100), "blue")
    image.paste("red", (0, 0, 40, 100))  # left; upright, at the top
    exif = Image.Exif()
    exif[0x0112] = 6
    file = tmp_path / "rotated.jpg"
    image.save(file, exif=exif)
    thumbnail = decode(gallery.make_thumbnail(str(file)))
    assert thumbnail.size == (40, 160)
    red, _, blue = thumbnail.getpixel((20, 4))
    assert red > 200 and blue < 60


def test_file_names_need_not_be_utf8(tmp_path):
    file = os.fsencode(tmp_path) + b"/\xff\n.png"
    Image.new("RGB", (8, 8)).save(file)
    assert decode(gallery.make_thumbnail(os.fsdecode(file))).size == (8, 8)


@pytest.mark.parametrize("content", [None, b"", b"no image"])
def test_unreadable_files_have_no_thumbnail(tmp_path, content):
    file = tmp_path / "x.jpg"
    if content is not None:
        file.write_bytes(content)
    assert gallery.make_thumbnail(str(file)) == ""


def test_cards_contain_images_labels_and_predictions(tmp_path):
    files = [str(tmp_path / "a.png"), str(tmp_path / "gone.png")]
    noise = np.random.default_rng(0).integers(0, 255, (40, 20, 3), np.uint8)
    Image.fromarray(noise).save(files[0])
    split = make_examples(["a", "gone"], files, [1, 0], ("cat", "dog"))
    model = make_classifier(make_backbone("tiny", (32, 32)), split.tasks, dropout=0.0)
    # The feature map is not negative: with these weights, no heatmap is empty.
    head = np.random.default_rng(1).uniform(0.5, 1, size=(32, 2))
    model.get_layer("head").set_weights([head, np.zeros(2)])
    probabilities = np.array([[0.8, 0.2], [0.6, 0.4]], np.float32)
    first, gone = gallery.make_cards(
        model, split.task, split, probabilities, Preprocessing(32, 32)
    )
    assert (first.path, first.label, first.prediction) == ("a", "dog", "cat")
    assert first.probabilities == pytest.approx({"dog": 0.2, "cat": 0.8})
    assert first.explained == "cat"
    assert not first.is_correct and gone.is_correct
    assert decode(first.thumbnail).size == decode(first.heatmap).size == (20, 40)
    assert gone.thumbnail == gone.heatmap == ""


WHOLE = np.array([[0, 0], [1, 1]])


def overlay(shape, mode, hot):
    """A grey image with a heatmap in which one cell is hot: its brightness."""
    heatmap = np.zeros((8, 8), np.float32)
    heatmap[hot] = 1
    image = Image.new("RGB", shape[::-1], (100, 100, 100))
    seen = find_seen(shape, Preprocessing(64, 64, mode))
    return np.asarray(decode(gallery.overlay(image, heatmap, seen)).convert("L"), float)


@pytest.mark.parametrize(
    ("mode", "hot", "rows", "columns"),
    [
        ("stretch", (0, 7), slice(0, 10), slice(140, 160)),
        ("crop", (0, 7), slice(0, 10), slice(110, 120)),
        ("pad", (2, 7), slice(0, 20), slice(140, 160)),
    ],
)
def test_heatmaps_are_where_the_network_saw_the_image(mode, hot, rows, columns):
    light = overlay((80, 160), mode, hot)
    assert light.shape == (80, 160)
    assert light[rows, columns].mean() > 90
    light[rows, columns] = 50
    assert light[40:, 60:100].max() < 60  # seen, but not hot
    unseen = np.concatenate([light[:, :38], light[:, 122:]], axis=1)
    assert (unseen[40:].min() > 95) == (mode == "crop")


def test_heat_on_the_padding_is_not_in_the_image():
    for shape in ((80, 160), (160, 80)):
        assert overlay(shape, "pad", (0, 0)).max() < 60


def test_uninformative_heatmaps_are_left_out():
    image = Image.new("RGB", (16, 16))
    assert gallery.overlay(image, np.ones((1, 1), np.float32), WHOLE) == ""
    assert gallery.overlay(image, np.zeros((4, 4), np.float32), WHOLE) == ""


@pytest.mark.parametrize("mode", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("shape", [(1, 300), (300, 1)])
def test_narrow_images_have_cards(tmp_path, mode, shape):
    file = str(tmp_path / "a.png")
    Image.new("RGB", shape, "red").save(file)
    split = make_examples([file], [file], [1])
    task = make_task(2)
    model = make_classifier(make_backbone("tiny", (32, 48)), [task], dropout=0.0)
    model.get_layer("head").set_weights([np.ones((32, 2)), np.zeros(2)])
    answers = np.array([[0.8, 0.2]], np.float32)
    [card] = gallery.make_cards(
        model, task, split, answers, Preprocessing(32, 48, mode)
    )
    assert decode(card.thumbnail).size == decode(card.heatmap).size
