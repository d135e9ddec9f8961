"""`--mode=train`, the main job: from images to a classifier that serves."""

import logging
from pathlib import Path

from keras_ft.config.config import Config
from keras_ft.data.dataset import (
    check_trainable,
    load_dataset,
    log_splits,
    make_splits,
)
from keras_ft.data.examples import Dataset
from keras_ft.models.preference import check_preference
from keras_ft.runs import workdir
from keras_ft.runs.lock import locked
from keras_ft.runs.metrics import RunMetrics
from keras_ft.runs.models import warn_of_seen
from keras_ft.runs.record import RunRecord
from keras_ft.system.onednn import Choice
from keras_ft.system.startup import import_tensorflow
from keras_ft.system.timer import Timer
from keras_ft.tasks import is_plain

log = logging.getLogger("keras_ft")


def train(config: Config) -> RunMetrics:
    """Trains, selects, evaluates and exports a classifier in the workdir.

    An unfinished run is resumed, a finished one is not repeated.

    Args:
        config: The requested run.

    Returns:
        The content of metrics.json.

    Raises:
        UserError: Flags, data, weights or the workdir can't be used, or training
            diverged.
    """
    with locked(Path(config.run.workdir)):
        metrics = workdir.load_finished(config)
        if metrics is None:
            return _train(config)
        log.info("%s contains this run, finished.", config.run.workdir)
        return metrics


def _train(config: Config) -> RunMetrics:
    """The story; steps that take long load what an unfinished run has done."""
    timer = Timer()
    unfinished = workdir.load_unfinished(config)
    if not unfinished:
        check_preference(config.model.backbone, config.model.weights)
    dataset = _load_and_start(config, unfinished, timer)
    from keras_ft.jobs import task_results, train_results
    from keras_ft.jobs import train_steps as steps

    with timer.measure("audit"):
        dataset = steps.decode_images(dataset, config.data)
        examples = make_splits(dataset, config.data, config.run.seed)
        log_splits(examples)
        findings = steps.find_problems(config, examples, dataset)
    compute = steps.choose_compute(config, unfinished)
    with timer.measure("model"):
        classifier, weights = steps.make_model(config, examples, compute, unfinished)
    warn_of_seen(examples, weights)
    phases = config.make_phases(len(examples.train))
    record = steps.make_record(weights, phases, compute, unfinished)
    paths = workdir.begin_or_resume(config, examples, findings, record, unfinished)
    with steps.explained_errors(config, examples):
        results = steps.run_phases(
            config, phases, examples, classifier, compute, paths, timer
        )
        best = steps.select_best(results, config.selection.monitor)
        calibrated = task_results.calibrate_tasks(examples, best)
        metrics = train_results.compute_metrics(
            config, examples, findings, weights, results, best, calibrated
        )
        with timer.measure("export"):
            model = train_results.load_best(
                paths, classifier, best is results[-1], calibrated
            )
            accuracy = metrics["test"]["accuracy"]
            metrics |= train_results.export(
                config, examples, model, paths, calibrated, accuracy
            )
        metrics["seconds"] = timer.with_total()
        with timer.measure("report"):
            train_results.report(
                config, paths, record, metrics, examples, findings, model, calibrated
            )
        metrics["seconds"] = timer.with_total()
    steps.finish(paths, metrics, phases)
    return metrics


def _load_and_start(
    config: Config, unfinished: RunRecord | None, timer: Timer
) -> Dataset:
    """Loads the data set, which needs no TensorFlow, and then imports TensorFlow."""
    use_onednn: Choice = unfinished.onednn if unfinished else "auto"
    with timer.measure("data"):
        if config.data.data.startswith("tfds:"):
            import_tensorflow(use_onednn)  # before TFDS imports it
        dataset = load_dataset(config.data)
        check_trainable(dataset, config.data)
        if not is_plain(dataset.examples.tasks):
            # Finds tasks with too few labels for each split to have one.
            make_splits(dataset, config.data, config.run.seed)
    with timer.measure("start-up"):
        import_tensorflow(use_onednn)
    return dataset
