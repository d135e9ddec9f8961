"""One phase: split the network and fit its trainable part."""

import logging
from collections.abc import Iterator, Mapping, Sequence

import keras

from keras_ft.config.config import Config
from keras_ft.config.phases import Phase
from keras_ft.data.examples import Examples
from keras_ft.host.timer import Timer
from keras_ft.images.pipeline import (
    FeatureReader,
    Reader,
    count_batches,
    even_number,
    make_dataset,
    make_inputs,
    make_training_dataset,
)
from keras_ft.models.classifier import Parts
from keras_ft.models.heads import predict_probabilities
from keras_ft.runs.paths import RunPaths
from keras_ft.system import devices
from keras_ft.system.agreement import check_same
from keras_ft.system.collectives import current_workers, gather
from keras_ft.training.callbacks import COMMON, EarlyStopping, make_callbacks
from keras_ft.training.checkpoint import Checkpoint, CheckpointWriter, load_checkpoint
from keras_ft.training.inputs import (
    freeze_and_split,
    make_readers,
    split_in_float32,
)
from keras_ft.training.learner import Learner, make_learner
from keras_ft.training.phase_result import PhaseResult, Probabilities

log = logging.getLogger("keras_ft")


def train_phase(
    config: Config,
    phase: Phase,
    examples: Examples,
    classifier: keras.Model,
    paths: RunPaths,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> PhaseResult:
    """Trains one phase, or what is left of it, up to its best epoch.

    Args:
        config: The config of the run.
        phase: The phase.
        examples: The examples in their splits.
        classifier: Float32 model of `make_classifier`; gets the best epoch's weights.
        paths: The files of the workdir.
        callbacks: The user's, after those of the phase.
    """
    timer = Timer()
    with timer.measure("phase"):
        # A phase must not depend on whether the one before ran in this process.
        devices.set_seed(config.run.seed, config.run.deterministic)
        parts, exact, made = _prepare(config, phase, examples, classifier)
        with timer.measure("features"):
            readers = {name: next(made) for name in ("train", "val")}
        network = _join(parts, readers["train"])
        saved = load_checkpoint(paths.checkpoints, phase.name)
        check_same({f"checkpoint of phase {phase.name}": saved.epoch if saved else 0})
        with CheckpointWriter(paths.checkpoints, phase.name) as writer:
            ours = make_callbacks(phase, config.selection, paths, saved, writer)
            if not current_workers().is_chief:
                ours = [c for c in ours if isinstance(c, COMMON)]
            callbacks = [*ours, *callbacks]
            has_frozen = parts.frozen is not None
            stopping, epochs = _fit(
                config, phase, examples, readers, network, callbacks, saved, has_frozen
            )
            parts.write_back(classifier)
            if phase.stages:  # once more, with the trained weights
                exact = split_in_float32(
                    config, examples.tasks, phase.stages, classifier, parts
                )
            predictor = network if exact is parts else _join(exact, readers["val"])
            probabilities = {"val": _predict(predictor, examples.val, readers["val"])}
            with timer.measure("features"):
                test = next(made)
            if type(test) is not type(readers["val"]):  # no room for its features
                predictor = _join(exact, test)
            probabilities["test"] = _predict(predictor, examples.test, test)
    return PhaseResult(
        name=phase.name,
        epoch=stopping.best_epoch + 1,
        epochs=epochs,
        seconds=timer.seconds["phase"] + (saved.state["seconds"] if saved else 0),
        features_seconds=timer.seconds["features"],
        monitored=float(stopping.best),
        probabilities=probabilities,
    )


def _prepare(
    config: Config, phase: Phase, examples: Examples, classifier: keras.Model
) -> tuple[Parts, Parts, Iterator[Reader]]:
    """Splits the network, to train it and in float32; makes the readers."""
    tasks, stages = examples.tasks, phase.stages
    parts = freeze_and_split(config, tasks, stages, classifier)
    _log_phase(config, phase, parts)
    exact = parts
    if parts.frozen is not None:
        exact = split_in_float32(config, tasks, stages, classifier, parts)
    return parts, exact, make_readers(config, stages, examples, parts, exact)


def _join(parts: Parts, reader: Reader) -> keras.Model:
    """The network from what a reader reads to logits by task."""
    return parts.trainable if isinstance(reader, FeatureReader) else parts.join()


def _fit(
    config: Config,
    phase: Phase,
    examples: Examples,
    readers: Mapping[str, Reader],
    network: keras.Model,
    callbacks: Sequence[keras.callbacks.Callback],
    saved: Checkpoint | None,
    has_frozen: bool,
) -> tuple[EarlyStopping, int]:
    """Fits a network and restores its best epoch.

    Args:
        saved: The checkpoint to resume from.
        has_frozen: Whether there is a frozen part. It sees `feature_views` views of the
            images, in turn by epoch, and never mixed images, so that its features can
            be cached. Without one, each epoch has a view of its own.

    Returns:
        The early stopping, and the number of epochs that were trained.
    """
    steps = config.steps_per_epoch(even_number(len(examples.train)))
    learner = make_learner(config, phase, examples, network, steps)
    first_epoch = _restore(learner, phase, saved)
    views = config.speed.feature_views if has_frozen else None
    train = make_training_dataset(
        readers["train"],
        examples.train,
        seed=config.run.seed,
        steps=steps,
        epochs=phase.epochs,
        first_epoch=first_epoch,
        view_of_epoch=lambda epoch: epoch % views if views else epoch + 1,
        label_smoothing=config.train.label_smoothing,
        mix="none" if has_frozen else config.data.mix,
    )
    history = learner.fit(
        train,
        validation_data=make_dataset(readers["val"], examples.val),
        # Keras can't tell how many they are with several workers.
        validation_steps=count_batches(readers["val"], len(examples.val)),
        initial_epoch=first_epoch,
        epochs=phase.epochs,
        steps_per_epoch=steps,
        callbacks=list(callbacks),
        verbose="auto" if current_workers().is_chief else 0,
        shuffle=False,  # the dataset is in the order of training
    )
    [stopping] = (c for c in callbacks if isinstance(c, EarlyStopping))
    return stopping, len(history.epoch) + (saved.epoch if saved else 0)


def _restore(learner: Learner, phase: Phase, saved: Checkpoint | None) -> int:
    """Restores a checkpoint; returns the epoch to begin with, from 0."""
    if saved is None:
        return 0
    metrics = {id(variable) for variable in learner.metrics_variables}
    for name, variables in (
        ("model", learner.variables),
        ("optimizer", learner.optimizer.variables),
    ):
        for variable, value in zip(variables, saved.arrays[name], strict=True):
            if id(variable) not in metrics:  # an epoch resets them
                variable.assign(value)
    log.info("Phase %s resumes after epoch %d.", phase.name, saved.epoch)
    has_stopped = saved.state["stopped"] and saved.state["epochs"] == phase.epochs
    return phase.epochs if has_stopped else saved.epoch


def _predict(network: keras.Model, split: Examples, reader: Reader) -> Probabilities:
    """Probabilities of all examples of a split; each worker computes its share.

    Args:
        network: In float32, as the saved model is.
        split: The examples.
        reader: Reads them.
    """
    count, workers = len(split), current_workers()
    if workers.count == 1:
        inputs = make_inputs(reader, count)
        return predict_probabilities(network, split.tasks, inputs, count)
    # Whole batches: how a row is rounded depends on the size of its batch.
    rows = workers.share(count, reader.batch_size)
    inputs = make_inputs(reader, count, rows=rows)
    shares = predict_probabilities(network, split.tasks, inputs, len(rows))
    return {task: gather(share) for task, share in shares.items()}


def _log_phase(config: Config, phase: Phase, parts: Parts) -> None:
    num_weights = sum(keras.ops.size(v) for v in parts.trainable.trainable_variables)
    batch_norm = config.model.resolved_batch_norm
    stages = f" and {', '.join(phase.stages)} (BatchNorm {batch_norm})"
    log.info(
        "Phase %s: at most %d epochs, learning rate %g; trains the head%s, %s weights.",
        phase.name,
        phase.epochs,
        phase.learning_rate,
        stages if phase.stages else "",
        f"{num_weights:,}",
    )
    if parts.frozen is not None and config.data.mix != "none":
        log.info(
            "--mix=%s does not apply to phase %s: it has a frozen part, whose features "
            "are those of single images.",
            config.data.mix,
            phase.name,
        )
