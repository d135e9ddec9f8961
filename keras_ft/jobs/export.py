"""`--mode=export`: one more version of a finished run's exports."""

import logging
import zipfile
from collections.abc import Sequence

from keras_ft.config.config import Config
from keras_ft.data.dataset import load_dataset, load_test
from keras_ft.data.examples import Examples
from keras_ft.errors import UserError
from keras_ft.host import files
from keras_ft.host.startup import import_tensorflow
from keras_ft.runs.lock import locked, writing
from keras_ft.runs.paths import RunPaths
from keras_ft.runs.record import load_record
from keras_ft.runs.run_metrics import ExportResult, RunMetrics, load_metrics
from keras_ft.runs.workdir import load_config
from keras_ft.tasks import Task

log = logging.getLogger("keras_ft")


def export(config: Config) -> dict[str, ExportResult]:
    """Writes a workdir's model.keras as the next version of each format.

    The results are added to the metrics.json of the run, and to its model_card.md.

    Args:
        config: The workdir, and `export`.

    Returns:
        The result of each format.

    Raises:
        UserError: The workdir contains no run, or no readable model.keras, or it can't
            be written.
    """
    paths = RunPaths(config.run.workdir)
    of_run = load_config(paths.folder)
    with locked(paths.folder):
        results = _export(config, of_run, paths)
        metrics = load_metrics(paths)
        if metrics:
            metrics["exports"] |= results
            files.write_json(paths.metrics, metrics)
            _write_model_card(of_run, paths, metrics)
    return results


def _write_model_card(of_run: Config, paths: RunPaths, metrics: RunMetrics) -> None:
    from keras_ft.report.model_card import write_model_card

    record = load_record(paths)
    if record:
        write_model_card(paths, of_run, metrics, record)


def _export(config: Config, of_run: Config, paths: RunPaths) -> dict[str, ExportResult]:
    images = load_images(of_run, paths)
    import_tensorflow()
    from keras_ft.images.pipeline import ImageReader, make_inputs
    from keras_ft.models.heads import predict_probabilities
    from keras_ft.models.trained import load_trained
    from keras_ft.serving import exports

    try:
        model, found = load_trained(paths.model)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            "--mode=export needs a finished run's workdir. Received: "
            f"{paths.folder}: {error}"
        ) from error
    tasks = found.tasks
    batch_size = of_run.data.batch_size
    reader = ImageReader(images, found.preprocessing, batch_size)
    inputs = make_inputs(reader, len(images))
    expected = predict_probabilities(model, tasks, inputs, len(images))
    weights = of_run.train.weigh(expected) if _are_of(images, tasks) else {}
    reference = exports.Reference(tasks, images, expected, weights, batch_size)
    metrics = load_metrics(paths)
    description = exports.describe(model, tasks, found.preprocessing, paths, metrics)
    with writing():
        return exports.write_artifacts(
            config.export, model, description, paths, reference
        )


def _are_of(images: Examples, tasks: Sequence[Task]) -> bool:
    """Whether images have labels for the same tasks."""
    return [(t.name, t.class_names) for t in images.tasks] == [
        (t.name, t.class_names) for t in tasks
    ]


def load_images(of_run: Config, paths: RunPaths) -> Examples:
    """Images on which the export is compared with the model: the run's test split."""
    try:
        dataset = load_dataset(of_run.replace(data=paths.splits).data)
        is_readable = dataset.facts["problem"] == 0
        test = dataset.examples.take(is_readable).test
        if len(test):
            return test
        reason = "are gone"
    except UserError as error:
        reason = str(error)
    log.warning("The comparison uses builtin:faces, since the run's images: %s", reason)
    return load_test(
        of_run.replace(data="builtin:faces", classes=(), label_columns=()).data
    )
