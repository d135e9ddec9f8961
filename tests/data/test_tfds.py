import io

import pytest
from PIL import Image

from keras_ft.config.schema import DataConfig
from keras_ft.data.dataset import load_splits
from keras_ft.data.tfds import list_tfds
from keras_ft.errors import UserError


def load(name, folder):
    return list_tfds(DataConfig(data=f"tfds:{name}", tfds_data_dir=str(folder)))


@pytest.fixture
def shapes_set(tmp_path):
    """A prepared TFDS set with the splits train and validation."""
    import tensorflow_datasets as tfds

    class Shapes(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=["square", "disc"]),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"train": self._examples(12), "validation": self._examples(4)}

        def _generate_examples(self, count):
            yield from self._examples(count)

        def _examples(self, count):
            for i in range(count):
                stream = io.BytesIO()
                Image.new("RGB", (8 + i, 9), (20 * i, 0, 0)).save(stream, "png")
                stream.seek(0)
                yield i, {"image": stream, "label": i % 2}

    Shapes(data_dir=tmp_path / "tfds").download_and_prepare()
    return tmp_path / "tfds"


def test_a_set_keeps_its_splits_and_the_missing_one_is_drawn(tmp_path, shapes_set):
    config = DataConfig(
        data="tfds:shapes",
        tfds_data_dir=str(shapes_set),
        cache_dir=str(tmp_path / "cache"),
    )
    splits = load_splits(config, seed=0)
    assert splits.class_names == ("disc", "square")
    sizes = [len(splits.train), len(splits.val), len(splits.test)]
    assert sizes == [10, 4, 2]
    assert splits.val.paths[2] == "tfds:shapes/validation/2"
    for split in (splits.train, splits.val, splits.test):
        for file, label in zip(split.files, split.labels, strict=True):
            image = Image.open(file)  # the encoded file itself, not decoded pixels
            number = image.width - 8
            assert image.getpixel((0, 0)) == (20 * number, 0, 0)
            assert splits.class_names[label] == ("disc" if number % 2 else "square")


def test_a_set_that_is_not_prepared_is_an_error(tmp_path):
    with pytest.raises(UserError, match="beans is not in .*--tfds_download"):
        load("beans", tmp_path)


def test_an_unknown_set_is_an_error_of_one_line(tmp_path):
    with pytest.raises(UserError, match="no_such_set") as error:
        load("no_such_set", tmp_path)
    assert "\n" not in str(error.value)
