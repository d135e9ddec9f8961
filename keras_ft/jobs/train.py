"""`--mode=train`, the main job: from images to a classifier that serves."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from keras_ft.catalog.formats import check_installed
from keras_ft.catalog.preference import check_preference
from keras_ft.catalog.preprocessing import ImageSize
from keras_ft.config.recipe import Recipe, resolve
from keras_ft.config.settings import Config
from keras_ft.data.dataset import load_dataset, log_splits, make_splits
from keras_ft.data.examples import Dataset
from keras_ft.data.pixel_limit import pixel_limit
from keras_ft.host import jpeg_lines, onednn, user_code
from keras_ft.host.startup import import_tensorflow
from keras_ft.host.timer import Timer
from keras_ft.kinds.task import Task
from keras_ft.runs.lock import locked
from keras_ft.runs.paths import RunPaths
from keras_ft.runs.record import RunRecord, package_versions
from keras_ft.runs.run import Run
from keras_ft.runs.run_metrics import RunMetrics, read_metrics
from keras_ft.runs.same_images import check_same_images
from keras_ft.runs.seen import warn_of_seen
from keras_ft.runs.user_sources import hash_sources, import_sources
from keras_ft.runs.workdir import (
    RESTORE,
    begin_or_resume,
    check_finished,
    finish,
    open_run,
    remove_leftovers,
)
from keras_ft.system.team import Team
from keras_ft.system.workers import choose_workers

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from keras_ft.catalog.backbones import Weights
    from keras_ft.training.phase_result import PhaseResult

log = logging.getLogger("keras_ft")

_REMOVED = "Removed %.1f MB from %s, which only an unfinished run needs."


def train(
    config: Config, callbacks: "Sequence[keras.callbacks.Callback]" = ()
) -> RunMetrics:
    """Trains, selects, evaluates and exports a classifier in the workdir.

    An unfinished run is resumed: what it decided or finished is recalled where a new
    one would decide or compute it. A finished one is not repeated. With several
    workers, all of them train, and the chief alone finishes the run.

    Args:
        config: The requested run.
        callbacks: Keras callbacks, added to those of the program in both phases. They
            are no part of what the run records.

    Returns:
        The content of metrics.json.

    Raises:
        UserError: Flags, data, weights or the workdir can't be used, or training
            diverged.
        Exception: What the user's own code raises, with a note that names the flag.
    """
    recipe, paths = resolve(config), RunPaths(config.run.workdir)
    team = Team(
        choose_workers(recipe.speed.strategy, recipe.data.batch_size, recipe.speed.jit)
    )
    with (
        pixel_limit(config.data.max_megapixels),
        team.chief_only(locked(paths.folder)),
        team.ending_together(),
        user_code.noting(),
    ):
        record = open_run(recipe.config, team)
        if record.state == "finished":
            if team.is_chief:
                check_finished(recipe.config)
                if num_bytes := remove_leftovers(paths):  # killed at its very end
                    log.info(_REMOVED, num_bytes / 1e6, paths.folder)
            log.info("%s contains this run, finished.", paths.folder)
            return read_metrics(paths)
        is_resumed = record.state == "running"
        run, dataset, classifier = begin(recipe, paths, record, team, callbacks)
        if is_resumed:
            log.info("Resumes the unfinished run in %s.", paths.folder)
        team = run.compute.team
        from keras_ft.training.failures import explained_errors
        from keras_ft.training.phases import fine_tune

        with jpeg_lines.caught(), explained_errors(run.recipe, dataset.examples):
            results = fine_tune(run, dataset.examples, classifier)
            if team.is_chief:
                _finish(run, dataset, classifier, results)
        team.disband()
        team.wait_for(paths.metrics)
        return read_metrics(paths)


def begin(
    recipe: Recipe,
    paths: RunPaths,
    record: RunRecord,
    team: Team,
    callbacks: "Sequence[keras.callbacks.Callback]",
) -> tuple[Run, Dataset, "keras.Model"]:
    """Loads the data, decides what is `auto`, builds the classifier, makes the workdir.

    Mistakes in flags and data end it before TensorFlow is imported: that takes seconds.
    """
    timer = Timer()
    recipe = record.recall_image_size(recipe)
    if record.state == "new":
        check_preference(recipe.model.backbone, recipe.model.weights)
        check_installed(recipe.export.export_formats)
    with timer.measure("data"):
        team = team.connect(record.onednn)
        with team.chief_first():
            dataset = _load_data(recipe, paths, record)
    with timer.measure("start-up"):
        import_tensorflow(record.onednn)
        from keras_ft.audit.audit import audit_before_training
        from keras_ft.audit.findings import warn_of_leaks
        from keras_ft.models.classifier import get_backbone
        from keras_ft.system.devices import Compute, choose_precision
        from keras_ft.training.losses import log_imbalance, make_losses
        from keras_ft.training.user_callbacks import load_callbacks

        strategy = _choose_strategy(recipe, record, team)
    import_sources(recipe.config)
    record.decide("sources", lambda: hash_sources(recipe.config))
    with timer.measure("audit"), team.chief_first():
        dataset = audit_before_training(dataset, recipe.data, recipe.run.seed)
    examples = dataset.examples
    log_splits(examples)
    log_imbalance(examples.train, recipe.train.imbalance)
    # What can't be used ends the run here, before it has made its workdir.
    make_losses(examples.train, recipe.train.imbalance, recipe.train.loss)
    callbacks = load_callbacks(callbacks, recipe.selection.callbacks)
    with timer.measure("model"), strategy.scope():  # in float32
        classifier, weights, size = _make_classifier(recipe, record, examples.tasks)
    precision = record.decide(
        "precision",
        lambda: choose_precision(recipe.speed.precision, get_backbone(classifier)),
    )
    compute = Compute(strategy, precision, team)
    recipe = recipe.with_image_size(size)
    warnings = [
        *warn_of_leaks(examples, dataset.findings),
        *warn_of_seen(dataset, weights, Path(recipe.data.cache_dir)),
    ]
    for warning in warnings:
        log.warning("%s", warning)
    phases = recipe.make_phases(len(examples.train))
    record.decide("epochs", lambda: {phase.name: phase.epochs for phase in phases})
    run = Run(recipe, paths, record, compute, phases, timer, callbacks, warnings)
    begin_or_resume(run, dataset)
    return run, dataset, classifier


def _load_data(recipe: Recipe, paths: RunPaths, record: RunRecord) -> Dataset:
    """Reads the data; mistakes, and images that have changed, end the run here."""
    if recipe.data.data.startswith("tfds:"):  # TFDS would import it
        import_tensorflow(record.onednn)
    dataset = load_dataset(recipe.data)
    if record.state != "new":
        check_same_images(paths.splits, dataset, RESTORE)
    make_splits(dataset, recipe.data, recipe.run.seed)
    return dataset


def _choose_strategy(
    recipe: Recipe, record: RunRecord, team: Team
) -> "tf.distribute.Strategy":
    """Decides how devices are used; the first that uses one."""
    import tensorflow as tf

    from keras_ft.system import devices

    speed = recipe.speed
    strategy = devices.make_strategy(speed.strategy, recipe.data.batch_size, team)
    devices.warn_of_unused_gpu()
    onednn.log_state(record.onednn)
    record.decide("onednn", onednn.is_on)
    record.decide("packages", package_versions)
    physical = tf.config.list_physical_devices()
    record.decide("devices", lambda: tuple(device.name for device in physical))
    return strategy


def _make_classifier(
    recipe: Recipe, record: RunRecord, tasks: Sequence[Task]
) -> "tuple[keras.Model, Weights, ImageSize]":
    """Loads the pretrained network and gives it heads.

    Returns:
        The classifier; the weights that it has, as recorded; the size of its images.
    """
    from keras_ft.models.classifier import make_classifier
    from keras_ft.models.trained_heads import copy_heads
    from keras_ft.models.weights import load_start
    from keras_ft.system import devices

    devices.set_seed(recipe.run.seed, recipe.run.deterministic)
    start = load_start(
        recipe.model.backbone,
        recipe.data.image_size,
        record.weights_to_try(recipe.model.weights),
    )
    # Again: weights that could not be used have drawn from the generator, too.
    devices.set_seed(recipe.run.seed, recipe.run.deterministic)
    classifier = make_classifier(start.backbone, tasks, recipe.model.dropout)
    copy_heads(start.heads, classifier, tasks)
    weights = record.check_weights(start.weights)
    size = ImageSize(*start.backbone.input_shape[1:3])
    if recipe.data.image_size is None:
        log.info("Image size: %s, that of weights: %s.", size, weights.used)
    record.decide("image_size", lambda: str(size))
    return classifier, weights, size


def _finish(
    run: Run,
    dataset: Dataset,
    classifier: "keras.Model",
    results: "Sequence[PhaseResult]",
) -> None:
    """Evaluates, exports and reports the better model."""
    from keras_ft.report.model_card import write_model_card
    from keras_ft.serving.exports import export_run
    from keras_ft.training.best import calibrate_model, select_best
    from keras_ft.training.results import compute_metrics

    timer = run.timer
    for result in results:
        timer.add("features", result.features_seconds)
        timer.add(result.name, result.seconds - result.features_seconds)
    best = select_best(results)
    metrics = compute_metrics(run, dataset, results, best)
    model = calibrate_model(classifier, best)
    with timer.measure("export"):
        exported = export_run(run, dataset.examples, model, best.calibrated, metrics)
        metrics |= exported
    metrics["seconds"] = timer.with_total()
    with timer.measure("report"):
        if run.recipe.export.report:
            from keras_ft.report.run_page import write_report

            write_report(run, dataset, metrics, best.calibrated, model)
        else:  # a process that this one resumes may have written that of an epoch
            run.paths.report.unlink(missing_ok=True)
        if metrics["exports"]:
            write_model_card(run.paths, run.recipe, metrics, run.record)
    metrics["seconds"] = timer.with_total()
    finish(run, metrics)
    remove_leftovers(run.paths)
