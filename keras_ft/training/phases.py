"""Fine-tuning: freeze, fit, unfreeze, fit, keep the second unless it is worse.

Phase `head` trains a new head on the frozen backbone, phase `finetune` trains the
backbone, or the stages asked for, too. A phase is one `compile` and one `fit`.
"""

from collections.abc import Sequence

import keras

from keras_ft.config.recipe import Phase
from keras_ft.data.examples import Examples
from keras_ft.evaluation.monitor import MONITORS
from keras_ft.host.timer import Timer
from keras_ft.models.classifier import get_backbone, set_trainable
from keras_ft.runs.run import Run
from keras_ft.system.devices import set_seed
from keras_ft.system.distribution import make_model_to_fit
from keras_ft.training.averaging import average_epochs
from keras_ft.training.best import (
    fall_back,
    judge,
    keep,
    recall,
    restore_best,
    select_best,
)
from keras_ft.training.callbacks import Validate, make_writers
from keras_ft.training.checkpoint import Checkpoints
from keras_ft.training.early_stopping import Diverged, EarlyStopping
from keras_ft.training.head_start import shrink_heads
from keras_ft.training.losses import make_losses
from keras_ft.training.optimizer import make_optimizer
from keras_ft.training.phase_result import PhaseResult, calibrate
from keras_ft.training.solved_head import solve_head
from keras_ft.training.trained_part import TrainedPart
from keras_ft.training.validation import compute_val_logs, make_metrics


def fine_tune(
    run: Run, examples: Examples, classifier: keras.Model
) -> list[PhaseResult]:
    """Trains the phases in order, each from the model of the one before.

    Args:
        run: Of a resumed run, phases that have finished are recalled, not repeated. Its
            model.keras is always the best model so far.
        examples: The examples in their splits.
        classifier: Float32 model of `make_classifier`. It is trained in place, and ends
            with the weights of the better phase.

    Returns:
        The result of each phase.
    """
    results: list[PhaseResult] = []
    for phase in run.phases:  # head, which trains no stage of the backbone; finetune
        result = recall(run, phase, results, examples, classifier)
        if result is None:
            try:
                with run.compute.scope():
                    if results:
                        shrink_heads(run.recipe, phase, examples, classifier)
                    result = train_phase(run, phase, results, examples, classifier)
            except Diverged as error:
                return fall_back(run, results, classifier, error)
            result = judge(run, result, results, examples)
            keep(run, result, classifier)
        results.append(result)
    restore_best(run, results, classifier)
    return results


def train_phase(
    run: Run,
    phase: Phase,
    earlier: Sequence[PhaseResult],
    examples: Examples,
    classifier: keras.Model,
) -> PhaseResult:
    """Trains the head and a phase's stages; the classifier gets the best epoch.

    What an epoch has to beat is the best of the earlier phases, if there are any.
    """
    recipe, timer = run.recipe, Timer()
    to_beat = select_best(earlier).monitored if earlier else None
    with timer.measure("phase"):
        set_seed(recipe.run.seed, recipe.run.deterministic)
        batch_norm = recipe.model.batch_norm
        set_trainable(get_backbone(classifier), phase.stages, batch_norm)
        # What is fitted is not the classifier, but what follows its frozen part.
        part = TrainedPart(recipe, phase, examples, classifier)
        model = make_model_to_fit(part.network)
        losses = make_losses(examples.train, recipe.train.imbalance, recipe.train.loss)
        model.compile(
            optimizer=make_optimizer(recipe.train, phase, part.steps),
            loss=losses,
            loss_weights=part.task_weights,
            metrics=make_metrics(examples.tasks),
            jit_compile=recipe.speed.jit == "on",
        )
        num_kept = recipe.train.average_epochs if phase.stages else 1
        stopping = EarlyStopping(phase, recipe.selection, to_beat, num_kept)
        with Checkpoints(run.paths.checkpoints, phase.name, stopping) as checkpoints:
            first_epoch = checkpoints.restore(model)
            model.fit(
                part.training_batches(first_epoch),
                epochs=phase.epochs,
                initial_epoch=first_epoch,
                steps_per_epoch=part.steps,
                callbacks=[
                    Validate(part, phase.name, checkpoints.epoch),
                    stopping,
                    *make_writers(run, phase, first_epoch),
                    *run.callbacks,  # the user's
                    checkpoints,  # last: they record whether training was stopped
                ],
                verbose=0,  # the writers show it
                shuffle=False,  # the dataset is in the order of training
            )
        monitor = MONITORS[recipe.selection.monitor]
        best, epochs = average_epochs(model, stopping.kept, part.measure_val, monitor)
        of_epochs = best
        if recipe.train.solve_head and not phase.stages:
            best = solve_head(part, losses, monitor, to_beat=of_epochs)
        part.write_back(classifier)
        probabilities = part.predict()  # in float32, which epochs may not be
        logs = compute_val_logs(examples.val, probabilities["val"], part.task_weights)
    return PhaseResult(
        phase.name,
        epoch=stopping.best_epoch + 1,
        epochs=checkpoints.epoch,
        averaged=epochs,
        seconds=checkpoints.seconds + timer.seconds["phase"],
        features_seconds=part.features_seconds,
        monitored=logs[monitor.name],
        solved=best != of_epochs,
        probabilities=probabilities,
        calibrated=calibrate(examples.val, probabilities),
        diverged=stopping.diverged,
    )
