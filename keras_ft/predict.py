"""A trained classifier and images -> predictions or metrics. Knows no training."""

import csv
import dataclasses
import itertools
import logging
import os
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_ft import data, export, workdir
from keras_ft.config import Config, UserError
from keras_ft.data import Split
from keras_ft.evaluate import compute_metrics

log = logging.getLogger("keras_ft")


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


def load_classifier(path: str) -> Classifier:
    """Reads a workdir, an export/saved_model[/N] folder or a model.keras.

    Raises:
        UserError: There is no such thing, or it can't be read.
    """
    model_path = _find_model(Path(path))
    try:
        if model_path.suffix == ".keras":
            model, class_names = export.load_model(model_path)
            return Classifier(class_names, export.make_serving(model, class_names)[0])
        loaded = tf.saved_model.load(str(model_path))
        names = loaded.signatures["class_names"]()["class_names"].numpy()
        class_names = tuple(name.decode() for name in names)
        return Classifier(class_names, loaded.signatures["serving_default"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, tf.errors.OpError) as e:
        raise UserError(
            f"--model can't be read as a model of keras_ft: {model_path}: "
            f"{str(e).partition(chr(10))[0]}"
        ) from e


def _find_model(path: Path) -> Path:
    """The model.keras or SavedModel folder that a `--model` names."""
    if path.suffix == ".keras" and path.is_file():
        return path
    if (path / "saved_model.pb").is_file():
        return path
    if (path / "model.keras").is_file():
        return path / "model.keras"
    versions = [p for p in path.glob("*/") if p.name.isdigit()]
    if versions:
        return max(versions, key=lambda version: int(version.name))
    raise UserError(
        "--model must be a workdir with a model.keras, an export/saved_model folder or "
        f"a .keras file. Received: {path}"
    )


def classify(
    classifier: Classifier, files: Sequence[str], batch_size: int
) -> Iterator[tuple[np.ndarray | None, str]]:
    """Classifies image files.

    Args:
        classifier: The classifier.
        files: Paths of N files.
        batch_size: Images per step.

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
    """A file's bytes, or the reason why there are none."""
    try:
        return Path(file).read_bytes(), ""
    except OSError as error:
        return b"", error.strerror or str(error)


def _serve(classifier: Classifier, images: Sequence[bytes]) -> np.ndarray:
    answer = classifier.serve(image_bytes=tf.constant(images))
    return answer["probabilities"].numpy()


def _classify_one(
    classifier: Classifier, image: bytes
) -> tuple[np.ndarray | None, str]:
    try:
        return _serve(classifier, [image])[0], ""
    except tf.errors.OpError:
        return None, "not a readable JPEG, PNG, BMP, GIF or WebP image"


def predict(config: Config) -> None:
    """Writes one CSV row per image: path, class_name, probability, top_2, ..., error.

    Raises:
        UserError: The model or the images are not there, or the output is.
    """
    _check_output(config)
    classifier = load_classifier(config.apply.model or config.run.workdir)
    paths, files = _images_to_predict(config)
    top_k = min(config.apply.top_k, len(classifier.class_names))
    header = ["path", "class_name", "probability"]
    for k in range(2, top_k + 1):
        header += [f"top_{k}", f"top_{k}_probability"]
    answers = classify(classifier, files, config.data.batch_size)
    rows = (
        [path, *_top(probabilities, classifier.class_names, top_k), error]
        for path, (probabilities, error) in zip(paths, answers, strict=True)
    )
    rows = itertools.chain([[*header, "error"]], rows)
    if config.apply.output:
        workdir.write_csv(Path(config.apply.output), rows)
        log.info("Wrote %d predictions to %s.", len(files), config.apply.output)
    else:
        csv.writer(sys.stdout).writerows(rows)


def _images_to_predict(config: Config) -> tuple[Sequence[str], Sequence[str]]:
    """Names and files of the images that `--data` names, labelled or not."""
    if config.data.data.startswith(("builtin:", "tfds:")):
        source, _ = data.load_source(config.data)
        splits = source.values()
        paths = [path for split in splits for path in split.paths]
        return paths, [file for split in splits for file in split.files]
    files = data.list_images(config.data.data)
    if not files:
        raise UserError(
            f"--data must hold image files ({', '.join(data.EXTENSIONS)}). "
            f"Received: {config.data.data} without any"
        )
    return files, files


def _top(
    probabilities: np.ndarray | None, class_names: Sequence[str], top_k: int
) -> list[str]:
    if probabilities is None:
        return [""] * (2 * top_k)
    best = np.argsort(-probabilities, kind="stable")[:top_k]
    return [cell for i in best for cell in (class_names[i], f"{probabilities[i]:.6f}")]


def evaluate(config: Config) -> dict[str, Any]:
    """Measures a classifier on labelled images it was not trained on.

    Of a data set with splits, test is used; of one without, all images but those
    that the model's own splits.csv lists under train or val.

    Returns:
        What `compute_metrics` returns, and `num_examples`; written to `--output`,
        if given.

    Raises:
        UserError: The model or the images can't be used, or the output is there.
    """
    _check_output(config)
    model_path = config.apply.model or config.run.workdir
    classifier = load_classifier(model_path)
    source, class_names = data.load_source(config.data)
    unknown = sorted(set(class_names) - set(classifier.class_names))
    if unknown:
        raise UserError(
            f"The model must know every class of --data; it knows "
            f"{', '.join(classifier.class_names)}. Received: {', '.join(unknown)}"
        )
    split = _unseen(_split_to_evaluate(source, config), Path(model_path))
    answers = list(classify(classifier, split.files, config.data.batch_size))
    bad = [f for f, (_, error) in zip(split.files, answers, strict=True) if error]
    if bad:
        raise data.unreadable_error(bad, len(split))
    # The data set may have fewer classes than the model.
    ids = np.array([classifier.class_names.index(name) for name in class_names])
    metrics = compute_metrics(
        ids[split.labels],
        np.stack([probabilities for probabilities, _ in answers]),
        classifier.class_names,
    )
    metrics["num_examples"] = len(split)
    if config.apply.output:
        workdir.write_json(Path(config.apply.output), metrics)
    return metrics


def _split_to_evaluate(source: dict[str, Split], config: Config) -> Split:
    if "test" in source:
        return source["test"]
    if set(source) == {"train"}:
        return source["train"]
    raise UserError(
        "--mode=evaluate needs a data set with a test split, or with no splits. "
        f"Received: {config.data.data} with {', '.join(sorted(source))}"
    )


def _unseen(split: Split, model_path: Path) -> Split:
    """Leaves out what the model was trained or selected on, where that is known."""
    # Of WORKDIR/export/saved_model/1, the workdir is the third parent.
    folders = [model_path, *model_path.absolute().parents[:3]]
    recorded = next((f for f in folders if (f / "splits.csv").is_file()), None)
    if recorded is None:
        return split
    splits = workdir.read_splits(recorded / "splits.csv")
    seen = {_identity(path) for path, name in splits.items() if name != "test"}
    unseen = np.array([_identity(path) not in seen for path in split.paths])
    if not unseen.any():
        raise UserError(
            "--data must have images that the model was not trained on. Received: "
            f"only images that {recorded / 'splits.csv'} lists under train or val"
        )
    if not unseen.all():
        log.info(
            "Left out %d of %d images that the model was trained or selected on (%s).",
            np.sum(~unseen),
            len(split),
            recorded / "splits.csv",
        )
    return split.take(unseen)


def _identity(path: str) -> str:
    return path if path.startswith(("builtin:", "tfds:")) else os.path.realpath(path)


def _check_output(config: Config) -> None:
    output = config.apply.output
    if not output:
        return
    if os.path.exists(output) and not config.run.overwrite:
        raise UserError(
            f"--output must not exist, or give --overwrite. Received: {output}"
        )
    if not os.path.isdir(os.path.dirname(os.path.abspath(output))):
        raise UserError(
            f"--output must lie in a folder that exists. Received: {output}"
        )
