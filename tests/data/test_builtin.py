import numpy as np
import pytest
from PIL import Image

from keras_ft.config.schema import DataConfig
from keras_ft.data import dataset as data
from keras_ft.data import sources
from keras_ft.errors import UserError


def load(name, tmp_path, **fields):
    config = DataConfig(data=name, cache_dir=str(tmp_path / "cache"), **fields)
    return sources.load_examples(config)[0]


def test_faces_are_the_photographs_of_scikit_image(tmp_path):
    import skimage.data

    train = load("builtin:faces", tmp_path)
    assert train.class_names == ("face", "other")
    assert set(train.splits) == {""}
    assert np.bincount(train.labels).tolist() == [100, 100]
    assert train.paths[17] == "builtin:faces/17"
    pixels = np.asarray(Image.open(train.files[17]))
    expected = skimage.data.lfw_subset()[17] * 255
    np.testing.assert_allclose(pixels, expected, atol=0.5)


def test_faces_are_split_as_documented(tmp_path):
    config = DataConfig(data="builtin:faces", cache_dir=str(tmp_path))
    splits = data.load_splits(config, seed=0)
    sizes = [len(splits.train), len(splits.val), len(splits.test)]
    assert sizes == [140, 30, 30]


def test_digits_have_ten_classes(tmp_path):
    examples = load("builtin:digits", tmp_path)
    assert examples.class_names == tuple("0123456789")
    assert len(examples) == 1797


def test_an_unknown_name_is_an_error(tmp_path):
    with pytest.raises(UserError, match="faces and digits. Received: builtin:cats"):
        load("builtin:cats", tmp_path)
