"""Built-in sets and sets of TensorFlow Datasets: unpacked once, below `--cache_dir`."""

import csv
import difflib
import functools
import hashlib
import io
import itertools
import logging
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from keras_ft.config.schema import DataConfig
from keras_ft.data.examples import SPLIT_ALIASES, Row
from keras_ft.errors import UserError
from keras_ft.host.files import partial_folder, write_csv, writing
from keras_ft.host.startup import import_tensorflow

log = logging.getLogger("keras_ft")

# Earlier versions, which may share the cache, have an index.csv of other columns.
_INDEX = "examples.csv"


class SetImage(NamedTuple):
    """An encoded image of a set; `split` is empty if the set assigns none."""

    content: bytes
    class_name: str
    split: str = ""


def list_set(config: DataConfig) -> list[Row]:
    """Lists the examples of `builtin:NAME` or `tfds:NAME`; unpacks their files.

    Raises:
        UserError: The set is unknown, not prepared, or not one of labelled images; or
            the cache folder can't be written.
    """
    is_builtin = config.data.startswith("builtin:")
    return _list_builtin(config) if is_builtin else _list_tfds(config)


def _list_builtin(config: DataConfig) -> list[Row]:
    name = config.data.removeprefix("builtin:")
    if name not in _BUILTIN:
        raise UserError(
            f"--data=builtin:NAME has {', '.join(_BUILTIN)}. Received: {config.data}"
        )
    folder = Path(config.cache_dir) / "builtin" / name
    return _unpack_rows(config.data, folder, _BUILTIN[name])


def _load_clothes() -> Iterator[SetImage]:
    """Loads photographs of clothes, 96 px on the short side, with their splits."""
    file = Path(__file__).parents[1] / "clothes" / "images.zip"
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            split, class_name, _ = name.split("/")
            yield SetImage(archive.read(name), class_name, split)


def _load_faces() -> Iterator[SetImage]:
    """Loads scikit-image's subset of Labeled Faces in the Wild, 25 x 25 px, grey."""
    import skimage.data

    pixels = skimage.data.lfw_subset()  # float64 [200, 25, 25] in [0, 1]
    labels = itertools.chain(["face"] * 100, ["other"] * 100)
    return map(SetImage, _encode_png(pixels * 255), labels)


def _load_digits() -> Iterator[SetImage]:
    """Loads scikit-learn's handwritten digits, 8 x 8 px, grey."""
    import sklearn.datasets

    digits = sklearn.datasets.load_digits()  # images float64 [1797, 8, 8] in [0, 16]
    images = _encode_png(digits.images * (255 / 16))
    return map(SetImage, images, map(str, digits.target))


_BUILTIN = {"clothes": _load_clothes, "digits": _load_digits, "faces": _load_faces}


def _encode_png(images: np.ndarray) -> Iterator[bytes]:
    """Encodes grey images, float [N, H, W] in [0, 255], as PNG files."""
    for image in images:
        stream = io.BytesIO()
        Image.fromarray(np.round(image).astype(np.uint8)).save(stream, "png")
        yield stream.getvalue()


def _list_tfds(config: DataConfig) -> list[Row]:
    """Lists the examples in the splits train, val(idation) and test of a TFDS set."""
    builder = _make_builder(config)
    # In another folder, the same name and version may contain other images.
    identity = f"{builder.data_path}\n{builder.info.as_json}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    root = Path(config.cache_dir) / "tfds"
    rows = []
    for split in filter(SPLIT_ALIASES.get, builder.info.splits):
        rows += _unpack_rows(
            f"{config.data}/{split}",
            root / builder.info.full_name / digest / split,
            functools.partial(_load_split, builder, split),
        )
    return rows


def _make_builder(config: DataConfig) -> Any:
    import_tensorflow()  # TFDS would, without this program's settings
    import tensorflow_datasets as tfds

    name = config.data.removeprefix("tfds:")
    data_dir = config.tfds_data_dir or None
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except Exception as error:  # of an unknown version or a community set: any
        known = tfds.list_builders(with_community_datasets=False)  # needs no network
        base = re.split("[/:]", name)[0]
        close = [] if base in known else difflib.get_close_matches(base, known)
        advice = f"; similar names: {', '.join(close)}" if close else ""
        raise UserError(
            "--data=tfds:NAME must name a set of TFDS, or one in --tfds_data_dir. "
            f"Received: {name}: {_first_line(error)}{advice}"
        ) from error
    folder = Path(str(builder.data_path).partition(f"/{builder.name}/")[0])
    if not builder.info.splits and config.tfds_download:
        _download(builder, folder)
    if not builder.info.splits:
        raise UserError(
            f"tfds:{name} exists, but it is not prepared in {folder}. Pass "
            "--tfds_data_dir=FOLDER if it is in another folder, or --tfds_download to "
            "download it; where there is no network, copy the folder "
            f"{builder.name} from a machine that has prepared it."
        )
    return builder


def _download(builder: Any, folder: Path) -> None:
    """Downloads and prepares a set of TFDS in a folder."""
    import requests  # as TFDS does

    try:
        urls = [url for url in builder.url_infos if url.startswith("http")]
        if urls and not any(folder.glob("downloads/**/*.INFO")):
            # TFDS would try for minutes.
            requests.head(urls[0], timeout=20)
        builder.download_and_prepare()
    except Exception as error:  # the code of each set is another one
        raise UserError(
            f"tfds:{builder.name} exists, but it is not prepared in {folder}, and it "
            f"can't be downloaded: {_first_line(error)}. Try again with a network, or "
            f"copy the folder {builder.name} from a machine that has prepared it."
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:300].rstrip(".")


def _load_split(builder: Any, split: str) -> Iterator[SetImage]:
    """Loads the images of a split, in the order of its files."""
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
        class_name = to_name(example[label])
        yield SetImage(example[image], class_name, SPLIT_ALIASES[split])


def _unpack_rows(
    prefix: str, folder: Path, load_images: Callable[[], Iterable[SetImage]]
) -> list[Row]:
    """Lists the examples `prefix/0`, ... of a set; unpacks it if a file is missing."""
    if not _is_complete(folder):
        _unpack(prefix, folder, load_images())
    return [
        Row(f"{prefix}/{name}", str(folder / name), (class_name,), split)
        for name, class_name, split in _read_index(folder)
    ]


def _read_index(folder: Path) -> list[list[str]]:
    with open(folder / _INDEX, newline="", encoding="utf-8") as stream:
        return [
            [name, class_name, split] for name, class_name, split in csv.reader(stream)
        ]


def _is_complete(folder: Path) -> bool:
    # Programs that clean cache folders remove single old files, and another user may
    # have written files for no one else.
    try:
        names = [name for name, _, _ in _read_index(folder)]
    except (OSError, ValueError, csv.Error):
        return False
    return bool(names) and all(os.access(folder / n, os.R_OK) for n in names)


def _unpack(title: str, folder: Path, images: Iterable[SetImage]) -> None:
    """Writes `folder`: the images as files 0, 1, ... and an index of their labels.

    Other processes may do the same at the same time, and others may read the images.
    """
    with writing("cache_dir"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with partial_folder(folder.parent) as partial:
            index = []
            for i, (content, class_name, split) in enumerate(images):
                (partial / str(i)).write_bytes(content)
                index.append((str(i), class_name, split))
            write_csv(partial / _INDEX, index)
            try:
                partial.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
                # Replaced file by file, so that none is missing for a moment.
                for name in (*(name for name, _, _ in index), _INDEX):
                    os.replace(partial / name, folder / name)
    log.info("Unpacked the %d images of %s to %s.", len(index), title, folder)
