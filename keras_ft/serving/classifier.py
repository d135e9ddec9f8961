"""A trained classifier and image files -> probabilities."""

import dataclasses
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_ft.data.conversion import needs_conversion, to_png
from keras_ft.data.dataset import advise, list_bad
from keras_ft.data.examples import Strings
from keras_ft.data.file_facts import (
    ADVICE,
    FACTS,
    FORMAT_NAMES,
    MAX_PIXELS,
    PROBLEMS,
    read_header,
)
from keras_ft.errors import UserError
from keras_ft.models.classifier import fold_classifier
from keras_ft.serving import export

_NO_IMAGE = f"not a readable {FORMAT_NAMES} image"


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A trained classifier.

    Attributes:
        class_names: K names.
        serve: From encoded images, string [N], to a dict with `probabilities`
            float32 [N, K].
    """

    class_names: tuple[str, ...]
    serve: Callable[..., dict[str, tf.Tensor]]

    def predict(self, files: Sequence[str | Path], batch_size: int = 32) -> np.ndarray:
        """Class probabilities of image files.

        Args:
            files: Paths of N files.
            batch_size: Examples per step.

        Returns:
            float32 [N, K].

        Raises:
            UserError: A file is no image that can be read.
        """
        names = list(map(str, files))
        answers = list(classify(self, names, batch_size))
        errors = [error for _, error in answers]
        bad = [name for name, error in zip(names, errors, strict=True) if error]
        if bad:
            raise UserError(
                "Every file must be a readable image. Received: "
                f"{list_bad(bad, len(names))}{advise(errors)}"
            )
        return np.array([probabilities for probabilities, _ in answers])


def load_classifier(path: Path) -> Classifier:
    """Reads a model.keras or one version of a SavedModel.

    Raises:
        UserError: It can't be read.
    """
    try:
        if path.suffix == ".keras":
            model, description = export.load_model(path)
            serve, _ = export.make_serving(fold_classifier(model), description)
            return Classifier(description.class_names, serve)
        loaded = tf.saved_model.load(str(path))
        names = loaded.signatures["class_names"]()["class_names"].numpy()
        class_names = tuple(name.decode() for name in names)
        return Classifier(class_names, loaded.signatures["serving_default"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, tf.errors.OpError) as e:
        raise UserError(
            f"--model can't be read as a model of keras_ft: {path}: "
            f"{str(e).partition(chr(10))[0]}"
        ) from e


def classify(
    classifier: Classifier, files: Strings, batch_size: int
) -> Iterator[tuple[np.ndarray | None, str]]:
    """Classifies image files.

    Args:
        classifier: The classifier.
        files: Paths of N files.
        batch_size: Examples per step.

    Yields:
        For each file, float32 [K] probabilities and an empty string, or None and why
        the file can't be read.
    """
    for start in range(0, len(files), batch_size):
        images = [_read(file) for file in files[start : start + batch_size]]
        good = [image for image, error in images if not error]
        try:
            answers = iter(_serve(classifier, good) if good else ())
            yield from ((None if e else next(answers), e) for _, e in images)
        except tf.errors.OpError:  # at least one can't be decoded: find out which
            for image, error in images:
                yield (None, error) if error else _classify_one(classifier, image)


def _read(file: str) -> tuple[bytes, str]:
    """A file's bytes as TensorFlow decodes them, or the reason why there are none."""
    [facts] = np.zeros(1, FACTS)
    read_header(file, facts)
    problem = PROBLEMS[facts["problem"]]
    content = b""
    if needs_conversion(facts):
        content, problem = to_png(file, facts)
    elif problem in ("", "missing_file"):  # of which the system knows the reason
        try:
            content = Path(file).read_bytes()
        except OSError as error:
            return b"", error.strerror or str(error)
    if problem == "too_large":
        return b"", f"more than {MAX_PIXELS} pixels"
    return content, ADVICE.get(problem, _NO_IMAGE) if problem else ""


def _serve(classifier: Classifier, images: Sequence[bytes]) -> np.ndarray:
    answer = classifier.serve(image_bytes=tf.constant(images))
    return answer["probabilities"].numpy()


def _classify_one(
    classifier: Classifier, image: bytes
) -> tuple[np.ndarray | None, str]:
    try:
        return _serve(classifier, [image])[0], ""
    except tf.errors.OpError:
        return None, _NO_IMAGE
