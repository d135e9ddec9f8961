"""`--mode=export`: one more version of a run's exports."""

import logging
import operator
import zipfile

from keras_ft.config.recipe import resolve
from keras_ft.config.settings import Config
from keras_ft.data.dataset import load_dataset, load_headers, load_test
from keras_ft.data.examples import Examples
from keras_ft.data.pixel_limit import pixel_limit
from keras_ft.errors import UserError
from keras_ft.host import files, jpeg_lines
from keras_ft.host.startup import import_tensorflow
from keras_ft.jobs.train import begin
from keras_ft.runs.lock import locked
from keras_ft.runs.paths import RunPaths
from keras_ft.runs.record import load_record
from keras_ft.runs.run_metrics import ExportResult, load_metrics
from keras_ft.runs.workdir import load_config, open_run, remove_leftovers
from keras_ft.system.team import Team

log = logging.getLogger("keras_ft")


def export(config: Config) -> dict[str, ExportResult]:
    """Writes the model of a run as the next version of each format.

    The results, by format, are added to metrics.json and model_card.md of a finished
    run. Of an unfinished one, it is the best epoch so far, and the run can be resumed;
    its images are those of `data`, if that is given.

    Raises:
        UserError: The workdir contains no run, or no readable model.keras or
            checkpoint, or it can't be written; or an unfinished run's images are gone.
    """
    paths = RunPaths(config.run.workdir)
    of_run = load_config(paths.folder)
    with locked(paths.folder), pixel_limit(of_run.data.max_megapixels):
        state = load_record(paths).state
        if state == "running":
            return _export_unfinished(config, of_run, paths)
        if state == "finished":  # an export that was killed may have left files
            remove_leftovers(paths)
        results = _export(config, of_run, paths)
        metrics = load_metrics(paths)
        if metrics:
            metrics["exports"] |= results
            files.write_json(paths.metrics, metrics)
            from keras_ft.report.model_card import write_model_card

            record = load_record(paths)
            recipe = record.recall_image_size(resolve(of_run))
            write_model_card(paths, recipe, metrics, record)
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
    with jpeg_lines.caught():
        expected = predict_probabilities(model, tasks, inputs, len(images))
    # Without labels for the same tasks, there is no accuracy to compare.
    classes = operator.attrgetter("name", "class_names")
    is_same = [*map(classes, images.tasks)] == [*map(classes, tasks)]
    weights = of_run.train.weigh(expected) if is_same else {}
    reference = exports.Reference(tasks, images, expected, weights, batch_size)
    metrics = load_metrics(paths)
    description = exports.describe(model, tasks, found.preprocessing, paths, metrics)
    with jpeg_lines.caught(), files.writing():
        return exports.write_exports(
            config.export, model, description, paths, reference
        )


def _export_unfinished(
    config: Config, of_run: Config, paths: RunPaths
) -> dict[str, ExportResult]:
    of_run = of_run.replace(
        data=config.data.data or of_run.data.data,
        export_formats=config.export.export_formats,
        export_agreement=config.export.export_agreement,
        strategy="none",
        tensorboard=False,
        callbacks=(),
    )
    if not config.data.data:
        _check_images(of_run, paths)
    log.info("The run has not finished: takes its best epoch so far, trains nothing.")
    record = open_run(of_run, Team())
    run, dataset, classifier = begin(resolve(of_run), paths, record, Team(), ())
    from keras_ft.serving.exports import export_early
    from keras_ft.training.best import calibrate_model
    from keras_ft.training.failures import explained_errors
    from keras_ft.training.unfinished import recall_best

    with jpeg_lines.caught(), explained_errors(run.recipe, dataset.examples):
        best = recall_best(run, dataset.examples, classifier)
        model = calibrate_model(classifier, best)
        epoch = f"phase {best.name}, epoch {best.epoch}"
        results = export_early(run, dataset.examples, model, best.calibrated, epoch)
    log.warning(
        "These exports are of %s of an unfinished run. The command of the run resumes "
        "it, and its last export will be another version.",
        epoch,
    )
    return results


def _check_images(of_run: Config, paths: RunPaths) -> None:
    try:
        load_headers(of_run.data)
    except UserError as error:
        raise UserError(
            "--mode=export of an unfinished run needs its images. If they were moved, "
            f"give their place as --data. Received: {paths.flags} with "
            f"--data={of_run.data.data}: {error}"
        ) from error


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
