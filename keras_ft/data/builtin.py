"""Built-in sets of images, which need no download."""

import io
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from keras_ft.config.schema import DataConfig
from keras_ft.data.examples import Row
from keras_ft.data.unpack import unpack_rows
from keras_ft.errors import UserError


def list_builtin(config: DataConfig) -> list[Row]:
    """Lists the examples of `builtin:faces` or `builtin:digits`.

    Raises:
        UserError: The name is unknown, or the cache folder can't be written.
    """
    name = config.data.removeprefix("builtin:")
    loaders = {"faces": _load_faces, "digits": _load_digits}
    if name not in loaders:
        raise UserError(
            f"--data=builtin:NAME has {' and '.join(loaders)}. Received: {config.data}"
        )
    folder = Path(config.cache_dir).expanduser() / "builtin" / name
    return unpack_rows(config.data, folder, loaders[name])


def _load_faces() -> Iterator[tuple[bytes, str]]:
    """Loads scikit-image's subset of Labeled Faces in the Wild, 25 x 25 px, grey."""
    import skimage.data

    pixels = skimage.data.lfw_subset()  # float64 [200, 25, 25] in [0, 1]
    labels = itertools.chain(["face"] * 100, ["other"] * 100)
    return zip(_encode_png(pixels * 255), labels, strict=True)


def _load_digits() -> Iterator[tuple[bytes, str]]:
    """Loads scikit-learn's handwritten digits, 8 x 8 px, grey."""
    import sklearn.datasets

    digits = sklearn.datasets.load_digits()  # images float64 [1797, 8, 8] in [0, 16]
    labels = (str(label) for label in digits.target)
    return zip(_encode_png(digits.images * (255 / 16)), labels, strict=True)


def _encode_png(images: np.ndarray) -> Iterator[bytes]:
    """Encodes grey images, float [N, H, W] in [0, 255], as PNG files."""
    from PIL import Image

    for image in images:
        stream = io.BytesIO()
        Image.fromarray(np.round(image).astype(np.uint8)).save(stream, "png")
        yield stream.getvalue()
