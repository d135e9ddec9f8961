"""`--mode=predict`: the classes of new images, one row each."""

import contextlib
import functools
import io
import itertools
import logging
import pkgutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from keras_ft.catalog.clusters import CLUSTERS
from keras_ft.config.config import Config
from keras_ft.data.streams import open_images
from keras_ft.errors import UserError
from keras_ft.host.progress import track
from keras_ft.host.resumable import resumable
from keras_ft.host.startup import import_tensorflow
from keras_ft.runs.find_model import check_output, find_model, hash_model
from keras_ft.serving.extra_files import check_extras, open_extras
from keras_ft.serving.rows import CsvRows, JsonRows
from keras_ft.tasks import Task

log = logging.getLogger("keras_ft")

# Path and file.
_Images = Iterator[tuple[str, str]]


def predict(config: Config) -> None:
    """Writes one row per image, in order; see `CsvRows` and `JsonRows`.

    Rows are written batch by batch. If the program is killed, the same command goes on
    after the last batch in `output`.part.

    Args:
        config: The images, the model, `top_k`, `output` or none for standard output,
            and `features` and `heatmaps` if these are asked for.

    Raises:
        UserError: The images or the model can't be found or read; or the rows of an
            earlier process are of other images or another model.
    """
    output, batch_size = config.apply.output, config.data.batch_size
    check_output(output, config.run.overwrite)
    model = find_model(Path(config.apply.model or config.run.workdir))
    check_extras(config.apply, model, config.run.overwrite)
    images, total = open_images(config.data)
    layout = JsonRows if output.lower().endswith(".jsonl") else CsvRows
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(_open_output(config, model))
        num_done, images = _resume(stream, layout, images, batch_size)
        tasks, classify, num_features = stack.enter_context(
            _open_classifier(config, model)
        )
        rows = layout(tasks, config.apply.top_k)
        named, sent = itertools.tee(images)
        answers: Iterator[Any] = classify(file for _, file in sent)
        write_extras = stack.enter_context(
            open_extras(config.apply, num_done, num_features)
        )
        if output or not sys.stdout.isatty():
            answers = track(answers, total, num_done, "image")
        answered: Iterator[tuple[str, Any]] = zip(
            (path for path, _ in named), answers, strict=True
        )
        if not num_done:
            _write(stream, rows.header())
        while batch := list(itertools.islice(answered, batch_size)):
            write_extras(num_done + 1, batch)
            lines = (rows.to_row(path, *answer[:2]) for path, answer in batch)
            _write(stream, "".join(lines))
            num_done += len(batch)
    if output:
        log.info("Wrote %d predictions to %s.", num_done, output)


@contextlib.contextmanager
def _open_classifier(
    config: Config, model: Path
) -> Iterator[tuple[Sequence[Task], Callable[..., Iterator[Any]], int]]:
    """Loads a model here or on a cluster.

    Yields:
        Its tasks; a function of files to predictions, with features and heatmaps if
        these are asked for; and the number of features.
    """
    batch_size, apply = config.data.batch_size, config.apply
    if config.cluster.address:
        open_classifier = pkgutil.resolve_name(CLUSTERS[config.cluster.kind].predict)
        with open_classifier(model, batch_size, config.cluster) as opened:
            yield (*opened, 0)
        return
    import_tensorflow()
    from keras_ft.serving.trained_classifier import classify, load_classifier

    classifier = load_classifier(model)
    if apply.features or apply.heatmaps:
        from keras_ft.serving.described import describe

        describe_files = functools.partial(
            describe,
            classifier,
            batch_size=batch_size,
            features=bool(apply.features),
            heatmaps=bool(apply.heatmaps),
        )
        yield classifier.tasks, describe_files, classifier.num_features
    else:
        classify_files = functools.partial(classify, classifier, batch_size=batch_size)
        yield classifier.tasks, classify_files, 0


@contextlib.contextmanager
def _open_output(config: Config, model: Path) -> Iterator[io.FileIO | None]:
    """Opens the file for the rows; None is standard output."""
    if config.apply.output:
        apply = config.apply
        made_by = {"model_sha256": hash_model(model), "top_k": apply.top_k}
        extras = {"features": apply.features, "heatmaps": apply.heatmaps}
        made_by |= {name: path for name, path in extras.items() if path}
        path = Path(config.apply.output)
        with resumable(path, made_by, restart=config.run.overwrite) as stream:
            yield stream
    else:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="surrogateescape")  # file names of any bytes
        yield None


def _resume(
    stream: io.FileIO | None,
    layout: type[CsvRows] | type[JsonRows],
    images: _Images,
    batch_size: int,
) -> tuple[int, _Images]:
    """Keeps the whole batches in a file, and removes what follows them.

    The rows are then those of an uninterrupted run to the last digit: rounding depends
    on the size of a batch.

    Returns:
        How many images have a row, and the images that remain.

    Raises:
        UserError: The rows are not those of the first images.
    """
    if stream is None:
        return 0, images
    num_done, end = 0, 0
    unfinished: list[tuple[str, str]] = []
    reader = io.BufferedReader(stream)
    for number, (path, row_end) in enumerate(layout.read_paths(reader), 1):
        image = next(images, None)
        if image is None or layout.written(image[0]) != path:
            raise UserError(
                "--data must list the same images in the same order to resume, or give "
                f"--overwrite to start again. Received: {image and image[0]} where row "
                f"{number} of {stream.name} is of {path}"
            )
        unfinished.append(image)
        if len(unfinished) == batch_size:
            num_done, end, unfinished = number, row_end, []
    reader.detach()
    stream.truncate(end)
    if num_done:
        log.info("Resumes after %d predictions in %s.", num_done, stream.name)
    return num_done, itertools.chain(unfinished, images)


def _write(stream: io.FileIO | None, text: str) -> None:
    """Writes whole rows at once, so that a reader sees them."""
    if stream is None:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    rest = memoryview(text.encode("utf-8", "surrogateescape"))
    try:
        while rest:
            rest = rest[stream.write(rest) :]
    except OSError as error:
        raise UserError(
            f"--output can't be written: {error}. The same command resumes from here."
        ) from error
