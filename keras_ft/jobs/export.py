"""`--mode=export`: one more version of a finished run's exports."""

import logging
import operator
import zipfile

from keras_ft.config.recipe import resolve
from keras_ft.config.settings import Config
from keras_ft.data.dataset import load_dataset, load_test
from keras_ft.data.examples import Examples
from keras_ft.errors import UserError
from keras_ft.host import files
from keras_ft.host.startup import import_tensorflow
from keras_ft.runs.lock import locked, writing
from keras_ft.runs.paths import RunPaths
from keras_ft.runs.record import load_record
from keras_ft.runs.run_metrics import ExportResult, load_metrics
from keras_ft.runs.workdir import load_config

log = logging.getLogger("keras_ft")


def export(config: Config) -> dict[str, ExportResult]:
    """Writes a workdir's model.keras as the next version of each format.

    The results, by format, are added to metrics.json and model_card.md of the run.

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
            from keras_ft.report.model_card import write_model_card

            write_model_card(paths, resolve(of_run), metrics, load_record(paths))
    return results


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
    inputs = make_inputs(reader, range(len(images)))
    expected = predict_probabilities(model, tasks, inputs, len(images))
    # Without labels for the same tasks, there is no accuracy to compare.
    classes = operator.attrgetter("name", "class_names")
    is_same = [*map(classes, images.tasks)] == [*map(classes, tasks)]
    weights = of_run.train.weigh(expected) if is_same else {}
    reference = exports.Reference(tasks, images, expected, weights, batch_size)
    metrics = load_metrics(paths)
    description = exports.describe(model, tasks, found.preprocessing, paths, metrics)
    with writing():
        return exports.write_exports(
            config.export, model, description, paths, reference
        )


def load_images(of_run: Config, paths: RunPaths) -> Examples:
    """Images on which the export is compared with the model: the run's test split."""
    try:
        dataset = load_dataset(of_run.replace(data=paths.splits).data)
        test = dataset.examples.take(dataset.facts["problem"] == 0).test
        if len(test):
            return test
        reason = "are gone"
    except UserError as error:
        reason = str(error)
    log.warning("The comparison uses builtin:faces, since the run's images: %s", reason)
    return load_test(
        of_run.replace(data="builtin:faces", classes=(), label_columns=()).data
    )
