"""Initial weights of a backbone: the first usable item of a preference list.

`imagenet` means the weights that Keras publishes, `starter` the checkpoint that ships
with this package, `preset` those of a network of KerasHub or of the user's, `none`
random weights, and everything else a path: of a file with the weights of a backbone, or
of a trained classifier (its workdir or model.keras).
"""

import dataclasses
import hashlib
import logging
import os
import pkgutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import keras
import numpy as np

from keras_ft.catalog.archive import is_classifier, read_description
from keras_ft.catalog.backbones import TERMS, Weights, find_source
from keras_ft.catalog.preference import (
    NAMES,
    SIZE_ATTRIBUTE,
    UnusableWeights,
    check_item,
    find_file,
    find_image_size,
    list_other_weights,
)
from keras_ft.catalog.preprocessing import ImageSize
from keras_ft.errors import UserError
from keras_ft.host.files import compute_digest
from keras_ft.models.classifier import get_backbone, make_backbone
from keras_ft.models.published import load_published, shorten
from keras_ft.models.trained import load_trained
from keras_ft.models.trained_heads import TrainedHead, read_heads

log = logging.getLogger("keras_ft")

_ORIGIN = "keras_ft_origin"  # an attribute of a .weights.h5 file
SCALE_SUFFIX = "_scale"  # in the starter file KERNEL_scale has the scales of KERNEL


@dataclasses.dataclass(frozen=True)
class Start:
    """What a classifier starts from: a backbone, and the source of its weights.

    If that was a classifier, there are the heads of its tasks, too.
    """

    backbone: keras.Model
    weights: Weights
    heads: Mapping[str, TrainedHead]


def load_backbone(
    name: str, image_size: ImageSize, preference: Sequence[str]
) -> tuple[keras.Model, Weights]:
    """Builds the backbone of `load_start`; returns it and the source of its weights."""
    start = load_start(name, image_size, preference)
    return start.backbone, start.weights


def load_start(
    name: str, image_size: ImageSize | None, preference: Sequence[str]
) -> Start:
    """Makes a backbone with the first usable weights; raises a UserError if none is.

    Its size of images, if it is None, is the `find_image_size` of these weights.
    """
    attempts, remedies = [], []
    for item in preference:
        try:
            size = image_size or find_image_size(name, item)
            backbone, file, heads = _load(name, size, item)
        except UnusableWeights as error:
            log.warning("weights: %s cannot be used: %s", item, error)
            attempts.append({"weights": item, "error": str(error)})
            remedies.extend([error.remedy] if error.remedy else [])
            continue
        if file is None:
            sha256 = None if item == "none" else hash_weights(backbone)
            values = f"its own (SHA-256 {sha256})" if sha256 else "random values"
            log.info("weights: %s, %s starts from %s", item, name, values)
        else:
            sha256 = compute_digest(file, "sha256")
            log.info("weights: %s, from %s (SHA-256 %s)", item, file, sha256)
        source = str(file.absolute()) if file else None
        origin = item if item in NAMES or file is None else read_origin(file)
        used = Weights(item, source, sha256, tuple(attempts), origin)
        if origin == "starter":
            log.warning("weights: %s", TERMS[origin])
        return Start(backbone, used, heads)
    reasons = "; ".join(f"{each['weights']}: {each['error']}" for each in attempts)
    advice = f"Otherwise give {list_other_weights(name, preference)}."
    raise UserError(
        f"--weights={','.join(preference)}: none of them can be used for {name}: "
        f"{reasons}. {' '.join([*remedies, advice])}"
    )


def save_backbone(backbone: keras.Model, path: Path, origin: str) -> None:
    """Writes a .weights.h5 file that says where its weights began, see `Weights`.

    It also says on which size of images they were trained.
    """
    backbone.save_weights(path)
    with h5py.File(path, "a") as file:
        file.attrs[_ORIGIN] = origin
        file.attrs[SIZE_ATTRIBUTE] = str(ImageSize(*backbone.input_shape[1:3]))


def read_origin(file: Path) -> str:
    """What a file of weights, or of a classifier, says of where its weights began."""
    if is_classifier(file):
        return read_description(file).origin
    if not h5py.is_hdf5(file):
        return ""
    with h5py.File(file) as weights:
        return str(weights.attrs.get(_ORIGIN, ""))


def hash_weights(network: keras.Model) -> str:
    """SHA-256 of the weights of a network, with their types and shapes."""
    digest = hashlib.sha256()
    for weight in network.get_weights():
        digest.update(f"{weight.dtype}{weight.shape}".encode())
        digest.update(np.ascontiguousarray(weight).data)
    return digest.hexdigest()


def starter_path() -> Path:
    """The path of the starter checkpoint of ResNet50."""
    return Path(__file__).parents[1] / "starter" / "resnet50.npz"


def read_starter(file: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads a starter checkpoint: float32 values by variable path.

    It is an .npz with one array per variable. An array PATH that is accompanied by
    `PATH_scale`, float32 [C], is int8 [..., C] in units of that scale.
    """
    with np.load(file, allow_pickle=False) as stored:
        arrays = dict(stored)
    return {
        path: array.astype(np.float32) * arrays.get(path + SCALE_SUFFIX, np.float32(1))
        for path, array in arrays.items()
        if not path.endswith(SCALE_SUFFIX)
    }


def assign_variables(backbone: keras.Model, values: Mapping[str, np.ndarray]) -> None:
    """Sets all variables by their paths; raises a ValueError before if any misfits."""
    wanted = {variable.path: tuple(variable.shape) for variable in backbone.weights}
    given = {path: value.shape for path, value in values.items()}
    paths = wanted.keys() | given.keys()
    wrong = sorted(path for path in paths if wanted.get(path) != given.get(path))
    if wrong:
        raise ValueError(
            "Variables and values must agree in name and shape. "
            f"Received: {len(wrong)} that do not, the first {wrong[0]}: "
            f"variable {wanted.get(wrong[0])}, value {given.get(wrong[0])}"
        )
    for variable in backbone.weights:
        variable.assign(values[variable.path])


def _load(
    name: str, image_size: ImageSize, item: str
) -> tuple[keras.Model, Path | None, dict[str, TrainedHead]]:
    """A backbone with the weights of one item, the file that was read, its heads."""
    check_item(name, item)
    if item == "none":
        return make_backbone(name, image_size), None, {}
    source = find_source(name)
    if item == "preset" and source and source.load:
        return *pkgutil.resolve_name(source.load)(name, image_size), {}
    if item == "starter":
        return *_load_starter(name, image_size), {}
    if item == "imagenet":
        return *_load_file(name, image_size, None), {}
    file = find_file(name, item)
    if not is_classifier(file):
        return *_load_file(name, image_size, file), {}
    backbone = make_backbone(name, image_size)
    try:
        trained, description = load_trained(file)
        backbone.set_weights(get_backbone(trained).get_weights())
        return backbone, file, read_heads(trained, description.tasks)
    except Exception as error:  # see _load_file
        raise UnusableWeights(f"cannot be read: {shorten(str(error))}") from error


def _load_file(
    name: str, image_size: ImageSize, file: Path | None
) -> tuple[keras.Model, Path]:
    """Loads the weights of a backbone alone, of the published file by default."""
    is_imagenet = file is None
    backbone = make_backbone(name, image_size)
    file = file or load_published(name, image_size)
    try:
        with warnings.catch_warnings():
            # Before it raises, Keras warns once per layer that does not fit.
            warnings.simplefilter("ignore")
            # Unlike load_model, this reads numbers only: no code in the file is run.
            backbone.load_weights(file)
    except Exception as error:  # h5py, zipfile and Keras raise all kinds of types
        # Keras raises ValueError if the network is another one; h5py and zipfile don't.
        misfit = isinstance(error, ValueError)
        reason = f"does not fit {name}" if misfit else "cannot be read"
        prefix = f"{file} " if is_imagenet else ""
        raise UnusableWeights(f"{prefix}{reason}: {shorten(str(error))}") from error
    return backbone, file


def _load_starter(name: str, image_size: ImageSize) -> tuple[keras.Model, Path]:
    file = starter_path()
    if not file.is_file():
        raise UnusableWeights(f"this installation of keras_ft lacks {file}")
    backbone = make_backbone(name, image_size)
    assign_variables(backbone, read_starter(file))
    if max(image_size) > 64:  # see docs/defaults.md
        log.info(
            "weights: starter was trained on images of 48 pixels: --image_size=48 or "
            "64 is likely to be more accurate, and faster, than %s",
            image_size,
        )
    return backbone, file
