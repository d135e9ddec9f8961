import dataclasses

import numpy as np
import pytest
from run_page_helpers import Run

from keras_ft.config.recipe import Phase
from keras_ft.images.pipeline import ImageReader, make_inputs
from keras_ft.report.views import show_views

ALL, LAST = ("conv1", "conv2", "conv3"), ("conv3",)


@pytest.fixture
def show(tmp_path):
    """Shows the views of a run whose second phase trains some stages."""
    made = Run(tmp_path)

    def show(stages=ALL, epochs=2, **changed):
        recipe = made.run.recipe
        for section in ("data", "speed"):
            old = getattr(recipe, section)
            names = {field.name for field in dataclasses.fields(old)} & set(changed)
            new = dataclasses.replace(
                old, **{name: changed.pop(name) for name in names}
            )
            recipe = dataclasses.replace(recipe, **{section: new})
        phases = (Phase("head", 2, 0.1, ()), Phase("finetune", 2, 0.1, stages))
        run = dataclasses.replace(made.run, recipe=recipe, phases=phases)
        made.metrics["phases"]["finetune"]["epochs"] = epochs
        return show_views(run, made.splits.train, made.metrics)

    show.run, show.train = made.run, made.splits.train
    return show


def test_views_are_those_of_the_first_epochs(show, monkeypatch):
    monkeypatch.setattr("keras_ft.report.views.to_uri", np.asarray)
    views = show()
    assert views.seen == "in the first epochs of phase finetune"
    assert [len(row) for row in views.rows] == [3] * 4
    data = show.run.recipe.data
    reader = ImageReader(show.train, data.preprocessing, 8, data.augment, seed=0)
    for view in range(3):  # 0 is the plain image, 1 that of the first epoch
        [batch] = make_inputs(reader, range(4), view)
        for row, pixels in zip(views.rows, batch.numpy(), strict=True):
            np.testing.assert_array_equal(row[view], np.rint(pixels))


def test_at_most_four_views_are_shown(show):
    assert [len(row) for row in show(epochs=9).rows] == [5] * 4


def test_a_frozen_part_sees_cached_views_only(show):
    assert show(stages=LAST) is None
    views = show(stages=LAST, feature_views=3)
    assert "--feature_views" in views.seen and len(views.rows[0]) == 3


def test_without_augmentation_there_is_nothing_to_show(show):
    assert show(augment="none") is None


def test_a_missing_image_is_no_error(show, tmp_path):
    show.train.files[0] = str(tmp_path / "gone.png")
    assert show() is None
