"""One phase: split the network and fit its trainable part."""

import dataclasses
import logging
import time

import keras
import numpy as np

from keras_ft.config.config import Config
from keras_ft.config.phases import Phase
from keras_ft.data.examples import Examples
from keras_ft.images.pipeline import (
    FeatureReader,
    Reader,
    even_number,
    make_dataset,
    make_inputs,
    make_training_dataset,
)
from keras_ft.models.classifier import predict_probabilities
from keras_ft.runs.paths import RunPaths
from keras_ft.system import devices
from keras_ft.system.timer import Timer
from keras_ft.training.callbacks import EarlyStopping, make_callbacks
from keras_ft.training.checkpoint import (
    DAMAGED,
    Checkpoint,
    load_arrays,
    load_checkpoint,
    write_arrays,
)
from keras_ft.training.losses import Learner, make_training_loss
from keras_ft.training.optimizer import make_optimizer
from keras_ft.training.readers import freeze_and_split, make_image_readers, make_readers

log = logging.getLogger("keras_ft")


@dataclasses.dataclass(frozen=True)
class PhaseResult:
    """A phase's best epoch.

    Attributes:
        name: `head` or `finetune`.
        epoch: The best epoch, from 1.
        epochs: Epochs that ran.
        seconds: Duration, the predictions for val and test included.
        features_seconds: Part of it spent on computing or finding features.
        monitored: Best value of `--monitor`.
        probabilities: float32 [N, K] of that epoch's model in float32, by split: val
            and test.
    """

    name: str
    epoch: int
    epochs: int
    seconds: float
    features_seconds: float
    monitored: float
    probabilities: dict[str, np.ndarray]


def write_result(paths: RunPaths, result: PhaseResult) -> None:
    """Keeps the result of a finished phase in a workdir."""
    state = dataclasses.asdict(result)
    arrays = state.pop("probabilities")
    write_arrays(paths.checkpoints / f"{result.name}.npz", arrays, state)


def load_result(paths: RunPaths, phase: Phase) -> PhaseResult | None:
    """What `write_result` kept, or None if the phase has not finished or is damaged."""
    path = paths.checkpoints / f"{phase.name}.npz"
    if not path.exists():
        return None
    try:
        arrays, state = load_arrays(path)
    except DAMAGED as error:
        log.warning("%s is damaged (%s): phase %s repeats.", path, error, phase.name)
        return None
    return PhaseResult(probabilities=arrays, **state)


def train_phase(
    config: Config,
    phase: Phase,
    examples: Examples,
    classifier: keras.Model,
    paths: RunPaths,
) -> PhaseResult:
    """Trains one phase and leaves the classifier at its best epoch.

    Args:
        config: What is asked for.
        phase: The phase.
        examples: The examples.
        classifier: Float32 model of `make_classifier`.
        paths: The files of the workdir.
    """
    start = time.perf_counter()
    # What a phase draws must not depend on whether the one before ran here.
    devices.set_seed(config.run.seed, config.run.deterministic)
    parts = freeze_and_split(config, phase.stages, classifier)
    _log_phase(phase, config.model.resolved_batch_norm, parts.trainable)
    timer = Timer()
    with timer.measure("features"):
        readers = make_readers(config, phase.stages, examples, parts)
    cached = isinstance(readers["train"], FeatureReader)
    network = parts.trainable if cached else parts.join()
    saved = load_checkpoint(paths.checkpoints, phase.name)
    epochs, stopping = _fit(
        config,
        phase,
        examples,
        readers,
        network,
        paths,
        parts.frozen is not None,
        saved,
    )
    parts.write_back(classifier)
    if keras.config.dtype_policy().name != "float32":
        # The model that is saved computes in float32, and so do its predictions.
        network, readers = classifier, make_image_readers(config, examples)
    probabilities = {
        name: predict_probabilities(network, make_inputs(readers[name], n), n)
        for name, n in (("val", len(examples.val)), ("test", len(examples.test)))
    }
    return PhaseResult(
        name=phase.name,
        epoch=stopping.best_epoch + 1,
        epochs=epochs,
        seconds=time.perf_counter() - start + (saved.state["seconds"] if saved else 0),
        features_seconds=timer.seconds["features"],
        monitored=float(stopping.best),
        probabilities=probabilities,
    )


def _fit(
    config: Config,
    phase: Phase,
    examples: Examples,
    readers: dict[str, Reader],
    network: keras.Model,
    paths: RunPaths,
    frozen_prefix: bool,
    saved: Checkpoint | None,
) -> tuple[int, EarlyStopping]:
    """Leaves the network at its best epoch; returns how many there were."""
    num_classes = len(examples.class_names)
    views = config.speed.feature_views
    steps = config.steps_per_epoch(even_number(len(examples.train)))
    learner = _make_learner(config, phase, examples, network, steps)
    first_epoch = _continue(learner, phase, saved)
    train = make_training_dataset(
        readers["train"],
        examples.train.labels,
        num_classes,
        seed=config.run.seed,
        steps=steps,
        epochs=phase.epochs,
        first_epoch=first_epoch,
        # What is computed once has few views; else each epoch sees another.
        view_of_epoch=lambda epoch: epoch % views if frozen_prefix else epoch + 1,
        label_smoothing=config.train.label_smoothing,
    )
    callbacks = make_callbacks(phase, config.selection, paths, saved)
    history = learner.fit(
        train,
        validation_data=make_dataset(readers["val"], examples.val.labels, num_classes),
        initial_epoch=first_epoch,
        epochs=phase.epochs,
        steps_per_epoch=steps,
        callbacks=callbacks,
        shuffle=False,  # the dataset has the order
    )
    network.jit_compile = learner.jit_compile  # it will predict
    [stopping] = (c for c in callbacks if isinstance(c, EarlyStopping))
    return len(history.epoch) + (saved.epoch if saved else 0), stopping


def _continue(learner: Learner, phase: Phase, saved: Checkpoint | None) -> int:
    """Puts a learner where a checkpoint was; returns the epoch to go on with."""
    if saved is None:
        return 0
    for name, variables in (
        ("model", learner.variables),
        ("optimizer", learner.optimizer.variables),
    ):
        for variable, value in zip(variables, saved.arrays[name], strict=True):
            variable.assign(value)
    log.info("Phase %s resumes after epoch %d.", phase.name, saved.epoch)
    has_stopped = saved.state["stopped"] and saved.state["epochs"] == phase.epochs
    return phase.epochs if has_stopped else saved.epoch


def _make_learner(
    config: Config, phase: Phase, examples: Examples, network: keras.Model, steps: int
) -> Learner:
    """Compiles the network for training; `steps` are those of an epoch."""
    counts = np.bincount(examples.train.labels, minlength=len(examples.class_names))
    learner = Learner(network, make_training_loss(config.train.imbalance, counts))
    learner.compile(
        optimizer=make_optimizer(config.train, phase, steps),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile={"auto": "auto", "on": True, "off": False}[config.speed.jit],
    )
    # Else its variables are made in the first step, which then is traced twice.
    learner.optimizer.build(learner.trainable_variables)
    _reset_seeds(learner, config.run.seed)
    return learner


def _reset_seeds(network: keras.Model, seed: int) -> None:
    """Puts the random generators of a network, those of dropout, at their beginning.

    Phases share layers, so that a generator would go on where the phase before left
    it; and a phase that is not repeated leaves it nowhere.
    """
    weights = {id(weight) for weight in network.weights}
    states = [state for state in network.variables if id(state) not in weights]
    for i, state in enumerate(states):
        state.assign([seed + i, 0])  # a seed, and how often it was drawn from


def _log_phase(phase: Phase, batch_norm: str, network: keras.Model) -> None:
    learning = sum(keras.ops.size(v) for v in network.trainable_variables)
    log.info(
        "Phase %s: at most %d epochs, learning rate %g; trains the head%s, %s weights.",
        phase.name,
        phase.epochs,
        phase.learning_rate,
        f" and {', '.join(phase.stages)} (BatchNorm {batch_norm})"
        if phase.stages
        else "",
        f"{learning:,}",
    )
