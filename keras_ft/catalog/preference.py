"""The items of `--weights`, as far as they can be checked without TensorFlow."""

import contextlib
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import h5py

from keras_ft.catalog.archive import (
    MODEL,
    is_classifier,
    read_backbone_name,
    read_description,
)
from keras_ft.catalog.backbones import (
    BACKBONES,
    find_backbone,
    find_model_name,
    find_source,
)
from keras_ft.catalog.preprocessing import ImageSize, parse_image_size
from keras_ft.errors import UserError

NAMES = ("imagenet", "starter", "preset", "none")  # the items that are no paths
# What --weights=auto is: of networks of Keras Applications, and of KerasHub.
DEFAULT_WEIGHTS, PRESET_WEIGHTS = ("imagenet", "starter"), ("preset",)
# Of the starter weights, which were trained on smaller images than those of ImageNet.
STARTER_SIZE = ImageSize(64, 64)
SIZE_ATTRIBUTE = "keras_ft_image_size"  # of a .weights.h5 file


class UnusableWeights(Exception):
    """Why one item of `--weights` cannot be used, and the remedy, in one line each."""

    def __init__(self, reason: str, remedy: str | None = None):
        super().__init__(reason)
        self.remedy = remedy


def default_weights(name: str) -> tuple[str, ...]:
    """What `--weights=auto` is for a backbone."""
    return PRESET_WEIGHTS if find_source(name) else DEFAULT_WEIGHTS


def find_image_size(name: str, item: str) -> ImageSize:
    """What `--image_size=auto` is for a backbone with the weights of an item.

    It is the size that they were trained on, or that of the backbone's published ones.
    Raises as `check_item`.
    """
    check_item(name, item)
    if item == "starter":
        return STARTER_SIZE
    size = None
    if item not in NAMES:
        try:
            size = _read_image_size(find_file(name, item))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UnusableWeights(f"cannot be read: {error}") from error
    return size or parse_image_size(find_backbone(name).image_size)


def _read_image_size(file: Path) -> ImageSize | None:
    """What a file of weights, or of a classifier, says of its images, if it does."""
    if is_classifier(file):
        return read_description(file).preprocessing.size
    if not h5py.is_hdf5(file):
        return None
    with h5py.File(file) as weights:
        size = weights.attrs.get(SIZE_ATTRIBUTE)
    return parse_image_size(size) if size else None


def describe_image_size(name: str, preference: Sequence[str]) -> str:
    """What `--image_size=auto` is, by the weights that can be used, such as `224`."""
    sizes = {}
    for item in preference:
        with contextlib.suppress(UnusableWeights):
            sizes[item] = str(find_image_size(name, item))
    if len(set(sizes.values())) == 1:
        return next(iter(sizes.values()))
    return ", ".join(f"{size} with weights {item}" for item, size in sizes.items())


def check_preference(name: str, preference: Sequence[str]) -> None:
    """Raises a UserError if a backbone can use none of the items of `--weights`."""
    reasons = []
    for item in preference:
        try:
            check_item(name, item)
            return
        except UnusableWeights as error:
            reasons.append(f"{item}: {error}")
    raise UserError(
        f"--weights must have an item that can be used for {name}, such as "
        f"{list_other_weights(name, preference)}. Received: {'; '.join(reasons)}"
    )


def list_other_weights(name: str, unusable: Sequence[str]) -> str:
    """What else `--weights` can be for a backbone."""
    named = ["preset"] if find_source(name) else ["imagenet"]
    named += ["starter"] if name == "resnet50" else []
    named = [item for item in named if item not in unusable]
    files = "a workdir or a .weights.h5, .h5 or .keras file of this backbone"
    return ", ".join([*named, files, "or none with --head_epochs=0"])


def check_item(name: str, item: str) -> None:
    """Raises UnusableWeights if an item can't be used; weights are not read."""
    if item == "starter" and name != "resnet50":
        raise UnusableWeights(f"it exists for resnet50 only. Received: backbone={name}")
    if item not in NAMES:
        find_file(name, item)


def find_file(name: str, item: str) -> Path:
    """Finds the file of an item that is a path, for a workdir its model.keras.

    Raises UnusableWeights if there is none, or it is another backbone's.
    """
    # run.json of earlier versions has `~`, which flags have no longer.
    file = Path(item).expanduser()
    if file.is_dir():
        file = file / MODEL
        if not file.is_file():
            raise UnusableWeights(f"there is no {MODEL} in this folder")
    if not file.is_file():
        raise UnusableWeights("there is no such file")
    if not file.name.endswith((".h5", ".keras")):
        raise UnusableWeights("the file's name must end in .weights.h5, .h5 or .keras")
    if is_classifier(file):
        try:
            found = read_backbone_name(file)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UnusableWeights(f"cannot be read: {error}") from error
        if found != (find_model_name(name) or found):
            raise UnusableWeights(
                f"its backbone is {found}, which needs --backbone={found}"
                if found in BACKBONES
                else f"its backbone is another one, {found}"
            )
    return file


def absolute_item(item: str) -> str:
    """Makes an item of `--weights` one that means the same in any folder."""
    return item if item in NAMES else os.path.abspath(item)
