import keras
import numpy as np
import pytest
from helpers import make_task
from model_helpers import tasks_of

from keras_ft.models.classifier import (
    fold_classifier,
    get_backbone,
    make_backbone,
    make_classifier,
)
from keras_ft.models.heads import select_task
from keras_ft.report.gradcam import compute_heatmaps

RED, BLUE = 0, 1


def make_red_and_blue():
    """Makes a classifier whose logits are the amounts of red and of blue."""
    classifier = make_classifier(
        make_backbone("tiny", (64, 64)), [make_task(2)], dropout=0.2
    )
    for i, (red, blue) in enumerate(((0, 2), (0, 1), (0, 1)), 1):
        conv = get_backbone(classifier).get_layer(f"conv{i}_conv")
        kernel = np.zeros(conv.kernel.shape, np.float32)
        kernel[:, :, red, 0] = kernel[:, :, blue, 1] = 1
        conv.kernel.assign(kernel)
    head = np.zeros((32, 2), np.float32)
    head[:2] = [[1, -1], [-1, 1]]
    classifier.get_layer("head").set_weights([head, np.zeros(2, np.float32)])
    return classifier


def fold_and_select(classifier):
    """Folds BatchNorm, and returns the model of the only task."""
    tasks = tasks_of(classifier)
    return select_task(fold_classifier(classifier, tasks), tasks[0])


def make_image():
    """Makes a black image: red at the top right, more blue at the bottom left."""
    image = np.zeros((64, 64, 3), np.float32)
    image[8:16, 48:56, 0] = 255
    image[32:56, 8:32, 2] = 255
    return image


@pytest.mark.parametrize("fold", [lambda model: model, fold_and_select])
def test_heatmaps_are_bright_where_the_class_is(fold):
    images = np.stack([make_image()] * 2)
    heatmaps = compute_heatmaps(
        fold(make_red_and_blue()), images, np.array([RED, BLUE])
    )
    assert heatmaps.shape == (2, 8, 8) and heatmaps.dtype == np.float32
    assert np.array_equal(heatmaps.max(axis=(1, 2)), [1, 1])
    # A cell is 8 x 8 pixels, and convolutions spread it by a cell at most.
    red, blue = heatmaps
    assert red[1, 6] == 1 or red[0, 5] == 1
    assert red[3:].max() == 0 and red[:, :4].max() == 0
    assert blue[5, 2] > 0.5
    assert blue[:3].max() == 0 and blue[:, 5:].max() == 0


def test_heatmaps_are_0_if_nothing_contributes_to_the_class():
    image = make_image()
    image[..., 2] = 0
    heatmaps = compute_heatmaps(make_red_and_blue(), image[None], np.array([BLUE]))
    assert np.array_equal(heatmaps, np.zeros((1, 8, 8)))


@pytest.mark.parametrize("name", ["tiny", "resnet50", "mobilenet_v3_small"])
def test_folding_does_not_change_heatmaps(name):
    keras.utils.set_random_seed(3)
    classifier = make_classifier(
        make_backbone(name, (64, 64)), [make_task(3)], dropout=0.2
    )
    for layer in get_backbone(classifier).layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.moving_variance.shape
            layer.moving_variance.assign(keras.random.uniform(shape, 0.5, 2))
    # More than a batch.
    images = np.random.default_rng(0).uniform(0, 255, (9, 64, 64, 3))
    images, classes = images.astype(np.float32), np.arange(9) % 3
    expected = compute_heatmaps(classifier, images, classes)
    folded = compute_heatmaps(fold_and_select(classifier), images, classes)
    assert expected.max() == 1
    assert np.allclose(folded, expected, atol=1e-4)


def test_of_several_tasks_each_has_its_own_heatmap():
    tasks = [make_task(3, name="shape"), make_task(2, name="colour")]
    classifier = make_classifier(make_backbone("tiny", (64, 64)), tasks, dropout=0.2)
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype("float32")
    folded = fold_classifier(classifier, tasks)
    for task in tasks:
        expected, heatmaps = (
            compute_heatmaps(select_task(model, task), images, np.array([1, 0]))
            for model in (classifier, folded)
        )
        assert np.allclose(heatmaps, expected, atol=1e-4)
