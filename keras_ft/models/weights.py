"""Initial weights of a backbone: the first usable item of a preference list.

`imagenet` means the weights that Keras publishes, `starter` the checkpoint that ships
with this package, `preset` those of a network of KerasHub, `none` random weights, and
everything else the path of a file.
"""

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np

from keras_ft.errors import UserError
from keras_ft.models import hub
from keras_ft.models.backbones import Weights
from keras_ft.models.classifier import make_backbone
from keras_ft.models.presets import PREFIX
from keras_ft.models.published import (
    UnusableWeights,
    compute_digest,
    load_published,
    shorten,
)

log = logging.getLogger("keras_ft")

SCALE_SUFFIX = "_scale"  # in the starter file KERNEL_scale has the scales of KERNEL


def load_backbone(
    name: str, image_size: int, preference: Sequence[str]
) -> tuple[keras.Model, Weights]:
    """Builds a backbone with the first weights of a preference list that can be used.

    Args:
        name: A value of `--backbone`.
        image_size: Height and width of the images, in pixels.
        preference: "imagenet", "starter", "preset", "none" or paths, tried in order.

    Returns:
        The backbone, from float32 [B, S, S, 3] to float32 [B, h, w, D], and where its
        weights came from.

    Raises:
        UserError: If no item of `preference` can be used.
    """
    attempts, remedies = [], []
    for item in preference:
        try:
            backbone, file = _load(name, image_size, item)
        except UnusableWeights as error:
            log.warning("weights: %s cannot be used: %s", item, error)
            attempts.append({"weights": item, "error": str(error)})
            remedies.extend([error.remedy] if error.remedy else [])
            continue
        if file is None:
            log.info("weights: none, %s starts from random values", name)
            return backbone, Weights(item, attempts=tuple(attempts))
        sha256 = compute_digest(file, "sha256")
        log.info("weights: %s, from %s (SHA-256 %s)", item, file, sha256)
        return backbone, Weights(item, str(file), sha256, tuple(attempts))
    lines = [
        f"--weights={','.join(preference)}: none of them can be used for {name}.",
        *(f"  {attempt['weights']}: {attempt['error']}" for attempt in attempts),
        *remedies,
        "Otherwise use one of:",
        "  --weights=preset (those that the preset contains)"
        if name.startswith(PREFIX)
        else "  --weights=imagenet,starter (starter ships with keras_ft, for resnet50)",
        "  --weights=PATH of a .weights.h5, .h5 or .keras file of this backbone",
        "  --weights=none with --head_epochs=0 (random weights)",
    ]
    raise UserError("\n".join(lines))


def starter_path() -> Path:
    """Returns the path of the starter checkpoint of ResNet50."""
    return Path(__file__).parents[1] / "starter" / "resnet50.npz"


def read_starter(file: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads a starter checkpoint and undoes its quantisation.

    Args:
        file: .npz with one array per variable path. An array PATH that is accompanied
            by `PATH_scale`, float32 [C], is int8 [..., C] in units of that scale.

    Returns:
        The values by variable path, float32.
    """
    with np.load(file, allow_pickle=False) as stored:
        arrays = dict(stored)
    return {
        path: array.astype(np.float32) * arrays.get(path + SCALE_SUFFIX, np.float32(1))
        for path, array in arrays.items()
        if not path.endswith(SCALE_SUFFIX)
    }


def assign_variables(backbone: keras.Model, values: Mapping[str, np.ndarray]) -> None:
    """Sets every variable of a backbone.

    Args:
        backbone: The network whose variables are set.
        values: By variable path, each of its variable's shape.

    Raises:
        ValueError: If names or shapes differ in either direction; nothing was assigned.
    """
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


def _load(name: str, image_size: int, item: str) -> tuple[keras.Model, Path | None]:
    """Builds a backbone with the weights of one item; returns it and the file read.

    Raises:
        UnusableWeights: If they can't be used.
    """
    if item == "none":
        return make_backbone(name, image_size), None
    if item == "preset":
        return hub.load_network(name, image_size)
    if item == "starter":
        return _load_starter(name, image_size)
    is_imagenet = item == "imagenet"
    file = None if is_imagenet else _find_file(item)
    # Before a download that may fail: the head's initial values, which a seed
    # determines, depend on how many networks were made before it.
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


def _load_starter(name: str, image_size: int) -> tuple[keras.Model, Path]:
    if name != "resnet50":
        raise UnusableWeights(f"it exists for resnet50 only. Received: backbone={name}")
    file = starter_path()
    if not file.is_file():
        raise UnusableWeights(f"this installation of keras_ft lacks {file}")
    backbone = make_backbone(name, image_size)
    assign_variables(backbone, read_starter(file))
    log.info(
        "weights: starter was trained on Tiny-ImageNet, whose images are licensed for "
        "research, not commerce: read %s",
        file.with_name("PROVENANCE.txt"),
    )
    return backbone, file


def _find_file(item: str) -> Path:
    file = Path(os.path.expanduser(item))
    if not file.name.endswith((".h5", ".keras")):
        raise UnusableWeights("the file's name must end in .weights.h5, .h5 or .keras")
    if not os.path.isfile(file):
        raise UnusableWeights("there is no such file")
    return file
