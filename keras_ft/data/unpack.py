"""Builtin and TFDS sets become image files below `--cache_dir`, once."""

import contextlib
import csv
import hashlib
import io
import itertools
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from keras_ft.config.schema import DataConfig
from keras_ft.errors import UserError
from keras_ft.system import files

log = logging.getLogger("keras_ft")

# One example as a source gives it: name, file, class name.
Row = tuple[str, str, str]

# What sets and folders call their splits, and what we call them.
SPLIT_ALIASES = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


_INDEX = "index.csv"


def builtin_rows(config: DataConfig) -> dict[str, list[Row]]:
    """Rows of `builtin:faces` or `builtin:digits`, all under `train`.

    Raises:
        UserError: The name is unknown, or the cache folder can't be written.
    """
    name = config.data.removeprefix("builtin:")
    makers = {"faces": _faces, "digits": _digits}
    if name not in makers:
        raise UserError(
            f"--data=builtin:NAME has {' and '.join(makers)}. Received: {config.data}"
        )
    folder = Path(config.cache_dir).expanduser() / "builtin" / name
    return {"train": _rows(config.data, folder, makers[name])}


def tfds_rows(config: DataConfig) -> dict[str, list[Row]]:
    """Rows of the splits train, val(idation) and test of a TFDS set.

    Raises:
        UserError: The set is unknown, not there, or not one of labelled images.
    """
    import tensorflow_datasets as tfds

    name = config.data.removeprefix("tfds:")
    data_dir = os.path.expanduser(config.tfds_data_dir) or None
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        if config.tfds_download:
            builder.download_and_prepare()
    except (OSError, ValueError, tfds.download.DownloadError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"TFDS can't give tfds:{name}: {reason}") from error
    if not builder.info.splits:
        raise UserError(
            f"tfds:{name} is not in {builder.data_path}. Give --tfds_download to fetch "
            "it, or --tfds_data_dir=FOLDER where it lies."
        )
    # The same name and version may hold other images in another place.
    identity = f"{builder.data_path}\n{builder.info.as_json}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    root = Path(config.cache_dir).expanduser() / "tfds"
    rows = {}
    for split in set(builder.info.splits) & set(SPLIT_ALIASES):
        rows[SPLIT_ALIASES[split]] = _rows(
            f"{config.data}/{split}",
            root / builder.info.full_name / digest / split,
            lambda split=split: _tfds_examples(builder, split),
        )
    return rows


def _rows(
    prefix: str, folder: Path, examples: Callable[[], Iterable[tuple[bytes, str]]]
) -> list[Row]:
    """Rows of an unpacked set, which is unpacked first where it is not whole."""
    if not _is_whole(folder):
        _unpack(prefix, folder, examples())
    return [
        (f"{prefix}/{name}", str(folder / name), label) for name, label in _read(folder)
    ]


def _read(folder: Path) -> list[list[str]]:
    with open(folder / _INDEX, newline="", encoding="utf-8") as stream:
        return list(csv.reader(stream))


def _is_whole(folder: Path) -> bool:
    # Cleaners of cache folders remove single old files.
    return (folder / _INDEX).exists() and all(
        (folder / name).exists() for name, _ in _read(folder)
    )


def _unpack(title: str, folder: Path, examples: Iterable[tuple[bytes, str]]) -> None:
    """Writes `folder`: the images as files 0, 1, ... and an index of their labels."""
    with contextlib.ExitStack() as stack:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            partial = stack.enter_context(files.partial_folder(folder.parent))
        except OSError as error:
            raise UserError(
                f"--cache_dir must be a folder that can be written. Received: {error}"
            ) from error
        index = []
        for i, (image, label) in enumerate(examples):
            (partial / str(i)).write_bytes(image)
            index.append((str(i), label))
        with open(partial / _INDEX, "w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows(index)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    log.info("Unpacked the %d images of %s to %s.", len(index), title, folder)


def _faces() -> Iterator[tuple[bytes, str]]:
    """scikit-image's part of Labeled Faces in the Wild: 25 x 25 px, grey."""
    import skimage.data

    pixels = skimage.data.lfw_subset()  # float64 [200, 25, 25] in [0, 1]
    labels = itertools.chain(["face"] * 100, ["other"] * 100)
    return zip(_to_png(pixels * 255), labels, strict=True)


def _digits() -> Iterator[tuple[bytes, str]]:
    """scikit-learn's handwritten digits: 8 x 8 px, grey."""
    import sklearn.datasets

    digits = sklearn.datasets.load_digits()  # images float64 [1797, 8, 8] in [0, 16]
    labels = (str(label) for label in digits.target)
    return zip(_to_png(digits.images * (255 / 16)), labels, strict=True)


def _to_png(images: np.ndarray) -> Iterator[bytes]:
    """PNG files of grey images, float [N, H, W] in [0, 255]."""
    from PIL import Image

    for image in images:
        stream = io.BytesIO()
        Image.fromarray(np.round(image).astype(np.uint8)).save(stream, "png")
        yield stream.getvalue()


def _tfds_examples(builder, split: str) -> Iterator[tuple[bytes, str]]:
    """Encoded images and class names of one split, in the order of its files."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    images = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
    labels = [k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    if len(images) != 1 or len(labels) != 1:
        raise UserError(
            "A TFDS set must have one image and one class label per example. Received: "
            f"tfds:{builder.info.full_name} with {', '.join(features)}"
        )
    [image], [label] = images, labels
    examples = builder.as_dataset(
        split=split,
        decoders={image: tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(interleave_cycle_length=1),
        shuffle_files=False,
    )
    to_name = features[label].int2str
    for example in examples.as_numpy_iterator():
        yield example[image], to_name(example[label])
