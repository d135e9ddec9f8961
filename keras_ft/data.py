"""Where examples come from: a folder, TFDS, builtin -> `Splits`.

Whatever the source, an example ends as one encoded image file on disk: images of
TFDS and builtin sets are unpacked once below `--cache_dir`. So everything after this
module reads files, and nothing holds a data set in memory.
"""

import concurrent.futures
import dataclasses
import logging
import os
from collections.abc import Sequence

import numpy as np

from keras_ft import unpack
from keras_ft.config import DataConfig, UserError
from keras_ft.unpack import SPLIT_ALIASES, Row

log = logging.getLogger("keras_ft")

EXTENSIONS = (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".webp")
SPLIT_NAMES = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class Split:
    """Some examples of a data set.

    Attributes:
        paths: str [N], names as written in splits.csv and predictions.
        files: str [N], files that hold the encoded images.
        labels: int64 [N], indices into the class names.
    """

    paths: np.ndarray
    files: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, which: np.ndarray) -> "Split":
        """The examples at some indices, or where a mask is true."""
        return Split(self.paths[which], self.files[which], self.labels[which])


@dataclasses.dataclass(frozen=True)
class Splits:
    """A data set ready to train on; `class_names` are sorted."""

    train: Split
    val: Split
    test: Split
    class_names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Images:
    """Images without labels: N names as written in predictions, and their files."""

    paths: Sequence[str]
    files: Sequence[str]


def load_splits(config: DataConfig, seed: int) -> Splits:
    """Reads a data set for training.

    Splits that the source has are kept. A missing val or test is drawn from train:
    of every class, its fraction and at least one image.

    Args:
        config: What to read.
        seed: Seed of the draw.

    Returns:
        Non-empty splits.

    Raises:
        UserError: The source does not exist or can't be trained on.
    """
    source, class_names = load_source(config)
    if len(class_names) < 2:
        raise UserError(
            f"A classifier needs images of at least 2 classes. Received: {config.data} "
            f"with {', '.join(map(repr, class_names))} only"
        )
    _check_train(source, class_names)
    missing = {
        name: fraction
        for name, fraction in (
            ("val", config.val_fraction),
            ("test", config.test_fraction),
        )
        if name not in source
    }
    source |= _split_off(source["train"], missing, class_names, seed)
    splits = Splits(*(source[name] for name in SPLIT_NAMES), class_names)
    log.info(
        "Data: %s: %d classes, %d train, %d val, %d test images.",
        config.data,
        len(class_names),
        *(len(source[name]) for name in SPLIT_NAMES),
    )
    return splits


def load_images(config: DataConfig) -> Images:
    """Lists the images that `--data` names, labelled or not: a set, folder or file.

    Raises:
        UserError: There are none.
    """
    if config.data.startswith(("builtin:", "tfds:")):
        splits = load_source(config)[0].values()
        return Images(
            [path for split in splits for path in split.paths],
            [file for split in splits for file in split.files],
        )
    files = list_images(config.data)
    if not files:
        raise UserError(
            f"--data must hold image files ({', '.join(EXTENSIONS)}). "
            f"Received: {config.data} without any"
        )
    return Images(files, files)


def load_test(config: DataConfig) -> tuple[Split, tuple[str, ...]]:
    """Reads labelled images to evaluate on: test, or all of a set without splits.

    Raises:
        UserError: The source does not exist, or has splits but no test.
    """
    source, class_names = load_source(config)
    if "test" in source:
        return source["test"], class_names
    if set(source) == {"train"}:
        return source["train"], class_names
    raise UserError(
        "--mode=evaluate needs a data set with a test split, or with no splits. "
        f"Received: {config.data} with {', '.join(sorted(source))}"
    )


def load_source(config: DataConfig) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Reads the splits that a data set comes with.

    Args:
        config: What to read.

    Returns:
        Splits by name (`train`, `val`, `test`; a set without any is all `train`) and
        the sorted class names.

    Raises:
        UserError: The source does not exist or holds no image.
    """
    if config.data.startswith("builtin:"):
        rows = unpack.builtin_rows(config)
    elif config.data.startswith("tfds:"):
        rows = unpack.tfds_rows(config)
    else:
        rows = _folder_rows(config.data)
    class_names = sorted({label for split in rows.values() for _, _, label in split})
    for name in class_names:
        if not _is_utf8(name):  # a SavedModel could not hold it
            raise UserError(f"Class names must be valid UTF-8. Received: {name!a}")
    return {
        name: _make_split(split, class_names) for name, split in rows.items() if split
    }, tuple(class_names)


def list_images(path: str) -> list[str]:
    """Image files below a folder, sorted, hidden ones left out; or the one file.

    Raises:
        UserError: Nothing is there.
    """
    if os.path.isfile(path):
        return [path]
    if not os.path.isdir(path):
        raise UserError(f"--data must exist. Received: {path}")
    files = []
    for folder, subfolders, names in os.walk(path):
        subfolders[:] = filter(_is_visible, subfolders)
        files += [
            os.path.join(folder, name)
            for name in names
            if _is_visible(name) and name.lower().endswith(EXTENSIONS)
        ]
    return sorted(files)


def image_format(header: bytes) -> str | None:
    """The format that a file's first 12 bytes tell: `jpeg`, `png`, ... or None."""
    signatures = {b"\xff\xd8\xff": "jpeg", b"\x89PNG": "png", b"BM": "bmp"}
    signatures |= {b"GIF8": "gif"}
    if header[:4] == b"RIFF" and header[8:12] == b"WEBP":
        return "webp"
    return next((f for s, f in signatures.items() if header.startswith(s)), None)


def _make_split(rows: Sequence[Row], class_names: Sequence[str]) -> Split:
    paths, files, labels = zip(*rows, strict=True)
    return Split(
        np.array(paths, dtype=object),
        np.array(files, dtype=object),
        np.searchsorted(class_names, labels).astype(np.int64),
    )


def _split_off(
    train: Split,
    fractions: dict[str, float],
    class_names: Sequence[str],
    seed: int,
) -> dict[str, Split]:
    """Draws splits from train, class by class.

    scikit-learn's stratified draw can leave a small class out of a split; here each
    class gives each split at least one image.
    """
    if not fractions:
        return {}
    rng = np.random.default_rng(seed)
    taken = {name: [] for name in ("train", *fractions)}
    for label, class_name in enumerate(class_names):
        order = rng.permutation(np.flatnonzero(train.labels == label))
        if len(order) <= len(fractions):
            raise UserError(
                f"Each class needs at least {len(fractions) + 1} images, so that "
                f"train, {' and '.join(fractions)} get one each. Received: "
                f"{len(order)} of class {class_name!r}"
            )
        sizes = [max(1, round(f * len(order))) for f in fractions.values()]
        sizes[-1] = min(sizes[-1], len(order) - 1 - sum(sizes[:-1]))
        parts = np.split(order, np.cumsum(sizes))
        for name, part in zip((*fractions, "train"), parts, strict=True):
            taken[name].append(part)
    return {
        name: train.take(np.sort(np.concatenate(parts)))
        for name, parts in taken.items()
    }


def _check_train(source: dict[str, Split], class_names: Sequence[str]) -> None:
    present = set(source["train"].labels.tolist()) if "train" in source else ()
    missing = [c for label, c in enumerate(class_names) if label not in present]
    if missing:
        raise UserError(
            "--data needs images of each class in train. Received: none of "
            f"{', '.join(map(repr, missing))}"
        )


# --- folders -----------------------------------------------------------------


def _folder_rows(folder: str) -> dict[str, list[Row]]:
    if not os.path.isdir(folder):
        raise UserError(
            "--data must be a folder that exists, tfds:NAME, builtin:faces or "
            f"builtin:digits. Received: {folder}"
        )
    subfolders = _subfolders(folder)
    if subfolders and set(subfolders) <= set(SPLIT_ALIASES):
        rows = {}
        for name in subfolders:
            split = SPLIT_ALIASES[name]
            if split in rows:
                raise UserError(
                    f"--data must have one folder per split. Received: two for {split} "
                    f"in {folder}: {', '.join(subfolders)}"
                )
            rows[split] = _class_folder_rows(os.path.join(folder, name))
    else:
        rows = {"train": _class_folder_rows(folder)}
    _check_headers([file for split in rows.values() for _, file, _ in split])
    return rows


def _class_folder_rows(folder: str) -> list[Row]:
    rows = []
    classes = _subfolders(folder)
    if not classes:
        raise UserError(
            "--data must hold one folder of images per class. "
            f"Received: {folder} without folders"
        )
    for class_name in classes:
        files = list_images(os.path.join(folder, class_name))
        if not files:
            raise UserError(
                f"A class folder must hold image files ({', '.join(EXTENSIONS)}). "
                f"Received: none in {os.path.join(folder, class_name)}"
            )
        rows += [(file, file, class_name) for file in files]
    return rows


def _subfolders(folder: str) -> list[str]:
    return sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.is_dir() and _is_visible(entry.name)
    )


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _check_headers(files: Sequence[str]) -> None:
    """Raises a UserError if the content of a file is not an image."""

    def has_image(file: str) -> bool:
        with open(file, "rb") as stream:
            return image_format(stream.read(12)) is not None

    with concurrent.futures.ThreadPoolExecutor() as pool:
        good = list(pool.map(has_image, files))
    bad = [file for file, ok in zip(files, good, strict=True) if not ok]
    if bad:
        raise unreadable_error(bad, len(files))


def unreadable_error(bad: Sequence[str], count: int) -> UserError:
    """The error for image files that can't be read."""
    more = f" and {len(bad) - 10} more" if len(bad) > 10 else ""
    return UserError(
        "Image files must be readable JPEG, PNG, BMP, GIF or WebP; mend or remove "
        f"them. Received: {len(bad)} of {count} that are not: "
        f"{', '.join(bad[:10])}{more}"
    )
