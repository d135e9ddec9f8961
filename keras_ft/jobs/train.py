"""`--mode=train`, the main job: from images to a classifier that serves."""

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from keras_ft.catalog.preference import check_preference
from keras_ft.config.config import Config
from keras_ft.config.worker_rules import choose_workers
from keras_ft.data.dataset import (
    check_trainable,
    load_dataset,
    log_splits,
    make_splits,
)
from keras_ft.data.examples import Dataset
from keras_ft.host import user_code
from keras_ft.host.onednn import Choice
from keras_ft.host.startup import import_tensorflow
from keras_ft.host.timer import Timer
from keras_ft.runs import workdir
from keras_ft.runs.find_model import warn_of_seen
from keras_ft.runs.lock import locked
from keras_ft.runs.record import RunRecord
from keras_ft.runs.run_metrics import RunMetrics
from keras_ft.runs.user_sources import hash_sources
from keras_ft.system.collectives import chief_first, ending_together, part
from keras_ft.system.devices import make_strategy
from keras_ft.system.workers import Workers
from keras_ft.tasks import is_plain

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

log = logging.getLogger("keras_ft")


def train(
    config: Config, callbacks: Sequence["keras.callbacks.Callback"] = ()
) -> RunMetrics:
    """Trains, selects, evaluates and exports a classifier in the workdir.

    An unfinished run is resumed, a finished one is not repeated.

    Args:
        config: The requested run.
        callbacks: Keras callbacks, which both phases call after their own.

    Returns:
        The content of metrics.json.

    Raises:
        UserError: Flags, data, weights or the workdir can't be used, or training
            diverged.
        Exception: What the user's own code raises, with a note that names the flag.
    """
    workers = choose_workers(config)
    folder = Path(config.run.workdir)
    with locked(folder) if workers.is_chief else contextlib.nullcontext():
        metrics = workdir.load_finished(config, workers.is_chief)
        if metrics is None:
            with ending_together(workers), user_code.noting():
                return _train(config, workers, callbacks)
        log.info("%s contains this run, finished.", config.run.workdir)
        return metrics


def _train(
    config: Config, workers: Workers, callbacks: Sequence["keras.callbacks.Callback"]
) -> RunMetrics:
    """The story; steps that take long load what an unfinished run has done.

    With several workers, all live it up to the last phase, and the chief alone writes.
    """
    timer = Timer()
    unfinished = workdir.load_unfinished(config)
    if not unfinished:
        check_preference(config.model.backbone, config.model.weights)
    dataset, strategy = _load_and_start(config, workers, unfinished, timer)
    from keras_ft.jobs import task_results, train_results, train_workers
    from keras_ft.jobs import train_steps as steps
    from keras_ft.training.user_callbacks import load_callbacks

    hash_sources(config)
    callbacks = load_callbacks(callbacks, config.selection.callbacks)
    with timer.measure("audit"):
        with chief_first(strategy):
            dataset = steps.decode_images(dataset, config.data)
        examples = make_splits(dataset, config.data, config.run.seed)
        log_splits(examples)
        findings = steps.find_problems(config, examples, dataset)
    compute = steps.choose_compute(config, strategy, workers, unfinished)
    with timer.measure("model"):
        classifier, weights = steps.make_model(config, examples, compute, unfinished)
    warn_of_seen(examples, weights)
    phases = config.make_phases(len(examples.train))
    record = steps.make_record(weights, phases, compute, unfinished)
    paths = train_workers.begin(config, examples, findings, record, unfinished, compute)
    with steps.explained_errors(config, examples):
        results = steps.run_phases(
            config, phases, examples, classifier, compute, paths, timer, callbacks
        )
        if not workers.is_chief:
            return train_workers.wait_for_chief(paths, compute)
        best = steps.select_best(results, config.selection.monitor)
        calibrated = task_results.calibrate_tasks(examples, best)
        metrics = train_results.compute_metrics(
            config, examples, findings, weights, results, best, calibrated
        )
        with timer.measure("export"):
            model = train_results.load_best(
                paths, classifier, best is results[-1], calibrated
            )
            metrics |= train_results.export(
                config, examples, model, paths, calibrated, metrics
            )
        metrics["seconds"] = timer.with_total()
        with timer.measure("report"):
            train_results.report(
                config, paths, record, metrics, examples, findings, model, calibrated
            )
        metrics["seconds"] = timer.with_total()
    steps.finish(paths, metrics, phases)
    part(strategy)
    return metrics


def _load_and_start(
    config: Config, workers: Workers, unfinished: RunRecord | None, timer: Timer
) -> tuple[Dataset, "tf.distribute.Strategy"]:
    """Loads the data set, which needs no TensorFlow, and then starts TensorFlow.

    TensorFlow comes first if TFDS would import it, and with several workers: once they
    are connected, one that can't load the data ends the others.
    """

    def start() -> "tf.distribute.Strategy":
        use_onednn: Choice = unfinished.onednn if unfinished else "auto"
        with timer.measure("start-up"):
            import_tensorflow(use_onednn)
            batch_size = config.data.batch_size
            return make_strategy(config.speed.strategy, batch_size, workers)

    is_first = config.data.data.startswith("tfds:") or workers.count > 1
    strategy = start() if is_first else None
    with timer.measure("data"):
        with chief_first(strategy) if strategy else contextlib.nullcontext():
            dataset = load_dataset(config.data)
        check_trainable(dataset, config.data)
        if not is_plain(dataset.examples.tasks):
            # Finds tasks with too few labels for each split to have one.
            make_splits(dataset, config.data, config.run.seed)
    return dataset, strategy or start()
