import base64
import io
import os

import numpy as np
import pytest
from helpers import make_task
from PIL import Image

from keras_ft.data.examples import make_examples
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


def test_images_are_sorted_by_confidence_lowest_first():
    probabilities = np.array([[0.9, 0.1], [0.45, 0.55], [0.3, 0.7]])
    order = gallery.sort_by_confidence(make_task(2), probabilities)
    assert order.tolist() == [1, 2, 0]


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
    model = make_classifier(make_backbone("tiny", 32), split.tasks, dropout=0.0)
    # The feature map is not negative: with these weights, no heatmap is empty.
    head = np.random.default_rng(1).uniform(0.5, 1, size=(32, 2))
    model.get_layer("head").set_weights([head, np.zeros(2)])
    probabilities = np.array([[0.8, 0.2], [0.6, 0.4]], np.float32)
    first, gone = gallery.make_cards(model, split.task, split, probabilities)
    assert (first.path, first.label, first.prediction) == ("a", "dog", "cat")
    assert first.probabilities == pytest.approx({"dog": 0.2, "cat": 0.8})
    assert first.explained == "cat"
    assert not first.is_correct and gone.is_correct
    assert decode(first.thumbnail).size == decode(first.heatmap).size == (20, 40)
    assert gone.thumbnail == gone.heatmap == ""


def test_heatmaps_are_aligned_with_the_image():
    heatmap = np.zeros((4, 4), np.float32)
    heatmap[0, 3] = 1
    image = decode(gallery.overlay(Image.new("RGB", (160, 80)), heatmap))
    light = np.asarray(image.convert("L"), float)
    assert light[:20, 120:].mean() > 4 * light[20:, :120].mean()


def test_uninformative_heatmaps_are_left_out():
    image = Image.new("RGB", (16, 16))
    assert gallery.overlay(image, np.ones((1, 1), np.float32)) == ""
    assert gallery.overlay(image, np.zeros((4, 4), np.float32)) == ""
