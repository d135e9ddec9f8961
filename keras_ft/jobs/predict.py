"""`--mode=predict`: the classes of new images, one row each."""

import contextlib
import functools
import io
import itertools
import logging
import pkgutil
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from keras_ft.catalog.clusters import CLUSTERS
from keras_ft.config.settings import Config
from keras_ft.data.file_facts import FORMAT_NAMES
from keras_ft.data.pixel_limit import with_pixel_limit
from keras_ft.data.streams import open_images
from keras_ft.errors import UserError
from keras_ft.host.progress import track
from keras_ft.host.startup import import_tensorflow
from keras_ft.host.text import counted
from keras_ft.kinds.task import Task
from keras_ft.runs.find_model import check_output, find_model, hash_model
from keras_ft.serving.extra_files import check_extras, stack_features, write_heatmaps
from keras_ft.serving.parts import open_parts
from keras_ft.serving.rows import CsvRows, JsonRows

log = logging.getLogger("keras_ft")

_BATCHES_PER_PART = 16

Answers = Generator[Any, None, None]


@with_pixel_limit
def predict(config: Config) -> None:
    """Writes one row per image, in order; see `CsvRows` and `JsonRows`.

    Rows are written in parts, which become `output` at the end. If the program is
    killed, the same command goes on after the last whole part. Without `output`, they
    go to standard output.

    Raises:
        UserError: The images or the model can't be found or read; or the parts of an
            earlier process are of other images, another model or other flags. That no
            image can be read is one after the rows are written.
    """
    apply, batch_size = config.apply, config.data.batch_size
    check_output(apply.output, config.run.overwrite)
    model = find_model(Path(apply.model or config.run.workdir))
    check_extras(apply, model, config.run.overwrite)
    images, total = open_images(config.data)
    size = batch_size * (_BATCHES_PER_PART if apply.output else 1)
    with contextlib.ExitStack() as stack:
        parts = None
        if file := apply.output or apply.features:
            made_by = {
                "model_sha256": hash_model(model),
                "top_k": apply.top_k,
                "batch_size": batch_size,
                "features": apply.features,
                "heatmaps": apply.heatmaps,
            }
            # What goes to standard output can't be resumed.
            restart = config.run.overwrite or not apply.output
            parts = stack.enter_context(open_parts(Path(file), size, made_by, restart))
        num_done = parts.skip_done(images) if parts else 0
        num_failed = parts.count_failed() if parts else 0
        tasks, classify, num_features = stack.enter_context(
            _open_classifier(config, model)
        )
        layout = JsonRows if apply.output.lower().endswith(".jsonl") else CsvRows
        rows = layout(tasks, apply.top_k)
        named, sent = itertools.tee(images)
        answers: Iterable[Any] = stack.enter_context(
            # Its threads end with this call, also if an error does.
            contextlib.closing(classify(file for _, file in sent))
        )
        if apply.output or not sys.stdout.isatty():
            answers = track(answers, "Predictions", total, "image", num_done)
        answered: Iterator[tuple[str, Any]] = zip(
            (path for path, _ in named), answers, strict=True
        )
        if apply.heatmaps:
            answered = write_heatmaps(Path(apply.heatmaps), answered, num_done + 1)
        if not apply.output:
            _print(rows.header())
        while part := list(itertools.islice(answered, size)):
            text = "".join(rows.to_row(path, *answer[:2]) for path, answer in part)
            if not apply.output:
                _print(text)
            failed = sum(1 for _, (_, error, *_) in part if error)
            if parts:
                paths, described = zip(*part, strict=True)
                features = None
                if apply.features:
                    features = stack_features(described, num_features)
                parts.write(num_done + 1, paths, text, failed, features)
            num_done += len(part)
            num_failed += failed
        if parts and apply.features:
            parts.join_features((num_done, num_features), Path(apply.features))
        if parts and apply.output:
            parts.join_rows(rows.header(), Path(apply.output))
    _report(num_done, num_failed, apply.output)


def _report(num_done: int, num_failed: int, output: str) -> None:
    """Logs how many images were predicted; a UserError if none of them was."""
    files = counted(num_failed, "file")
    not_read = f"{files} could not be read" if num_failed else ""
    if num_failed and num_failed == num_done:
        raise UserError(
            f"--data must contain images that can be read, {FORMAT_NAMES}. Received: "
            f"{not_read}; the column error says why"
        )
    if output:
        log.info(
            "Wrote %s to %s%s.",
            counted(num_done - num_failed, "prediction"),
            output,
            not_read and f"; {not_read}",
        )
    elif not_read:
        log.warning("%s.", not_read)


def _print(text: str) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        # As to a file: names of classes in any script, names of files of any bytes.
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    sys.stdout.write(text)
    sys.stdout.flush()


@contextlib.contextmanager
def _open_classifier(
    config: Config, model: Path
) -> Iterator[tuple[Sequence[Task], Callable[..., Answers], int]]:
    """Loads a model here or on a cluster.

    Yields its tasks; a function of files to predictions, with features and heatmaps if
    these are asked for; and the number of features.
    """
    batch_size, apply, cluster = config.data.batch_size, config.apply, config.cluster
    if cluster.address:
        open_classifier = pkgutil.resolve_name(CLUSTERS[cluster.kind].predict)
        with open_classifier(model, config.data, cluster) as opened:
            yield (*opened, 0)
        return
    import_tensorflow()
    from keras_ft.serving.trained_classifier import classify, load_classifier

    classifier = load_classifier(model)
    answer: Callable[..., Answers] = classify
    num_features = 0
    if apply.features or apply.heatmaps:
        from keras_ft.serving.described import describe

        answer = functools.partial(
            describe, features=bool(apply.features), heatmaps=bool(apply.heatmaps)
        )
        num_features = classifier.num_features
    answer = functools.partial(answer, classifier, batch_size=batch_size)
    yield classifier.tasks, answer, num_features
