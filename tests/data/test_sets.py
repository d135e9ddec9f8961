import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_ft.config.schema import DataConfig
from keras_ft.data import dataset as data
from keras_ft.data import sets, sources
from keras_ft.data.examples import Row
from keras_ft.errors import UserError

IMAGES = [
    sets.SetImage(b"first", "a", "val"),
    sets.SetImage(b"second", "b", "val"),
    sets.SetImage(b"third", "a", "val"),
]


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


def test_clothes_have_the_splits_of_their_authors(tmp_path):
    examples = load("builtin:clothes", tmp_path)
    sizes = [len(examples.split(name)) for name in ("train", "val", "test")]
    assert sizes == [3068, 341, 372]
    assert examples.train.count_classes().tolist() == [
        *(241, 123, 455, 184, 468, 290, 198, 202, 112, 795)
    ]
    with Image.open(examples.files[0]) as image:
        assert image.format == "WEBP"
        assert min(image.size) == 96


def test_a_set_unpacked_by_an_earlier_version_is_unpacked_again(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "index.csv").write_text("0,a\n1,b\n2,a\n")
    assert [row.split for row in unpack(tmp_path / "set")] == ["val"] * 3


def test_an_unknown_name_is_an_error(tmp_path):
    with pytest.raises(
        UserError, match="clothes, digits, faces. Received: builtin:cats"
    ):
        load("builtin:cats", tmp_path)


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
            counts = {"train": 12, "validation": 4}
            return {k: self._generate_examples(n) for k, n in counts.items()}

        def _generate_examples(self, count):
            for i in range(count):
                stream = io.BytesIO()
                Image.new("RGB", (8 + i, 9), (20 * i, 0, 0)).save(stream, "png")
                stream.seek(0)
                yield i, {"image": stream, "label": i % 2}

    Shapes(data_dir=tmp_path / "tfds").download_and_prepare()
    return tmp_path / "tfds"


def test_a_set_keeps_its_splits_and_the_missing_one_is_drawn(tmp_path, shapes_set):
    folders = {"tfds_data_dir": str(shapes_set), "cache_dir": str(tmp_path / "cache")}
    config = DataConfig(data="tfds:shapes", **folders)
    splits = data.load_splits(config, seed=0)
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
    with pytest.raises(
        UserError,
        match=f"beans exists, .* not prepared in {tmp_path}. .*--tfds_download",
    ):
        load("tfds:beans", tmp_path, tfds_data_dir=str(tmp_path))


def test_without_a_network_it_is_said_at_once(tmp_path, monkeypatch):
    import requests
    import tensorflow_datasets as tfds

    def fail(url, timeout):
        raise requests.ConnectionError(f"{url} can't be resolved\nby anyone")

    monkeypatch.setattr(requests, "head", fail)
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", None)
    folders = {"tfds_data_dir": str(tmp_path), "tfds_download": True}
    with pytest.raises(UserError, match="beans exists, .*can't be resolved") as error:
        load("tfds:beans", tmp_path, **folders)
    assert "\n" not in str(error.value)


def test_an_unknown_set_is_an_error_of_one_line(tmp_path):
    folders = {"tfds_data_dir": str(tmp_path)}
    for name, message in (
        ("bean", r"Received: bean: .*\w; similar names: beans"),
        ("mnist:9.9.9", "mnist cannot be loaded at version 9.9.9, only: 3.0.1$"),
        ("", "Received: : "),
    ):
        with pytest.raises(UserError, match=message) as error:
            load(f"tfds:{name}", tmp_path, **folders)
        assert "\n" not in str(error.value)


def unpack(folder):
    return sets._unpack_rows("set", folder, lambda: iter(IMAGES))


def test_images_become_numbered_files(tmp_path):
    folder = tmp_path / "cache" / "set"
    rows = unpack(folder)
    assert rows[1] == Row("set/1", str(folder / "1"), ("b",), "val")
    assert [row.labels for row in rows] == [("a",), ("b",), ("a",)]
    for row, image in zip(rows, IMAGES, strict=True):
        with open(row.file, "rb") as stream:
            assert stream.read() == image.content


def test_unpacked_files_are_reused_and_a_missing_one_is_restored(tmp_path):
    unpack(tmp_path / "set")
    first = tmp_path / "set" / "0"
    created = first.stat().st_mtime_ns
    unpack(tmp_path / "set")
    assert first.stat().st_mtime_ns == created
    (tmp_path / "set" / "2").unlink()
    unpack(tmp_path / "set")
    assert (tmp_path / "set" / "2").read_bytes() == b"third"


def test_another_process_may_unpack_at_the_same_time(tmp_path):
    def unpack_twice():
        yield IMAGES[0]
        unpack(tmp_path / "set")
        yield from IMAGES[1:]

    rows = sets._unpack_rows("set", tmp_path / "set", unpack_twice)

    assert [Path(row.file).read_bytes() for row in rows] == [i.content for i in IMAGES]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_images_are_never_missing_while_others_are_restored(tmp_path, monkeypatch):
    unpack(tmp_path / "set")
    (tmp_path / "set" / "2").unlink()
    replace, replaced = os.replace, []

    def watch(source, target):
        replace(source, target)
        replaced.append(target)
        assert (tmp_path / "set" / "0").exists()
        assert (tmp_path / "set" / "1").exists()

    monkeypatch.setattr(os, "replace", watch)
    unpack(tmp_path / "set")

    assert tmp_path / "set" / "2" in replaced


@pytest.mark.parametrize("index", [b"", b"0,a\n", b"\xff,a,val\n", b'"0\x00'])
def test_a_damaged_index_is_as_none(tmp_path, index):
    unpack(tmp_path / "set")
    (tmp_path / "set" / "examples.csv").write_bytes(index)

    assert len(unpack(tmp_path / "set")) == 3


def test_what_cannot_be_read_is_unpacked_again(tmp_path, monkeypatch):
    unpack(tmp_path / "set")
    (tmp_path / "set" / "1").write_text("of another user, who lets no one read")
    monkeypatch.setattr(os, "access", lambda path, _: path.name != "1")

    unpack(tmp_path / "set")

    assert (tmp_path / "set" / "1").read_bytes() == b"second"


def test_a_group_may_use_the_cache(tmp_path):
    before = os.umask(0o002)
    try:
        unpack(tmp_path / "cache" / "set")
    finally:
        os.umask(before)

    modes = [
        path.stat().st_mode & 0o777 for path in sorted((tmp_path / "cache").rglob("*"))
    ]
    assert modes == [0o775] + [0o664] * 4


def test_a_cache_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match="--cache_dir must be a folder"):
        unpack(tmp_path / "cache" / "set")
